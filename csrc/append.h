// From the fused projection to rotated queries and cached keys and values, on the CPU. Raw pointers, no framework.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "numbers.h"

namespace evostreaming {

// Rows are contiguous. `bias`, `q_norm` and `k_norm` may be null.
template <typename T>
struct Append {
  const T* qkv;         // (tokens, heads + 2 * kv_heads, dim)
  const T* bias;        // (heads + 2 * kv_heads, dim)
  const T* q_norm;      // (dim)
  const T* k_norm;      // (dim)
  const float* cos;     // (tokens, dim / 2)
  const float* sin;
  const std::int64_t* slots;  // (tokens), negative: not written
  T* key_pages;         // (slots of the pool, kv_heads, dim)
  T* value_pages;
  T* q;                 // (tokens, heads, dim)
  std::int64_t heads, kv_heads, dim;
  float eps;
};

// Tokens [begin, end); every token is independent of the others.
template <typename T>
void append_tokens(const Append<T>& op, std::int64_t begin, std::int64_t end) {
  const std::int64_t dim = op.dim, half = dim / 2, rotated = op.heads + op.kv_heads, all = rotated + op.kv_heads;
  std::vector<float> head(dim);
  for (std::int64_t token = begin; token < end; ++token) {
    const float* cos = op.cos + token * half;
    const float* sin = op.sin + token * half;
    const std::int64_t slot = op.slots[token];
    for (std::int64_t index = 0; index < all; ++index) {
      const bool query = index < op.heads;
      if (!query && slot < 0) break;
      const T* from = op.qkv + (token * all + index) * dim;
      for (std::int64_t i = 0; i < dim; ++i) head[i] = widen(from[i]);
      if (op.bias)
        for (std::int64_t i = 0; i < dim; ++i) head[i] += widen(op.bias[index * dim + i]);
      if (index >= rotated) {
        T* to = op.value_pages + (slot * op.kv_heads + index - rotated) * dim;
        for (std::int64_t i = 0; i < dim; ++i) to[i] = narrow<T>(head[i]);
        continue;
      }
      const T* norm = query ? op.q_norm : op.k_norm;
      if (norm) {
        const float scale = 1.0f / std::sqrt(dot(head.data(), head.data(), dim) / dim + op.eps);
        for (std::int64_t i = 0; i < dim; ++i) head[i] = head[i] * scale * widen(norm[i]);
      }
      T* to = query ? op.q + (token * op.heads + index) * dim : op.key_pages + (slot * op.kv_heads + index - op.heads) * dim;
      for (std::int64_t i = 0; i < half; ++i) {
        to[i] = narrow<T>(head[i] * cos[i] - head[i + half] * sin[i]);
        to[i + half] = narrow<T>(head[i + half] * cos[i] + head[i] * sin[i]);
      }
    }
  }
}

}  // namespace evostreaming
