// Sixteen bytes at a time: loads, stores and conversions that the CUDA kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace evostreaming {

template <typename T>
__device__ __forceinline__ float widen(T value) {
  return static_cast<float>(value);
}
template <typename T>
__device__ __forceinline__ T narrow(float value);
template <>
__device__ __forceinline__ float narrow<float>(float value) { return value; }
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) { return __float2bfloat16_rn(value); }
template <>
__device__ __forceinline__ __half narrow<__half>(float value) { return __float2half_rn(value); }

// Eight neighbors of type T, moved as 16-byte words.
template <typename T>
struct alignas(16) Eight {
  T value[8];

  __device__ __forceinline__ static Eight load(const T* from) {
    Eight eight;
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(Eight) / 16); ++i)
      reinterpret_cast<uint4*>(&eight)[i] = __ldg(reinterpret_cast<const uint4*>(from) + i);
    return eight;
  }
  __device__ __forceinline__ void store(T* to) const {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(Eight) / 16); ++i) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(this)[i];
  }
};

// Sum over groups of kLanes neighboring lanes; every lane gets it, in an order that never changes.
template <int kLanes>
__device__ __forceinline__ float sum_lanes(float value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

}  // namespace evostreaming
