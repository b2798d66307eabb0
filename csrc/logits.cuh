// Logits of a few vocabulary rows for a few streams by one warp: the head from memory straight to the tensor cores.
#pragma once

#include <type_traits>

#include "vector.cuh"

namespace evostreaming {

template <typename T>
__device__ __forceinline__ void multiply(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply<__half>(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint4 load_once(const void* from) {
  uint4 word;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w) : "l"(from));
  return word;
}

// `op` has head (vocabulary, width), normalized (streams, width) and their sizes.
//
// Logits, or their part from `begin` to `end` of the inner dimension, of the warp's 16 vocabulary rows: logit[tile][0..1] of row lane / 4,
// [2..3] of row lane / 4 + 8, for streams tile * 8 + lane % 4 * 2 + {0, 1}.
//
// The order of the inner dimension is free as long as both operands agree. A lane takes 8 neighbors of a slab of 32 in one 16-byte load, and they
// serve as its fragments of two products: no shared memory, no transposition, whole sectors.
//
// kSlabs: slabs that are loaded together, by default 16 loads of 16 bytes in flight a lane.
template <typename T, int kTiles, int kSlabs = 8>
struct Logits {
  template <typename Op>
  __device__ __forceinline__ static void compute(const Op& op, int first_row, int first_stream, int begin, int end,
                                                 float (&logit)[kTiles][4]) {
    const int lane = threadIdx.x % 32, group = lane / 4, place = lane % 4 * 8;
    const T* row[2];
    const T* stream[kTiles];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      row[half] = op.head + static_cast<std::int64_t>(min(first_row + half * 8 + group, op.vocabulary - 1)) * op.width + place;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      stream[tile] = op.normalized + static_cast<std::int64_t>(min(first_stream + tile * 8 + group, op.streams - 1)) * op.width + place;

    const auto slabs = [&](int at, auto count) {
      constexpr int kCount = decltype(count)::value;
      uint4 a[kCount][2];
#pragma unroll
      for (int n = 0; n < kCount; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) a[n][half] = load_once(row[half] + at + n * 32);
#pragma unroll
      for (int n = 0; n < kCount; ++n)
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const uint4 x = __ldg(reinterpret_cast<const uint4*>(stream[tile] + at + n * 32)), top = a[n][0], bottom = a[n][1];
          multiply<T>(logit[tile], {top.x, bottom.x, top.y, bottom.y}, x.x, x.y);
          multiply<T>(logit[tile], {top.z, bottom.z, top.w, bottom.w}, x.z, x.w);
        }
    };
    int at = begin;
#pragma unroll 1
    for (; at + kSlabs * 32 <= end; at += kSlabs * 32) slabs(at, std::integral_constant<int, kSlabs>{});
    if (kSlabs > 2)
#pragma unroll 1
      for (; at + 64 <= end; at += 64) slabs(at, std::integral_constant<int, 2>{});
#pragma unroll 1
    for (; at < end; at += 32) slabs(at, std::integral_constant<int, 1>{});
  }
};

// float32 has no tensor core of its own precision: lanes share a row's inner dimension, then every lane keeps what belongs to its fragment.
template <int kTiles, int kSlabs>
struct Logits<float, kTiles, kSlabs> {
  template <typename Op>
  __device__ __forceinline__ static void compute(const Op& op, int first_row, int first_stream, int begin, int end,
                                                 float (&logit)[kTiles][4]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      for (int row = 0; row < 8; ++row) {
        const float* head = op.head + static_cast<std::int64_t>(min(first_row + half * 8 + row, op.vocabulary - 1)) * op.width;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          float sum[8] = {};
          for (int i = begin + lane; i < end; i += 32)
#pragma unroll
            for (int n = 0; n < 8; ++n)
              sum[n] += head[i] * op.normalized[static_cast<std::int64_t>(min(first_stream + tile * 8 + n, op.streams - 1)) * op.width + i];
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            sum[n] = sum_lanes<32>(sum[n]);
            if (lane / 4 == row && lane % 4 == n / 2) logit[tile][half * 2 + n % 2] = sum[n];
          }
        }
      }
  }
};

}  // namespace evostreaming
