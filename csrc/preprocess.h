// A frame to patch rows on the CPU: rows resized along x, columns along y, normalized in patch order. Raw pointers, no framework.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "numbers.h"

namespace evostreaming {

// One axis of the resize; see resize_table.h.
struct Axis {
  const std::int32_t* first;
  const std::int16_t* weights;  // (planes, taps / 4, out, 4)
  std::int64_t planes, taps, bits, in, out;

  std::int32_t weight(std::int64_t output, std::int64_t tap) const {
    const std::int16_t* coarse = weights + (tap / 4 * out + output) * 4 + tap % 4;
    return planes == 1 ? *coarse : *coarse * 256 + coarse[taps * out];
  }
};

// Limited-range YUV to RGB, coefficients scaled by 2^14; `luma` 0 means that the frame is RGB already.
struct Color {
  std::int32_t luma = 0, red_v = 0, green_u = 0, green_v = 0, blue_u = 0;
};

inline std::uint8_t to_byte(std::int32_t value) { return static_cast<std::uint8_t>(std::clamp(value, 0, 255)); }

// Row y of a frame as RGB.
inline void read_row(const std::uint8_t* frame, std::int64_t y, const Axis& rows, const Axis& columns, const Color& color, std::uint8_t* rgb) {
  const std::int64_t width = columns.in;
  if (!color.luma) {
    std::memcpy(rgb, frame + y * width * 3, width * 3);
    return;
  }
  const std::uint8_t* luma = frame + y * width;
  const std::uint8_t* chroma = frame + (rows.in + y / 2) * width;
  for (std::int64_t x = 0; x < width; ++x) {
    const std::int32_t light = color.luma * (luma[x] - 16) + (1 << 13), u = chroma[x / 2 * 2] - 128, v = chroma[x / 2 * 2 + 1] - 128;
    rgb[3 * x] = to_byte((light + color.red_v * v) >> 14);
    rgb[3 * x + 1] = to_byte((light + color.green_u * u + color.green_v * v) >> 14);
    rgb[3 * x + 2] = to_byte((light + color.blue_u * u) >> 14);
  }
}

// Sums of the first three channels over `taps` pixels from `from` on, which may be read 16 bytes at a time.
#if defined(__AVX2__)
inline void add_taps(const std::uint8_t* from, const std::int16_t* weights, std::int64_t taps, std::int64_t stride, std::int32_t* sum) {
  // Pairs of neighbors by channel, taps 0 and 1 in the lower half, 2 and 3 in the upper: one multiply-add takes all four.
  const __m128i by_channel = _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 6, 9, 7, 10, 8, 11, -1, -1);
  const __m256i spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  __m256i total = _mm256_setzero_si256();
  for (std::int64_t tap = 0; tap < taps; tap += 4, weights += stride) {
    const __m128i pixels = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 3 * tap)), by_channel);
    const __m256i pairs = _mm256_castsi128_si256(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights)));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_cvtepu8_epi16(pixels), _mm256_permutevar8x32_epi32(pairs, spread)));
  }
  const __m128i both = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(sum), both);
}
#else
inline void add_taps(const std::uint8_t* from, const std::int16_t* weights, std::int64_t taps, std::int64_t stride, std::int32_t* sum) {
  sum[0] = sum[1] = sum[2] = 0;
  for (std::int64_t tap = 0; tap < taps; ++tap)
    for (int channel = 0; channel < 3; ++channel) sum[channel] += weights[tap / 4 * stride + tap % 4] * from[3 * tap + channel];
}
#endif

// Rows [begin, end) along x: frame -> narrow (rows.in, columns.out, 3).
inline void resize_rows(const std::uint8_t* frame, const Axis& rows, const Axis& columns, const Color& color, std::int64_t begin,
                        std::int64_t end, std::uint8_t* narrow) {
  // Taps beyond the row weigh nothing but are read, and 16 bytes are read where 12 belong to four taps: both need room behind it.
  std::vector<std::uint8_t> rgb(3 * (columns.in + columns.taps) + 16, 0);
  const std::int64_t stride = 4 * columns.out;
  for (std::int64_t y = begin; y < end; ++y) {
    read_row(frame, y, rows, columns, color, rgb.data());
    std::uint8_t* to = narrow + y * columns.out * 3;
    for (std::int64_t x = 0; x < columns.out; ++x) {
      const std::uint8_t* from = rgb.data() + 3 * columns.first[x];
      const std::int16_t* weights = columns.weights + 4 * x;
      std::int32_t sum[4], fine[4] = {};
      add_taps(from, weights, columns.taps, stride, sum);
      if (columns.planes == 2) add_taps(from, weights + columns.taps * columns.out, columns.taps, stride, fine);
      for (int channel = 0; channel < 3; ++channel) {
        const std::int32_t coarse = columns.planes == 2 ? sum[channel] * 256 : sum[channel];
        to[3 * x + channel] = to_byte((coarse + fine[channel] + (1 << (columns.bits - 1))) >> columns.bits);
      }
    }
  }
}

// What a byte of each channel becomes: (3, 256).
template <typename T>
struct Levels {
  T value[3][256];

  Levels(const double* mean, const double* deviation) {
    for (int channel = 0; channel < 3; ++channel) {
      const float center = 255 * static_cast<float>(mean[channel]), spread = 255 * static_cast<float>(deviation[channel]);
      for (int byte = 0; byte < 256; ++byte) value[channel][byte] = narrow<T>((byte - center) / spread);
    }
  }
};

// Output rows [begin, end) along y, normalized and scattered: narrow -> out (patches, 3, patch, patch), in squares of merge x merge patches.
template <typename T>
void resize_columns(const std::uint8_t* narrow_rows, const Axis& rows, const Axis& columns, const Levels<T>& levels, std::int64_t patch,
                    std::int64_t merge, std::int64_t begin, std::int64_t end, T* out) {
  const std::int64_t line = columns.out * 3, unit = patch * merge, area = patch * patch;
  std::vector<std::int32_t> total(line);
  std::vector<std::uint8_t> bytes(line);
  for (std::int64_t y = begin; y < end; ++y) {
    std::fill(total.begin(), total.end(), 1 << (rows.bits - 1));
    for (std::int64_t tap = 0; tap < rows.taps; ++tap) {
      const std::int32_t weight = rows.weight(y, tap);
      if (!weight) continue;
      const std::uint8_t* from = narrow_rows + (rows.first[y] + tap) * line;
      for (std::int64_t i = 0; i < line; ++i) total[i] += weight * from[i];
    }
    for (std::int64_t i = 0; i < line; ++i) bytes[i] = to_byte(total[i] >> rows.bits);
    const std::int64_t square_row = y / unit * (columns.out / unit), inside = y % unit / patch * merge;
    for (std::int64_t x = 0; x < columns.out; x += patch) {
      const std::int64_t index = (square_row + x / unit) * merge * merge + inside + x % unit / patch;
      T* to = out + index * 3 * area + y % patch * patch;
      for (int channel = 0; channel < 3; ++channel)
        for (std::int64_t i = 0; i < patch; ++i)
          to[channel * area + i] = levels.value[channel][bytes[3 * (x + i) + channel]];
    }
  }
}

}  // namespace evostreaming
