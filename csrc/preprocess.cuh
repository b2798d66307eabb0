// A frame to patch rows on the GPU, one launch. Raw pointers, no framework.
//
// A block makes one tile of the resized frame: the source pixels under it come to shared memory in 16-byte loads (NV12 becomes RGB there), are
// resized along x into bytes, along y into bytes, normalized, and leave in patch order, which is one contiguous run of the output for every
// square of block x block patches. Weights have 16 bits and pixels 8, so dp2a does two multiply-adds at a time, exactly.
#pragma once

#include <algorithm>

#include "vector.cuh"

namespace evostreaming {

// One axis of the resize; see resize_table.h. `reach`: inputs under `tile` neighboring outputs, at most.
struct Axis {
  const std::int32_t* first;
  const std::int16_t* weights;  // (taps / 4, out, 4)
  int taps, bits, in, out, reach;
};

template <typename T>
struct Preprocess {
  const std::uint8_t* frames;
  T* out;
  Axis rows, columns;
  int patch, block, tile;  // tile: pixels of its side, a multiple of patch * block
  int staged_rows, staged_pitch, narrow_pitch;  // of shared memory
  std::int64_t frame_bytes;
  float center[3], spread[3];
  int luma, red_v, green_u, green_v, blue_u;  // scaled by 2^14; luma 0: the frame is RGB
};

constexpr int kFrameThreads = 256;
constexpr int kStagedBytes = 40 * 1024;
constexpr int kSharedLimit = 220 * 1024;

// Two products of signed 16-bit weights and unsigned bytes: the lower or the upper pair of `bytes`.
__device__ __forceinline__ int dot_low(std::uint32_t weights, std::uint32_t bytes, int sum) {
  asm("dp2a.lo.s32.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(weights), "r"(bytes), "r"(sum));
  return sum;
}
__device__ __forceinline__ int dot_high(std::uint32_t weights, std::uint32_t bytes, int sum) {
  asm("dp2a.hi.s32.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(weights), "r"(bytes), "r"(sum));
  return sum;
}
__device__ __forceinline__ std::uint32_t to_byte(int value) { return static_cast<std::uint32_t>(min(max(value, 0), 255)); }

// Source rows [begin, end), columns [left, left + columns.reach) to shared memory as RGB. A row starts at the same offset within 16 bytes as in
// global memory (RGB), or at 0 (NV12). Rows and bytes beyond the frame repeat its last ones: their weight is zero.
template <typename T>
__device__ __forceinline__ void stage(const Preprocess<T>& op, const std::uint8_t* frame, int begin, int end, int left, std::uint8_t* staged) {
  const int width = op.columns.in, height = op.rows.in;
  if (op.luma == 0) {
    const int words = op.staged_pitch / 16, all = words * (end - begin);
    const std::uintptr_t last = (reinterpret_cast<std::uintptr_t>(frame) + op.frame_bytes - 1) & ~std::uintptr_t{15};
    for (int i = threadIdx.x; i < all; i += kFrameThreads) {
      const int row = i / words, word = i - row * words;
      const std::uintptr_t from =
          (reinterpret_cast<std::uintptr_t>(frame) + (static_cast<std::int64_t>(min(begin + row, height - 1)) * width + left) * 3) & ~std::uintptr_t{15};
      reinterpret_cast<uint4*>(staged)[i] = __ldg(reinterpret_cast<const uint4*>(min(from + word * 16, last)));
    }
    return;
  }
  const int pairs = op.columns.reach / 2, all = pairs * (end - begin);
  for (int i = threadIdx.x; i < all; i += kFrameThreads) {
    const int row = i / pairs, y = min(begin + row, height - 1), x = min(left + (i - row * pairs) * 2, width - 2);
    const std::uint8_t* light = frame + static_cast<std::int64_t>(y) * width + x;
    const std::uint8_t* chroma = frame + static_cast<std::int64_t>(height + y / 2) * width + x;
    const int u = chroma[0] - 128, v = chroma[1] - 128;
    std::uint8_t* to = staged + row * op.staged_pitch + (i - row * pairs) * 6;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int level = op.luma * (light[n] - 16) + (1 << 13);
      to[3 * n] = to_byte((level + op.red_v * v) >> 14);
      to[3 * n + 1] = to_byte((level + op.green_u * u + op.green_v * v) >> 14);
      to[3 * n + 2] = to_byte((level + op.blue_u * u) >> 14);
    }
  }
}

// One pixel of one source row, resized along x: four taps are 12 bytes, sorted into pairs of one channel.
__device__ __forceinline__ void resize_pixel(const std::uint8_t* from, const uint2* weights, int taps, int stride, int bits, std::uint8_t* to) {
  const int shift = static_cast<int>(reinterpret_cast<std::uintptr_t>(from) & 3) * 8;
  const std::uint32_t* word = reinterpret_cast<const std::uint32_t*>(from - shift / 8);
  int red = 1 << (bits - 1), green = red, blue = red;
  std::uint32_t carry = *word++;
  for (int tap = 0; tap < taps; tap += 4, word += 3, weights += stride) {
    const std::uint32_t one = word[0], two = word[1], three = word[2];
    const std::uint32_t a = __funnelshift_r(carry, one, shift), b = __funnelshift_r(one, two, shift), c = __funnelshift_r(two, three, shift);
    carry = three;
    const uint2 weight = __ldg(weights);
    // Bytes: a = R0 G0 B0 R1, b = G1 B1 R2 G2, c = B2 R3 G3 B3.
    const std::uint32_t reds = __byte_perm(__byte_perm(a, b, 0x0630), c, 0x5210), greens = __byte_perm(__byte_perm(a, b, 0x0741), c, 0x6210);
    const std::uint32_t blues = __byte_perm(__byte_perm(a, b, 0x0052), c, 0x7410);
    red = dot_high(weight.y, reds, dot_low(weight.x, reds, red));
    green = dot_high(weight.y, greens, dot_low(weight.x, greens, green));
    blue = dot_high(weight.y, blues, dot_low(weight.x, blues, blue));
  }
  to[0] = to_byte(red >> bits);
  to[1] = to_byte(green >> bits);
  to[2] = to_byte(blue >> bits);
}

template <typename T>
__global__ void __launch_bounds__(kFrameThreads, 4) preprocess_kernel(const Preprocess<T> op) {
  extern __shared__ uint4 shared[];
  std::uint8_t* staged = reinterpret_cast<std::uint8_t*>(shared);
  std::uint8_t* narrow_rows = staged + op.staged_rows * op.staged_pitch + 16;  // (rows.reach, narrow_pitch)
  std::uint8_t* final_rows = narrow_rows + op.rows.reach * op.narrow_pitch;    // (tile, narrow_pitch)
  const int x0 = blockIdx.x * op.tile, y0 = blockIdx.y * op.tile;
  const int width = min(op.tile, op.columns.out - x0), height = min(op.tile, op.rows.out - y0);
  const std::uint8_t* frame = op.frames + blockIdx.z * op.frame_bytes;
  const int top = op.rows.first[y0], bottom = op.rows.first[y0 + height - 1] + op.rows.taps;
  const int left = op.luma ? op.columns.first[x0] & ~1 : op.columns.first[x0];

  for (int begin = top; begin < bottom; begin += op.staged_rows) {
    const int end = min(begin + op.staged_rows, bottom);
    stage(op, frame, begin, end, left, staged);
    __syncthreads();
    for (int x = threadIdx.x % 32; x < width; x += 32) {
      const int offset = (op.columns.first[x0 + x] - left) * 3;
      const uint2* weights = reinterpret_cast<const uint2*>(op.columns.weights) + x0 + x;
      for (int row = begin + threadIdx.x / 32; row < end; row += kFrameThreads / 32) {
        const std::uintptr_t start =
            reinterpret_cast<std::uintptr_t>(frame) + (static_cast<std::int64_t>(min(row, op.rows.in - 1)) * op.columns.in + left) * 3;
        const int phase = op.luma ? 0 : static_cast<int>(start & 15);
        resize_pixel(staged + (row - begin) * op.staged_pitch + phase + offset, weights, op.columns.taps, op.columns.out, op.columns.bits,
                     narrow_rows + (row - top) * op.narrow_pitch + 3 * x);
      }
    }
    __syncthreads();
  }

  const int words = op.narrow_pitch / 4;
  for (int i = threadIdx.x; i < height * words; i += kFrameThreads) {
    const int y = i / words, word = i - y * words;
    const std::uint32_t* from = reinterpret_cast<const std::uint32_t*>(narrow_rows + (op.rows.first[y0 + y] - top) * op.narrow_pitch) + word;
    const uint2* weights = reinterpret_cast<const uint2*>(op.rows.weights) + y0 + y;
    int sum[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) sum[n] = 1 << (op.rows.bits - 1);
    for (int tap = 0; tap < op.rows.taps; tap += 4, weights += op.rows.out) {
      const uint2 weight = __ldg(weights);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair, from += 2 * words) {
        const std::uint32_t a = from[0], b = from[words], packed = pair ? weight.y : weight.x;
        const std::uint32_t low = __byte_perm(a, b, 0x5140), high = __byte_perm(a, b, 0x7362);
        sum[0] = dot_low(packed, low, sum[0]);
        sum[1] = dot_high(packed, low, sum[1]);
        sum[2] = dot_low(packed, high, sum[2]);
        sum[3] = dot_high(packed, high, sum[3]);
      }
    }
    std::uint32_t bytes = 0;
#pragma unroll
    for (int n = 0; n < 4; ++n) bytes |= to_byte(sum[n] >> op.rows.bits) << (8 * n);
    reinterpret_cast<std::uint32_t*>(final_rows)[i] = bytes;
  }
  __syncthreads();

  // Two neighbors at a time: a pair never leaves its patch, because a patch has an even number of pixels, or is written one by one.
  const int area = op.patch * op.patch, size = 3 * area, unit = op.patch * op.block, across = width / unit;
  const int step = area % 2 ? 1 : 2;
  const std::int64_t base = blockIdx.z * static_cast<std::int64_t>(op.rows.out) * op.columns.out * 3;
  for (int e = threadIdx.x * step; e < width * height * 3; e += kFrameThreads * step) {
    const int index = e / size, inside = e - index * size;
    const int square = index / (op.block * op.block), member = index - square * op.block * op.block;
    const int square_y = square / across, square_x = square - square_y * across;
    const int y = square_y * unit + member / op.block * op.patch, x = square_x * unit + member % op.block * op.patch;
    const std::int64_t place = (static_cast<std::int64_t>(y0 / unit + square_y) * (op.columns.out / unit) + x0 / unit + square_x) * op.block * op.block + member;
    T pair[2];
    for (int n = 0; n < step; ++n) {
      const int channel = (inside + n) / area, pixel = (inside + n) - channel * area, py = pixel / op.patch, px = pixel - py * op.patch;
      const float level = final_rows[(y + py) * op.narrow_pitch + (x + px) * 3 + channel];
      const float center = channel == 0 ? op.center[0] : channel == 1 ? op.center[1] : op.center[2];
      const float spread = channel == 0 ? op.spread[0] : channel == 1 ? op.spread[1] : op.spread[2];
      pair[n] = narrow<T>(__fdiv_rn(level - center, spread));
    }
    T* to = op.out + base + place * size + inside;
    if (step == 1) {
      to[0] = pair[0];
    } else {
      struct alignas(2 * sizeof(T)) Two {
        T value[2];
      };
      *reinterpret_cast<Two*>(to) = {pair[0], pair[1]};
    }
  }
}

// Fills in the tile and the layout of shared memory; false if a tile cannot fit, which takes a shrink of about eighty-fold.
template <typename T>
bool plan_preprocess(Preprocess<T>& op, std::size_t& shared_bytes) {
  const int unit = op.patch * op.block;
  op.tile = std::max(1, 28 / unit) * unit;
  for (Axis* axis : {&op.rows, &op.columns}) {
    const int outputs = std::min(op.tile, axis->out);
    axis->reach = (static_cast<int>(static_cast<std::int64_t>(outputs - 1) * axis->in / axis->out) + axis->taps + 4) & ~1;
  }
  // 15 bytes of phase before the row, and the word behind the last tap.
  op.staged_pitch = (op.columns.reach * 3 + 15 + 4 + 15) / 16 * 16;
  op.staged_rows = std::min(op.rows.reach, std::max(1, kStagedBytes / op.staged_pitch));
  op.narrow_pitch = (std::min(op.tile, op.columns.out) * 3 + 3) / 4 * 4;
  shared_bytes = op.staged_rows * op.staged_pitch + 16 + static_cast<std::size_t>(op.rows.reach + op.tile) * op.narrow_pitch;
  return shared_bytes <= kSharedLimit;
}

// cudaErrorInvalidValue if the frame shrinks too much.
template <typename T>
cudaError_t launch_preprocess(Preprocess<T> op, int frames, cudaStream_t stream) {
  std::size_t shared_bytes;
  if (!plan_preprocess(op, shared_bytes)) return cudaErrorInvalidValue;
  if (frames == 0) return cudaSuccess;
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(preprocess_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  const dim3 grid((op.columns.out + op.tile - 1) / op.tile, (op.rows.out + op.tile - 1) / op.tile, frames);
  preprocess_kernel<T><<<grid, kFrameThreads, shared_bytes, stream>>>(op);
  return cudaGetLastError();
}

}  // namespace evostreaming
