// norm(x + residual) · weight^T for a few tokens in one launch, the weight in bfloat16 or in fp8 with one scale a row: bound by the bytes of the
// weight. Raw pointers, no framework.
//
//     sum = x + residual            (rounded)
//     out = (sum * gain) · weight^T / sqrt(mean(sum^2) + eps)
//     out = silu(its first half) * its second half, where it is gated
//
// A norm of few rows is a launch in which the memory rests. Here every block makes the rows it multiplies while its first loads of the weight
// are under way; their mean square scales what comes out, so nothing waits for it. Block 0 writes the sums. Rows, warps and order are those of
// gemv.cuh; a block of a gated product takes eight rows of each half.
#pragma once

#include "gemv_fp8.cuh"

namespace evostreaming {

constexpr int kNormPad = 32;           // numbers between two rows in shared memory, which then lie in different banks
constexpr int kNormBytes = 40 * 1024;  // of shared memory that all rows may take: three blocks run on a multiprocessor

template <typename Weight>
struct GemvNorm {
  const Weight* weight;           // (rows, width)
  const float* scales;            // (rows,), for a weight in fp8
  const __nv_bfloat16* x;         // (tokens, width)
  const __nv_bfloat16* residual;  // (tokens, width)
  const __nv_bfloat16* gain;      // (width,)
  __nv_bfloat16* sum;             // (tokens, width)
  __nv_bfloat16* out;             // (tokens, rows), or (tokens, rows / 2) where it is gated
  int tokens, width, rows;
  float eps;
};

inline std::int64_t gemv_norm_bytes(std::int64_t tokens, std::int64_t width) { return tokens * (width + kNormPad) * 2; }

// The rows to be multiplied, not yet divided by their norm; squares[warp][token]: the warp's part of a token's sum of squares.
template <typename Op>
__device__ __forceinline__ void make_rows(const Op& op, __nv_bfloat16* rows, float (&squares)[kGemvWarps][kGemvTokens]) {
  using Numbers = Eight<__nv_bfloat16>;
  for (int token = 0; token < op.tokens; ++token) {
    const int row = token * op.width;
    float square = 0;
#pragma unroll 1  // the ring of loads leaves no registers for more
    for (int at = threadIdx.x * 8; at < op.width; at += kGemvWarps * 32 * 8) {
      const Numbers a = Numbers::load(op.x + row + at), b = Numbers::load(op.residual + row + at), gain = Numbers::load(op.gain + at);
      Numbers total, scaled;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        total.value[i] = narrow<__nv_bfloat16>(widen(a.value[i]) + widen(b.value[i]));
        const float wide = widen(total.value[i]);
        square += wide * wide;
        scaled.value[i] = narrow<__nv_bfloat16>(wide * widen(gain.value[i]));
      }
      if (blockIdx.x == 0) total.store(op.sum + row + at);
      scaled.store(rows + token * (op.width + kNormPad) + at);
    }
    square = sum_lanes<32>(square);
    if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32][token] = square;
  }
}

template <typename Weight, bool kGated>
__global__ void __launch_bounds__(kGemvWarps * 32, 3) gemv_norm_kernel(const GemvNorm<Weight> op) {
  constexpr bool kFp8 = sizeof(Weight) == 1;
  constexpr int kLane = 16 / sizeof(Weight), kSlab = 4 * kLane, kRing = 4;  // numbers of a lane and of a slab; slabs in flight
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ float shared[kGemvWarps][kGemvTokens][kGemvRows], squares[kGemvWarps][kGemvTokens];
  __nv_bfloat16* const rows = reinterpret_cast<__nv_bfloat16*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, place = lane % 4 * kLane;
  constexpr int kTaken = kGated ? kGemvRows / 2 : kGemvRows;  // results of a block
  const int slabs = (op.width + kSlab - 1) / kSlab, first = blockIdx.x * kTaken, results = kGated ? op.rows / 2 : op.rows;
  const int begin = slabs * warp / kGemvWarps * kSlab, end = min(slabs * (warp + 1) / kGemvWarps * kSlab, op.width);
  const auto row = [&](int number) { return op.weight + static_cast<std::int64_t>(number) * op.width + place; };
  const Weight* const top = row(min(first + group, results - 1));
  const Weight* const bottom = row(kGated ? results + min(first + group, results - 1) : min(first + group + 8, results - 1));

  uint4 ring[kRing][2];
  const auto fetch = [&](uint4(&slab)[2], int at) {
    const bool inside = at + place < end;
    slab[0] = inside ? load_once(top + at) : uint4{};
    slab[1] = inside ? load_once(bottom + at) : uint4{};
  };
#pragma unroll
  for (int n = 0; n < kRing; ++n) fetch(ring[n], begin + n * kSlab);
  make_rows(op, rows, squares);
  __syncthreads();

  const __nv_bfloat16* const mine = rows + min(group, op.tokens - 1) * (op.width + kNormPad) + place;
  float part[4] = {};
#pragma unroll 1
  for (int at = begin; at < end; at += kRing * kSlab)
#pragma unroll
    for (int n = 0; n < kRing; ++n) {
      const int here = at + n * kSlab;
      const bool inside = here + place < end;
      const uint4 zero{}, *numbers = reinterpret_cast<const uint4*>(mine + here), above = ring[n][0], below = ring[n][1];
      const uint4 left = inside ? numbers[0] : zero;
      if constexpr (kFp8) {
        const uint4 right = inside ? numbers[1] : zero;
        const auto add = [&](std::uint32_t high_row, std::uint32_t low_row, std::uint32_t even, std::uint32_t odd) {
          const uint2 high = widen_fp8(high_row), low = widen_fp8(low_row);
          multiply<__nv_bfloat16>(part, {high.x, low.x, high.y, low.y}, __byte_perm(even, odd, 0x5410), __byte_perm(even, odd, 0x7632));
        };
        add(above.x, below.x, left.x, left.y);
        add(above.y, below.y, left.z, left.w);
        add(above.z, below.z, right.x, right.y);
        add(above.w, below.w, right.z, right.w);
      } else {
        multiply<__nv_bfloat16>(part, {above.x, below.x, above.y, below.y}, left.x, left.y);
        multiply<__nv_bfloat16>(part, {above.z, below.z, above.w, below.w}, left.z, left.w);
      }
      fetch(ring[n], here + kRing * kSlab);
    }
#pragma unroll
  for (int n = 0; n < 4; ++n) shared[warp][lane % 4 * 2 + n % 2][n / 2 * 8 + group] = part[n];
  __syncthreads();
  const int token = threadIdx.x / kTaken, place_in = threadIdx.x % kTaken, number = first + place_in;
  if (token < op.tokens && number < results) {
    float sum = 0, up = 0, square = 0;
#pragma unroll
    for (int other = 0; other < kGemvWarps; ++other) {
      sum += shared[other][token][place_in];
      if constexpr (kGated) up += shared[other][token][place_in + kTaken];
      square += squares[other][token];
    }
    const float divided = rsqrtf(square / op.width + op.eps);
    sum *= kFp8 ? divided * op.scales[number] : divided;
    if constexpr (kGated) {
      up *= kFp8 ? divided * op.scales[results + number] : divided;
      sum = sum / (1.0f + __expf(-sum)) * up;
    }
    op.out[static_cast<std::int64_t>(token) * results + number] = narrow<__nv_bfloat16>(sum);
  }
}

// 1 to 8 tokens whose rows fit into kNormBytes; the width is a multiple of 16, the rows of a gated product are an even number.
template <typename Weight>
cudaError_t launch_gemv_norm(const GemvNorm<Weight>& op, bool gated, cudaStream_t stream) {
  const auto bytes = static_cast<std::size_t>(gemv_norm_bytes(op.tokens, op.width));
  const int blocks = (op.rows + kGemvRows - 1) / kGemvRows;  // of 16 rows, or of twice 8
  if (gated)
    gemv_norm_kernel<Weight, true><<<blocks, kGemvWarps * 32, bytes, stream>>>(op);
  else
    gemv_norm_kernel<Weight, false><<<blocks, kGemvWarps * 32, bytes, stream>>>(op);
  return cudaGetLastError();
}

}  // namespace evostreaming
