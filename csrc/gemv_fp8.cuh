// x (tokens, width) · weight (rows, width)^T for at most 8 tokens, the weight in fp8 (e4m3) with one scale a row, x in bfloat16: bound by the
// bytes of the weight. Raw pointers, no framework.
//
// As in gemv.cuh a block takes 16 rows and its warps share the inner dimension. A lane keeps its next loads in flight as a ring: what a slab
// was multiplied from is loaded again as soon as it was used.
#pragma once

#include "gemv.cuh"

namespace evostreaming {

// Numbers of a slab; slabs of a warp in registers at once.
constexpr int kFp8Slab = 64, kFp8Slabs = 4;

struct GemvFp8 {
  const std::uint8_t* weight;  // (rows, width)
  const float* scales;         // (rows,)
  const __nv_bfloat16* x;      // (tokens, width)
  __nv_bfloat16* out;          // (tokens, rows)
  int tokens, width, rows;
};

// The numbers of bytes 0 and 2, and those of bytes 1 and 3, as pairs of bfloat16, exactly: shifted into place an exponent is 120 too small,
// which holds for subnormals too. (The two NaNs of e4m3 become 480; a row that had one has a NaN for its scale.)
__device__ __forceinline__ uint2 widen_fp8(std::uint32_t word) {
  const auto pair = [](std::uint32_t high) {
    const std::uint32_t bits = (high & 0x80008000u) | ((high >> 4) & 0x07f007f0u), power = 0x7b807b80u;
    const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(bits), reinterpret_cast<const __nv_bfloat162&>(power));
    return reinterpret_cast<const std::uint32_t&>(product);
  };
  return {pair(word << 8), pair(word)};
}

static __global__ void __launch_bounds__(kGemvWarps * 32, 3) gemv_fp8_kernel(const GemvFp8 op) {
  __shared__ float shared[kGemvWarps][kGemvTokens][kGemvRows];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, place = lane % 4 * 16;
  const int slabs = (op.width + kFp8Slab - 1) / kFp8Slab, first = blockIdx.x * kGemvRows;
  const int begin = slabs * warp / kGemvWarps * kFp8Slab, end = min(slabs * (warp + 1) / kGemvWarps * kFp8Slab, op.width);
  const auto row = [&](int index) { return op.weight + static_cast<std::int64_t>(min(first + index, op.rows - 1)) * op.width; };
  const std::uint8_t *const top = row(group) + place, *const bottom = row(group + 8) + place;
  const __nv_bfloat16* const x = op.x + static_cast<std::int64_t>(min(group, op.tokens - 1)) * op.width + place;

  uint4 ring[kFp8Slabs][2];
  const auto fetch = [&](uint4(&slab)[2], int at) {
    const bool inside = at + place < end;
    slab[0] = inside ? load_once(top + at) : uint4{};
    slab[1] = inside ? load_once(bottom + at) : uint4{};
  };
#pragma unroll
  for (int n = 0; n < kFp8Slabs; ++n) fetch(ring[n], begin + n * kFp8Slab);

  float part[4] = {};
#pragma unroll 1
  for (int at = begin; at < end; at += kFp8Slabs * kFp8Slab)
#pragma unroll
    for (int n = 0; n < kFp8Slabs; ++n) {
      const int here = at + n * kFp8Slab;
      const bool inside = here + place < end;
      const uint4 zero{}, *numbers = reinterpret_cast<const uint4*>(x + here);
      const uint4 left = inside ? numbers[0] : zero, right = inside ? numbers[1] : zero;
      const auto add = [&](std::uint32_t above, std::uint32_t below, std::uint32_t even, std::uint32_t odd) {
        const uint2 high = widen_fp8(above), low = widen_fp8(below);
        multiply<__nv_bfloat16>(part, {high.x, low.x, high.y, low.y}, __byte_perm(even, odd, 0x5410), __byte_perm(even, odd, 0x7632));
      };
      add(ring[n][0].x, ring[n][1].x, left.x, left.y);
      add(ring[n][0].y, ring[n][1].y, left.z, left.w);
      add(ring[n][0].z, ring[n][1].z, right.x, right.y);
      add(ring[n][0].w, ring[n][1].w, right.z, right.w);
      fetch(ring[n], here + kFp8Slabs * kFp8Slab);
    }
#pragma unroll
  for (int n = 0; n < 4; ++n) shared[warp][lane % 4 * 2 + n % 2][n / 2 * 8 + group] = part[n];
  __syncthreads();
  const int token = threadIdx.x / kGemvRows, number = first + threadIdx.x % kGemvRows;
  if (token < op.tokens && number < op.rows) {
    float sum = 0;
#pragma unroll
    for (int other = 0; other < kGemvWarps; ++other) sum += shared[other][token][threadIdx.x % kGemvRows];
    op.out[static_cast<std::int64_t>(token) * op.rows + number] = narrow<__nv_bfloat16>(sum * op.scales[number]);
  }
}

// 1 to 8 tokens; the width is a multiple of 16.
inline cudaError_t launch_gemv_fp8(const GemvFp8& op, cudaStream_t stream) {
  gemv_fp8_kernel<<<(op.rows + kGemvRows - 1) / kGemvRows, kGemvWarps * 32, 0, stream>>>(op);
  return cudaGetLastError();
}

}  // namespace evostreaming
