// From the fused projection to rotated queries and cached keys and values, on the GPU. Raw pointers, no framework.
//
// kDim / 16 lanes hold one head, 8 pairs each: the pair (i, i + kDim / 2) of the rotation lies in one lane, both halves come in 16-byte loads,
// and the norm needs a shuffle over the head's lanes alone. A thread's loads do not wait for each other, so one memory latency is paid.
#pragma once

#include "vector.cuh"

namespace evostreaming {

template <typename T>
struct Append {
  const T* qkv;               // (tokens, heads + 2 * kv_heads, dim)
  const T* bias;              // (heads + 2 * kv_heads, dim), or null
  const T* q_norm;            // (dim), or null
  const T* k_norm;            // (dim), or null
  const float* cos;           // (tokens, dim / 2)
  const float* sin;
  const std::int64_t* slots;  // (tokens), negative: not written
  T* key_pages;               // (slots of the pool, kv_heads, dim)
  T* value_pages;
  T* q;                       // (tokens, heads, dim)
  int tokens, heads, kv_heads;
  float eps;
};

template <typename T, int kDim>
__global__ void __launch_bounds__(128) append_kernel(const Append<T> op) {
  constexpr int kLanes = kDim / 16, kHalf = kDim / 2;
  const int all = op.heads + 2 * op.kv_heads;
  const int item = blockIdx.x * (128 / kLanes) + threadIdx.x / kLanes;
  // Lanes without work stay for the shuffles, on the last item.
  const int index = min(item, op.tokens * all - 1);
  const int token = index / all, head = index - token * all, i = threadIdx.x % kLanes * 8;
  const bool query = head < op.heads, value = head >= op.heads + op.kv_heads;

  const T* from = op.qkv + static_cast<std::int64_t>(index) * kDim + i;
  const Eight<T> low = Eight<T>::load(from), high = Eight<T>::load(from + kHalf);
  const std::int64_t angle = static_cast<std::int64_t>(token) * kHalf + i;
  const Eight<float> cos = Eight<float>::load(op.cos + angle), sin = Eight<float>::load(op.sin + angle);
  const std::int64_t slot = op.slots[token];

  float first[8], second[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    first[j] = widen(low.value[j]);
    second[j] = widen(high.value[j]);
  }
  if (op.bias) {
    const Eight<T> a = Eight<T>::load(op.bias + head * kDim + i), b = Eight<T>::load(op.bias + head * kDim + i + kHalf);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      first[j] += widen(a.value[j]);
      second[j] += widen(b.value[j]);
    }
  }
  if (op.q_norm) {
    float square = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) square += first[j] * first[j] + second[j] * second[j];
    square = sum_lanes<kLanes>(square);
    if (!value) {
      const T* norm = (query ? op.q_norm : op.k_norm) + i;
      const float scale = rsqrtf(square / kDim + op.eps);
      const Eight<T> a = Eight<T>::load(norm), b = Eight<T>::load(norm + kHalf);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        first[j] *= scale * widen(a.value[j]);
        second[j] *= scale * widen(b.value[j]);
      }
    }
  }
  if (item != index || (!query && slot < 0)) return;

  Eight<T> a, b;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    a.value[j] = narrow<T>(value ? first[j] : first[j] * cos.value[j] - second[j] * sin.value[j]);
    b.value[j] = narrow<T>(value ? second[j] : second[j] * cos.value[j] + first[j] * sin.value[j]);
  }
  T* to;
  if (query)
    to = op.q + (static_cast<std::int64_t>(token) * op.heads + head) * kDim;
  else
    to = (value ? op.value_pages : op.key_pages) + (slot * op.kv_heads + (head - op.heads) % op.kv_heads) * kDim;
  a.store(to + i);
  b.store(to + i + kHalf);
}

template <typename T, int kDim>
cudaError_t launch_append_of(const Append<T>& op, cudaStream_t stream) {
  constexpr int kItems = 128 / (kDim / 16);
  const int items = op.tokens * (op.heads + 2 * op.kv_heads);
  if (items == 0) return cudaSuccess;
  append_kernel<T, kDim><<<(items + kItems - 1) / kItems, 128, 0, stream>>>(op);
  return cudaGetLastError();
}

// cudaErrorInvalidValue for a head dimension other than 16, 32, 64, 128 and 256.
template <typename T>
cudaError_t launch_append(const Append<T>& op, int dim, cudaStream_t stream) {
  switch (dim) {
    case 16: return launch_append_of<T, 16>(op, stream);
    case 32: return launch_append_of<T, 32>(op, stream);
    case 64: return launch_append_of<T, 64>(op, stream);
    case 128: return launch_append_of<T, 128>(op, stream);
    case 256: return launch_append_of<T, 256>(op, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace evostreaming
