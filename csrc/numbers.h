// The element types of the CPU kernels: load to float, store with one rounding to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

namespace evostreaming {

struct BFloat16 {
  std::uint16_t bits;
};
using Float16 = _Float16;

inline float widen(float value) { return value; }
inline float widen(Float16 value) { return static_cast<float>(value); }
inline float widen(BFloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <typename T>
inline T narrow(float value) {
  return static_cast<T>(value);
}
template <>
inline BFloat16 narrow<BFloat16>(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  // Rounding would carry a NaN's payload into infinity, so a NaN is written as the quiet one.
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// Sum of products in 32 lanes, added up in a fixed tree: the compiler may vectorize it without changing the answer.
template <typename A, typename B>
inline float dot(const A* a, const B* b, std::int64_t count) {
  constexpr int kLanes = 32;
  float lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] += widen(a[i + j]) * widen(b[i + j]);
  for (int j = 0; i + j < count; ++j) lane[j] += widen(a[i + j]) * widen(b[i + j]);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lane[j] += lane[j + width];
  return lane[0];
}

}  // namespace evostreaming
