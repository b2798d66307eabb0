// Integer weights of one axis of the antialiased bicubic resize (a = -0.5), in the arithmetic of PyTorch's uint8 resize.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace evostreaming {

// Taps of one output, a multiple of four: the kernels take four at a time, the rest weigh nothing. Rounding can put one more input than
// this within the support, but only where both ends touch its border, and there the weight is zero.
inline std::int64_t resize_taps(std::int64_t size_in, std::int64_t size_out) {
  const double support = 2 * std::max(static_cast<double>(size_in) / size_out, 1.0);
  return (static_cast<std::int64_t>(std::ceil(2 * support)) + 3) / 4 * 4;
}

inline double cubic(double x) {
  x = std::fabs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0.0;
}

// Weights of more than 15 bits do not fit the 16 bits of the kernels' multiplications: they come as two planes, weight = 256 coarse + fine.
inline std::int64_t weight_planes(std::int64_t weight_bits) { return weight_bits > 15 ? 2 : 1; }

// first (size_out): the first input of each output. weights (planes, taps / 4, size_out, 4): scaled by 2^bits, none of more than `weight_bits`
// bits (23 at most). Returns bits.
inline std::int64_t fill_resize_table(std::int64_t size_in, std::int64_t size_out, std::int64_t weight_bits, std::int32_t* first,
                                      std::int16_t* weights) {
  const double scale = static_cast<double>(size_in) / size_out, stretch = std::max(scale, 1.0), support = 2 * stretch;
  const std::int64_t taps = resize_taps(size_in, size_out);
  std::vector<double> exact(size_out * taps, 0.0);
  double largest = 0;
  for (std::int64_t i = 0; i < size_out; ++i) {
    const double center = scale * (i + 0.5);
    const std::int64_t begin = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const std::int64_t end = std::min<std::int64_t>(static_cast<std::int64_t>(center + support + 0.5), size_in);
    const std::int64_t count = std::min(end - begin, taps);
    double* row = exact.data() + i * taps;
    double sum = 0;
    for (std::int64_t j = 0; j < count; ++j) sum += row[j] = cubic((begin + j - center + 0.5) / stretch);
    for (std::int64_t j = 0; j < count; ++j) largest = std::max(largest, row[j] /= sum);
    first[i] = static_cast<std::int32_t>(begin);
  }
  std::int64_t bits = 0;
  while (bits < 22 && static_cast<std::int64_t>(0.5 + std::ldexp(largest, static_cast<int>(bits) + 1)) < (1 << weight_bits)) ++bits;
  for (std::int64_t i = 0; i < size_out; ++i)
    for (std::int64_t j = 0; j < taps; ++j) {
      const double scaled = std::ldexp(exact[i * taps + j], static_cast<int>(bits));
      const std::int32_t weight = static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
      std::int16_t* coarse = weights + (j / 4 * size_out + i) * 4 + j % 4;
      *coarse = static_cast<std::int16_t>(weight >> (weight_bits > 15 ? 8 : 0));
      if (weight_bits > 15) coarse[taps * size_out] = weight & 255;
    }
  return bits;
}

}  // namespace evostreaming
