"""Build of EvoStreaming: the rooms of the house become one package, csrc becomes its compiled modules.

The page allocator (`_pages`) is plain C++ bound with pybind11 and knows no torch, so it builds everywhere in seconds. The ops (`_C` for the
CPU, `_C_cuda` for CUDA) need the torch that they will run with: it is found where the package will be installed, also from the isolated
environment in which pip builds, and without it the engine runs on its plain PyTorch twins. Their ABI is stable from torch 2.11 on.
"""

import platform
import runpy
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import Extension, setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "evostreaming" / "VERSION").read_text().strip()
# Machine code for Hopper; PTX, which the driver compiles at load, for every other GPU since Ampere.
CUDA_TARGETS = ["-gencode=arch=compute_90a,code=sm_90a", "-gencode=arch=compute_80,code=compute_80"]
ROOMS = ["engine", "kernels", "evolve", "eval", "serve", "tiny", "benchmarks"]


def room_packages():
    """Map every folder that holds an `__init__.py` below a room to `evostreaming.<room>...`."""
    mapping = {"evostreaming": "evostreaming"}
    for room in ROOMS:
        for init in sorted((ROOT / room).rglob("__init__.py")):
            folder = init.parent.relative_to(ROOT)
            mapping["evostreaming." + ".".join(folder.parts)] = str(folder)
    return mapping


def find_torch():
    """The folder of the installed torch, or None. It is not imported: an isolated build hides it, and its headers are enough."""
    spec = find_spec("torch")
    folders = [Path(spec.origin).parent] if spec and spec.origin else []
    folders += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    return next((folder for folder in folders if (folder / "include" / "torch" / "csrc" / "stable").is_dir()), None)


def op_extensions():
    """`_C` where torch is installed, and `_C_cuda` where that torch has CUDA and nvcc is there."""
    torch = find_torch()
    if torch is None:
        print("evostreaming: no torch >= 2.11 beside this Python, so the C++ ops are left out; install torch first to build them")
        return []
    shared = {
        "include_dirs": ["csrc"],
        "define_macros": [("TORCH_TARGET_VERSION", "0x020b000000000000ULL")],
        "library_dirs": [str(torch / "lib")],
        "depends": [str(header) for header in sorted(Path("csrc").glob("*.*h"))],
        "py_limited_api": True,
    }
    flags = ["-std=c++17", "-O3", "-isystem", str(torch / "include")]
    # Every x86 processor that runs torch at speed has AVX2 and FMA.
    cpu = [*flags, "-fvisibility=hidden", *(["-march=x86-64-v3"] if platform.machine() in ("x86_64", "AMD64") else [])]
    found = [Extension("evostreaming._C", ["csrc/ops.cpp"], libraries=["torch_cpu"], extra_compile_args=cpu, language="c++", **shared)]
    if runpy.run_path(str(torch / "version.py"))["cuda"] and find_nvcc():
        cuda = [*flags, "-lineinfo", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-DUSE_CUDA", *CUDA_TARGETS]
        libraries = ["torch_cpu", "torch_cuda"]
        found.append(Extension("evostreaming._C_cuda", ["csrc/ops_cuda.cu"], libraries=libraries, extra_compile_args=cuda, **shared))
    return found


def find_nvcc():
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


class Build(build_ext):
    """A `.cu` file is one call of nvcc, which links it too."""

    def build_extension(self, extension):
        if not extension.sources[0].endswith(".cu"):
            return super().build_extension(extension)
        output = Path(self.get_ext_fullpath(extension.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        macros = [f"-D{name}={value}" for name, value in extension.define_macros]
        paths = [f"-I{folder}" for folder in extension.include_dirs] + [f"-L{folder}" for folder in extension.library_dirs]
        libraries = [f"-l{library}" for library in extension.libraries]
        flags = [*macros, *extension.extra_compile_args, *paths]
        self.spawn([find_nvcc(), "-shared", *flags, *extension.sources, *libraries, "-o", str(output)])


packages = room_packages()
setup(
    name="evostreaming",
    version=VERSION,
    description="A frame-by-frame engine that turns any open VideoLLM into a live assistant",
    python_requires=">=3.11",
    packages=sorted(packages),
    package_dir=packages,
    package_data={
        "evostreaming": ["VERSION", "assets/**/*"],
        "evostreaming.benchmarks": ["configs/*.json"],
        "evostreaming.evolve": ["prompts/*.json"],
        "evostreaming.eval.lmms": ["tasks/*"],
    },
    ext_modules=[
        Pybind11Extension("evostreaming._pages", ["csrc/page_allocator_binding.cpp"], include_dirs=["csrc"], cxx_std=17),
        *op_extensions(),
    ],
    cmdclass={"build_ext": Build},
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17",
        "tokenizers>=0.22",
        "safetensors>=0.6",
        "av>=18.1",
        "numpy>=2.0",
        "pillow>=11",
        "typer>=0.20",
        "rich>=14",
        "matplotlib>=3.9",
    ],
    extras_require={
        "evolve": ["peft>=0.19", "accelerate>=1.12"],
        "dali": ["nvidia-dali-cuda130==2.4.*"],
        "ray": ["ray>=2.49"],
        "bench": ["pytest>=9", "pytest-benchmark"],
        "test": ["pytest>=9", "pytest-timeout", "pytest-xdist", "hypothesis", "peft", "accelerate", "triton", "ruff"],
    },
    entry_points={
        "console_scripts": ["evostreaming=evostreaming.cli:main"],
        "lmms_eval.models": ["evostreaming=evostreaming.eval.lmms:manifests"],
    },
)
