// Python face of page_allocator.h: `evostreaming._pages`. Takes lists or integer numpy arrays, gives lists of int.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "page_allocator.h"

namespace py = pybind11;
using evostreaming::OutOfPagesError;
using evostreaming::PageAllocator;

PYBIND11_MODULE(_pages, module) {
  module.doc() = "Free pages and reference counts of the KV cache.";

  // A plain register_exception would lose the two counts, which the engine puts into its own message.
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> error_type;
  error_type.call_once_and_store_result([&]() -> py::object { return py::exception<OutOfPagesError>(module, "OutOfPagesError", PyExc_RuntimeError); });
  py::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const OutOfPagesError& error) {
      const py::object& type = error_type.get_stored();
      py::object instance = type(error.what());
      instance.attr("free") = error.free;
      instance.attr("needed") = error.needed;
      PyErr_SetObject(type.ptr(), instance.ptr());
    }
  });

  py::class_<PageAllocator>(module, "PageAllocator",
                            "Reference-counted pool of `n_pages` page numbers, LIFO: the page freed last goes out first, "
                            "a fresh pool gives 0, 1, 2, ... A call that raises changes nothing.")
      .def(py::init<std::int64_t>(), py::arg("n_pages"))
      .def_property_readonly("free", &PageAllocator::free, "Pages that nobody holds.")
      .def_property_readonly("total", &PageAllocator::total, "Pages in the pool.")
      .def("allocate", &PageAllocator::allocate, py::arg("n"),
           "`n` pages with one reference each; OutOfPagesError (.free, .needed) and none of them when fewer are free.")
      .def("share", &PageAllocator::share, py::arg("pages"), "One more reference to each page; ValueError for a free page.")
      .def("release", &PageAllocator::release, py::arg("pages"),
           "One reference fewer to each page, which is free at zero; ValueError names a page released too often.")
      .def("refcount", &PageAllocator::refcount, py::arg("page"), "References to one page, 0 when free; IndexError outside the pool.")
      .def("check", &PageAllocator::check, "RuntimeError when the free list and the counts disagree.");
}
