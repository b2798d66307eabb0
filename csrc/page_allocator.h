// Which pages of the KV cache are free, and how many streams hold each of the others.
//
// Torch-free and lock-free: it counts, the engine moves the tensors. Order is LIFO: the page freed last is handed out
// first, because its memory is the likeliest to be in cache; a fresh pool hands out 0, 1, 2, ... Same calls, same pages.
//
// Every call checks all its pages before it changes anything, so a call that throws leaves the pool as it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace evostreaming {

using Page = std::int32_t;

class OutOfPagesError : public std::runtime_error {
 public:
  OutOfPagesError(std::size_t free, std::size_t needed)
      : std::runtime_error("out of pages: " + std::to_string(needed) + " needed, " + std::to_string(free) + " free"),
        free(free),
        needed(needed) {}
  const std::size_t free;
  const std::size_t needed;
};

class PageAllocator {
 public:
  explicit PageAllocator(std::int64_t n_pages) {
    if (n_pages < 1 || n_pages > std::numeric_limits<Page>::max())
      throw std::invalid_argument("n_pages is " + std::to_string(n_pages) + "; a pool has 1 to 2147483647 pages");
    references_.assign(static_cast<std::size_t>(n_pages), 0);
    free_.reserve(references_.size());
    for (Page page = static_cast<Page>(n_pages) - 1; page >= 0; --page) free_.push_back(page);
  }

  std::size_t free() const { return free_.size(); }
  std::size_t total() const { return references_.size(); }

  // n pages with one reference each, or OutOfPagesError and none.
  std::vector<Page> allocate(std::int64_t n) {
    if (n < 0) throw std::invalid_argument("cannot allocate " + std::to_string(n) + " pages");
    const auto wanted = static_cast<std::size_t>(n);
    if (wanted > free_.size()) throw OutOfPagesError(free_.size(), wanted);
    const std::vector<Page> pages(free_.rbegin(), free_.rbegin() + n);
    for (const Page page : pages) references_[static_cast<std::size_t>(page)] = 1;
    free_.resize(free_.size() - wanted);
    return pages;
  }

  // One more reference to each; a page given twice gains two. Only a held page can be shared.
  void share(const std::vector<Page>& pages) {
    for (const auto& [page, times] : counted(pages)) {
      if (references_[at(page)] == 0) throw std::invalid_argument("page " + std::to_string(page) + " is free; only a held page can be shared");
      if (references_[at(page)] > std::numeric_limits<std::int32_t>::max() - times)
        throw std::invalid_argument("page " + std::to_string(page) + " is shared too often");
    }
    for (const Page page : pages) ++references_[static_cast<std::size_t>(page)];
  }

  // One reference fewer to each; a page that nobody holds any more is free again.
  void release(const std::vector<Page>& pages) {
    for (const auto& [page, times] : counted(pages)) {
      const std::int32_t held = references_[at(page)];
      if (held < times)
        throw std::invalid_argument("page " + std::to_string(page) + " released " + std::to_string(times) + " times with " +
                                    std::to_string(held) + " references left (double free)");
    }
    for (const Page page : pages)
      if (--references_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
  }

  std::int32_t refcount(std::int64_t page) const { return references_[at(page)]; }

  // Throws std::logic_error when the free list and the counts disagree.
  void check() const {
    std::vector<bool> listed(references_.size(), false);
    for (const Page page : free_) {
      const std::size_t index = at(page);
      if (listed[index]) throw std::logic_error("page " + std::to_string(page) + " is on the free list twice");
      if (references_[index] != 0) throw std::logic_error("page " + std::to_string(page) + " is on the free list and held");
      listed[index] = true;
    }
    for (std::size_t index = 0; index < references_.size(); ++index) {
      if (references_[index] < 0) throw std::logic_error("page " + std::to_string(index) + " has a negative count");
      if (references_[index] == 0 && !listed[index]) throw std::logic_error("page " + std::to_string(index) + " is lost");
    }
  }

 private:
  std::size_t at(std::int64_t page) const {
    if (page < 0 || static_cast<std::size_t>(page) >= references_.size())
      throw std::out_of_range("page " + std::to_string(page) + " is outside the pool of " + std::to_string(references_.size()));
    return static_cast<std::size_t>(page);
  }

  static std::unordered_map<Page, std::int32_t> counted(const std::vector<Page>& pages) {
    std::unordered_map<Page, std::int32_t> times;
    for (const Page page : pages) ++times[page];
    return times;
  }

  std::vector<std::int32_t> references_;
  std::vector<Page> free_;  // a stack: the back goes out first
};

}  // namespace evostreaming
