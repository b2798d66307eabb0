// A frame to patch rows on the CPU: rows resized along x, columns along y, normalized in patch order. Raw pointers, no framework.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "numbers.h"

namespace evostreaming {

// One axis of the resize; see resize_table.h.
struct Axis {
  const std::int32_t* first;
  const std::int16_t* weights;
  std::int64_t taps, bits, in, out;
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

// Rows [begin, end) along x: frame -> narrow (rows.in, columns.out, 3).
inline void resize_rows(const std::uint8_t* frame, const Axis& rows, const Axis& columns, const Color& color, std::int64_t begin,
                        std::int64_t end, std::uint8_t* narrow) {
  // Four bytes a pixel are read where three belong to it, and taps beyond the row weigh nothing: both need room behind it.
  std::vector<std::uint8_t> rgb(3 * (columns.in + columns.taps) + 1, 0);
  using Lanes = std::int32_t __attribute__((vector_size(16)));
  using Bytes = std::uint8_t __attribute__((vector_size(4)));
  for (std::int64_t y = begin; y < end; ++y) {
    read_row(frame, y, rows, columns, color, rgb.data());
    std::uint8_t* to = narrow + y * columns.out * 3;
    for (std::int64_t x = 0; x < columns.out; ++x) {
      const std::uint8_t* from = rgb.data() + 3 * columns.first[x];
      Lanes total = {};
      total += 1 << (columns.bits - 1);
      for (std::int64_t tap = 0; tap < columns.taps; tap += 4) {
        const std::int16_t* weight = columns.weights + (tap / 4 * columns.out + x) * 4;
        for (int j = 0; j < 4; ++j) {
          Bytes pixel;
          std::memcpy(&pixel, from + 3 * (tap + j), 4);
          total += __builtin_convertvector(pixel, Lanes) * static_cast<std::int32_t>(weight[j]);
        }
      }
      for (int channel = 0; channel < 3; ++channel) to[3 * x + channel] = to_byte(total[channel] >> columns.bits);
    }
  }
}

// What a byte of each channel becomes: (3, 256).
struct Levels {
  float value[3][256];

  Levels(const double* mean, const double* deviation) {
    for (int channel = 0; channel < 3; ++channel) {
      const float center = 255 * static_cast<float>(mean[channel]), spread = 255 * static_cast<float>(deviation[channel]);
      for (int byte = 0; byte < 256; ++byte) value[channel][byte] = (byte - center) / spread;
    }
  }
};

// Output rows [begin, end) along y, normalized and scattered: narrow -> out (patches, 3, patch, patch), in squares of block x block patches.
template <typename T>
void resize_columns(const std::uint8_t* narrow_rows, const Axis& rows, const Axis& columns, const Levels& levels, std::int64_t patch,
                    std::int64_t block, std::int64_t begin, std::int64_t end, T* out) {
  const std::int64_t line = columns.out * 3, unit = patch * block, area = patch * patch;
  std::vector<std::int32_t> total(line);
  for (std::int64_t y = begin; y < end; ++y) {
    std::fill(total.begin(), total.end(), 1 << (rows.bits - 1));
    for (std::int64_t tap = 0; tap < rows.taps; ++tap) {
      const std::int32_t weight = rows.weights[(tap / 4 * rows.out + y) * 4 + tap % 4];
      if (!weight) continue;
      const std::uint8_t* from = narrow_rows + (rows.first[y] + tap) * line;
      for (std::int64_t i = 0; i < line; ++i) total[i] += weight * from[i];
    }
    const std::int64_t square_row = y / unit * (columns.out / unit), inside = y % unit / patch * block;
    for (std::int64_t x = 0; x < columns.out; x += patch) {
      const std::int64_t index = (square_row + x / unit) * block * block + inside + x % unit / patch;
      T* to = out + index * 3 * area + y % patch * patch;
      for (int channel = 0; channel < 3; ++channel)
        for (std::int64_t i = 0; i < patch; ++i)
          to[channel * area + i] = narrow<T>(levels.value[channel][to_byte(total[3 * (x + i) + channel] >> rows.bits)]);
    }
  }
}

}  // namespace evostreaming
