// Integer weights of one axis of the antialiased bicubic resize (a = -0.5), in the arithmetic of PyTorch's uint8 resize.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace evostreaming {

// Taps of one output, a multiple of four: the kernels take four at a time, the rest weigh nothing.
inline std::int64_t resize_taps(std::int64_t size_in, std::int64_t size_out) {
  const double support = 2 * std::max(static_cast<double>(size_in) / size_out, 1.0);
  return (static_cast<std::int64_t>(std::ceil(support)) * 2 + 1 + 3) / 4 * 4;
}

inline double cubic(double x) {
  x = std::fabs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0.0;
}

// first (size_out): the first input of each output. weights (taps / 4, size_out, 4): scaled by 2^bits. Returns bits.
inline std::int64_t fill_resize_table(std::int64_t size_in, std::int64_t size_out, std::int32_t* first, std::int16_t* weights) {
  const double scale = static_cast<double>(size_in) / size_out, stretch = std::max(scale, 1.0), support = 2 * stretch;
  const std::int64_t taps = resize_taps(size_in, size_out);
  std::vector<double> exact(size_out * taps, 0.0);
  double largest = 0;
  for (std::int64_t i = 0; i < size_out; ++i) {
    const double center = scale * (i + 0.5);
    const std::int64_t begin = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const std::int64_t count = std::min<std::int64_t>(static_cast<std::int64_t>(center + support + 0.5), size_in) - begin;
    double* row = exact.data() + i * taps;
    double sum = 0;
    for (std::int64_t j = 0; j < count; ++j) sum += row[j] = cubic((begin + j - center + 0.5) / stretch);
    for (std::int64_t j = 0; j < count; ++j) largest = std::max(largest, row[j] /= sum);
    first[i] = static_cast<std::int32_t>(begin);
  }
  std::int64_t bits = 0;
  while (bits < 22 && static_cast<std::int64_t>(0.5 + std::ldexp(largest, static_cast<int>(bits) + 1)) < (1 << 15)) ++bits;
  for (std::int64_t i = 0; i < size_out; ++i)
    for (std::int64_t j = 0; j < taps; ++j) {
      const double scaled = std::ldexp(exact[i * taps + j], static_cast<int>(bits));
      weights[(j / 4 * size_out + i) * 4 + j % 4] = static_cast<std::int16_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    }
  return bits;
}

}  // namespace evostreaming
