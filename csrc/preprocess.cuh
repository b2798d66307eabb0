// A frame to patch rows on the GPU, one launch. Raw pointers, no framework.
//
// A block makes one tile of the resized frame: the source pixels under it come to shared memory in 16-byte loads (NV12 becomes RGB there), are
// resized along x into bytes, along y into bytes, normalized, and leave in patch order, which is one contiguous run of the output for every
// square of merge x merge patches.
#pragma once

#include <algorithm>

#include "resize.cuh"
#include "vector.cuh"

namespace evostreaming {

// n / by for n * by < 2^32, as one multiplication.
struct Divide {
  std::uint32_t by, magic;

  __host__ __device__ Divide(int by = 1) : by(by), magic(0xffffffffu / by + 1) {}
  __device__ __forceinline__ int operator()(int n) const { return by == 1 ? n : static_cast<int>(__umulhi(n, magic)); }
};

template <typename T>
struct Preprocess {
  const std::uint8_t* frames;
  T* out;
  Axis rows, columns;
  int patch, merge, tile;  // tile: pixels of its side, a multiple of patch * merge
  int staged_rows, staged_pitch, narrow_pitch;  // of shared memory
  Divide by_staged_words, by_pairs, by_narrow_words, by_size, by_area, by_patch, by_squares, by_merge;
  std::int64_t frame_bytes;
  float center[3], spread[3];
  int luma, red_v, green_u, green_v, blue_u;  // scaled by 2^14; luma 0: the frame is RGB
};

// Enough for a tile of 28 x 28: its 588 words of a pass are one round, which 512 threads would need two for.
constexpr int kFrameThreads = 608;
constexpr int kStagedBytes = 40 * 1024;
constexpr int kSharedLimit = 220 * 1024;

// Sixteen bytes from an aligned address, of which those outside [begin, end) are not read.
__device__ __forceinline__ uint4 load_inside(std::uintptr_t from, std::uintptr_t begin, std::uintptr_t end) {
  if (from >= begin && from + 16 <= end) return __ldg(reinterpret_cast<const uint4*>(from));
  std::uint32_t word[4] = {};
#pragma unroll
  for (int i = 0; i < 16; ++i)
    if (from + i >= begin && from + i < end)
      word[i / 4] |= static_cast<std::uint32_t>(*reinterpret_cast<const std::uint8_t*>(from + i)) << (i % 4 * 8);
  return {word[0], word[1], word[2], word[3]};
}

// The weights and first inputs under this tile to the L1 cache: the passes would meet the latency of each group of taps in turn.
template <typename T>
__device__ __forceinline__ void prefetch_tables(const Preprocess<T>& op, int x0, int y0) {
  const auto prefetch = [](const void* from) { asm volatile("prefetch.global.L1 [%0];" ::"l"(from)); };
  const auto axis = [&](const std::int32_t* first, const std::int16_t* weights, int out, int at, int group) {
    if (at >= out) return;
    if (group == 0) prefetch(first + at);
    prefetch(weights + (group * out + at) * 4);
  };
  // A warp a group of taps, a lane an output: enough for tiles of 32 and a shrink of nine; what is left out is only fetched later.
  constexpr int kHalf = kFrameThreads / 64;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (warp < kHalf) {
    if (warp < op.columns.taps / 4) axis(op.columns.first, op.columns.weights, op.columns.out, x0 + lane, warp);
  } else if (warp - kHalf < op.rows.taps / 4) {
    axis(op.rows.first, op.rows.weights, op.rows.out, y0 + lane, warp - kHalf);
  }
}

// Source rows [begin, end), columns [left, left + columns.reach) to shared memory as RGB. A row starts at the same offset within 16 bytes as in
// global memory (RGB), or at 0 (NV12). What lies beyond the frame has weight zero. A thread asks for kAtOnce pieces
// before it needs the first, and does what there is to do `meanwhile`.
template <typename T, typename Meanwhile>
__device__ __forceinline__ void stage(const Preprocess<T>& op, const std::uint8_t* frame, int begin, int end, int left, std::uint8_t* staged,
                                      Meanwhile meanwhile) {
  constexpr int kAtOnce = 2;
  const int width = op.columns.in, height = op.rows.in;
  if (op.luma == 0) {
    const int words = op.staged_pitch / 16, all = words * (end - begin);
    const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(frame);
    for (int first = 0; first < all; first += kAtOnce * kFrameThreads) {
      const int i = first + threadIdx.x;
      uint4 piece[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const int at = min(i + n * kFrameThreads, all - 1), row = op.by_staged_words(at), word = at - row * words;
        const std::uintptr_t from = start + (static_cast<std::int64_t>(min(begin + row, height - 1)) * width + left) * 3;
        piece[n] = load_inside((from & ~std::uintptr_t{15}) + word * 16, start, start + op.frame_bytes);
      }
      if (first == 0) meanwhile();
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n)
        if (i + n * kFrameThreads < all) reinterpret_cast<uint4*>(staged)[i + n * kFrameThreads] = piece[n];
    }
    return;
  }
  meanwhile();
  const int pairs = op.columns.reach / 2, all = pairs * (end - begin);
  for (int i = threadIdx.x; i < all; i += kFrameThreads) {
    const int row = op.by_pairs(i), y = min(begin + row, height - 1), x = min(left + (i - row * pairs) * 2, width - 2);
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

// The tile's bytes in patch order, kStep neighbors at a time: they never leave a patch, because kStep divides its pixels.
template <typename T, int kStep>
__device__ __forceinline__ void emit(const Preprocess<T>& op, const std::uint8_t* tile, const T* levels, int x0, int y0, int width, int height) {
  struct alignas(kStep * sizeof(T)) Step {
    T value[kStep];
  };
  const int area = op.patch * op.patch, size = 3 * area, unit = op.patch * op.merge, squares = op.merge * op.merge;
  const int units = op.columns.out / unit, first = y0 / unit * units + x0 / unit;
  const Divide by_across(width / unit);
  T* out = op.out + blockIdx.z * static_cast<std::int64_t>(op.rows.out) * op.columns.out * 3;
  for (int e = threadIdx.x * kStep; e < width * height * 3; e += kFrameThreads * kStep) {
    const int patch = op.by_size(e), inside = e - patch * size;
    const int square = op.by_squares(patch), member = patch - square * squares;
    const int square_y = by_across(square), square_x = square - square_y * by_across.by;
    const int member_y = op.by_merge(member), member_x = member - member_y * op.merge;
    int channel = op.by_area(inside), py = op.by_patch(inside - channel * area), px = inside - channel * area - py * op.patch;
    const int y = square_y * unit + member_y * op.patch + py, x = square_x * unit + member_x * op.patch + px;
    const std::uint8_t* from = tile + y * op.narrow_pitch + x * 3;
    Step step;
#pragma unroll
    for (int n = 0; n < kStep; ++n) {
      step.value[n] = levels[channel * 256 + from[channel]];
      from += 3;
      if (++px == op.patch) {
        px = 0;
        from += op.narrow_pitch - 3 * op.patch;
        if (++py == op.patch) {
          py = 0;
          from -= op.patch * op.narrow_pitch;
          ++channel;
        }
      }
    }
    const std::int64_t place = static_cast<std::int64_t>(first + square_y * units + square_x) * squares + member;
    *reinterpret_cast<Step*>(out + place * size + inside) = step;
  }
}

template <typename T, bool kFine>
__global__ void __launch_bounds__(kFrameThreads, 2) preprocess_kernel(const Preprocess<T> op) {
  extern __shared__ uint4 shared[];
  __shared__ T levels[3 * 256];
  std::uint8_t* staged = reinterpret_cast<std::uint8_t*>(shared);
  std::uint8_t* narrow_rows = staged + op.staged_rows * op.staged_pitch + 16;  // (rows.reach, narrow_pitch)
  std::uint8_t* final_rows = narrow_rows + op.rows.reach * op.narrow_pitch;    // (tile, narrow_pitch)
  const int x0 = blockIdx.x * op.tile, y0 = blockIdx.y * op.tile;
  const int width = min(op.tile, op.columns.out - x0), height = min(op.tile, op.rows.out - y0);
  const std::uint8_t* frame = op.frames + blockIdx.z * op.frame_bytes;
  if constexpr (!kFine) prefetch_tables(op, x0, y0);  // with two planes of weights no register is left for it
  const int top = op.rows.first[y0], bottom = op.rows.first[y0 + height - 1] + op.rows.taps;
  const int left = op.luma ? op.columns.first[x0] & ~1 : op.columns.first[x0];
  // Where a source row starts within 16 bytes: start + row * stride, modulo 16.
  const std::uint32_t stride = op.luma ? 0 : op.columns.in * 3;
  const std::uint32_t start = op.luma ? 0 : static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(frame)) + left * 3;

  for (int begin = top; begin < bottom; begin += op.staged_rows) {
    const int end = min(begin + op.staged_rows, bottom);
    stage(op, frame, begin, end, left, staged, [&] {
      if (begin == top)
#pragma unroll 1
        for (int i = threadIdx.x; i < 3 * 256; i += kFrameThreads)
          levels[i] = narrow<T>(__fdiv_rn(i % 256 - op.center[i / 256], op.spread[i / 256]));
    });
    __syncthreads();
    for (int x = threadIdx.x % 32; x < width; x += 32) {
      const int offset = (op.columns.first[x0 + x] - left) * 3;
      for (int row = begin + threadIdx.x / 32; row < end; row += 2 * (kFrameThreads / 32)) {
        const std::uint8_t* from[2];
        std::uint8_t* to[2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          // The last row can come twice.
          const int source = min(row + n * (kFrameThreads / 32), end - 1);
          from[n] = staged + (source - begin) * op.staged_pitch + ((start + min(source, op.rows.in - 1) * stride) & 15) + offset;
          to[n] = narrow_rows + (source - top) * op.narrow_pitch + 3 * x;
        }
        resize_pixels<kFine>(from, op.columns, x0 + x, to);
      }
    }
    __syncthreads();
  }

  const int words = op.narrow_pitch / 4;
  for (int i = threadIdx.x; i < height * words; i += kFrameThreads) {
    const int y = op.by_narrow_words(i), word = i - y * words;
    const std::uint32_t* from = reinterpret_cast<const std::uint32_t*>(narrow_rows + (op.rows.first[y0 + y] - top) * op.narrow_pitch) + word;
    reinterpret_cast<std::uint32_t*>(final_rows)[i] = resize_word<kFine>(from, words, op.rows, y0 + y);
  }
  __syncthreads();

  if (op.patch % 2 == 0)
    emit<T, 4>(op, final_rows, levels, x0, y0, width, height);
  else
    emit<T, 1>(op, final_rows, levels, x0, y0, width, height);
}

// Fills in the tile and the layout of shared memory; false if a tile cannot fit, which takes a shrink of about eighty-fold.
template <typename T>
bool plan_preprocess(Preprocess<T>& op, std::size_t& shared_bytes) {
  const int unit = op.patch * op.merge;
  op.tile = std::max(1, 28 / unit) * unit;
  for (Axis* axis : {&op.rows, &op.columns}) {
    const int outputs = std::min(op.tile, axis->out);
    axis->reach = (static_cast<int>(static_cast<std::int64_t>(outputs - 1) * axis->in / axis->out) + axis->taps + 4) & ~1;
  }
  // 15 bytes of phase before the row, and the word behind the last tap.
  op.staged_pitch = (op.columns.reach * 3 + 15 + 4 + 15) / 16 * 16;
  op.staged_rows = std::min(op.rows.reach, std::max(1, kStagedBytes / op.staged_pitch));
  op.narrow_pitch = (std::min(op.tile, op.columns.out) * 3 + 3) / 4 * 4;
  const int area = op.patch * op.patch;
  op.by_staged_words = Divide(op.staged_pitch / 16);
  op.by_pairs = Divide(op.columns.reach / 2);
  op.by_narrow_words = Divide(op.narrow_pitch / 4);
  op.by_size = Divide(3 * area);
  op.by_area = Divide(area);
  op.by_patch = Divide(op.patch);
  op.by_squares = Divide(op.merge * op.merge);
  op.by_merge = Divide(op.merge);
  shared_bytes = op.staged_rows * op.staged_pitch + 16 + static_cast<std::size_t>(op.rows.reach + op.tile) * op.narrow_pitch;
  // A tile of 128 keeps every division within what `Divide` can do.
  return op.tile <= 128 && shared_bytes <= kSharedLimit;
}

// cudaErrorInvalidValue if the frame shrinks too much.
template <typename T>
cudaError_t launch_preprocess(Preprocess<T> op, int frames, cudaStream_t stream) {
  std::size_t shared_bytes;
  if (!plan_preprocess(op, shared_bytes)) return cudaErrorInvalidValue;
  if (frames == 0) return cudaSuccess;
  const auto kernel = op.rows.fine ? preprocess_kernel<T, true> : preprocess_kernel<T, false>;
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  const dim3 grid((op.columns.out + op.tile - 1) / op.tile, (op.rows.out + op.tile - 1) / op.tile, frames);
  kernel<<<grid, kFrameThreads, shared_bytes, stream>>>(op);
  return cudaGetLastError();
}

}  // namespace evostreaming
