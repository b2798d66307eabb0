// The allocator without Python, for the sanitizers: builds a fork tree, exhausts the pool, drives it against a model.
#include "page_allocator.h"

#include <cstdio>
#include <cstdlib>
#include <random>

using evostreaming::OutOfPagesError;
using evostreaming::Page;
using evostreaming::PageAllocator;

// Not assert(): the checks must survive -DNDEBUG.
#define EXPECT(condition)                                                       \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
      std::exit(1);                                                             \
    }                                                                           \
  } while (false)

template <typename Error, typename Call>
bool throws(Call call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

void exhaustion_takes_nothing() {
  PageAllocator pool(4);
  const auto held = pool.allocate(3);
  EXPECT((held == std::vector<Page>{0, 1, 2}));
  try {
    pool.allocate(2);
    EXPECT(false);
  } catch (const OutOfPagesError& error) {
    EXPECT(error.free == 1 && error.needed == 2);
  }
  EXPECT(pool.free() == 1);
  pool.check();
}

void bad_calls_change_nothing() {
  PageAllocator pool(4);
  const auto held = pool.allocate(2);
  EXPECT(throws<std::invalid_argument>([&] { pool.release({0, 3}); }));
  EXPECT(throws<std::invalid_argument>([&] { pool.release({0, 0}); }));
  EXPECT(throws<std::invalid_argument>([&] { pool.share({1, 3}); }));
  EXPECT(throws<std::out_of_range>([&] { pool.release({0, 4}); }));
  EXPECT(throws<std::out_of_range>([&] { pool.share({0, -1}); }));
  EXPECT(throws<std::invalid_argument>([&] { pool.allocate(-1); }));
  EXPECT(throws<std::invalid_argument>([] { PageAllocator none(0); }));
  EXPECT(pool.refcount(0) == 1 && pool.refcount(1) == 1 && pool.free() == 2);
  pool.check();
}

void random_operations() {
  std::mt19937 random(20260);
  PageAllocator pool(64);
  std::vector<int> model(64, 0);
  std::vector<std::vector<Page>> tables;
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  for (int operation = 0; operation < 100000; ++operation) {
    const auto choice = below(3);
    if (choice == 0) {
      const auto n = below(8);
      if (n > pool.free()) {
        EXPECT(throws<OutOfPagesError>([&] { pool.allocate(static_cast<std::int64_t>(n)); }));
      } else {
        tables.push_back(pool.allocate(static_cast<std::int64_t>(n)));
        for (const Page page : tables.back()) EXPECT(model[static_cast<std::size_t>(page)]++ == 0);
      }
    } else if (!tables.empty() && choice == 1 && tables.size() < 200) {
      tables.push_back(tables[below(tables.size())]);
      pool.share(tables.back());
      for (const Page page : tables.back()) ++model[static_cast<std::size_t>(page)];
    } else if (!tables.empty()) {
      std::swap(tables[below(tables.size())], tables.back());
      pool.release(tables.back());
      for (const Page page : tables.back()) --model[static_cast<std::size_t>(page)];
      tables.pop_back();
    }
    if (operation % 1000 == 0) {
      pool.check();
      for (std::size_t page = 0; page < model.size(); ++page) EXPECT(pool.refcount(static_cast<std::int64_t>(page)) == model[page]);
    }
  }
  for (const auto& table : tables) pool.release(table);
  EXPECT(pool.free() == pool.total());
  pool.check();
}

int main() {
  exhaustion_takes_nothing();
  bad_calls_change_nothing();
  random_operations();
  std::puts("ok");
}
