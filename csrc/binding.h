// What both binding files share: checks of the tensors that come in, and the call for an element type.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

namespace evostreaming {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check(const Tensor& tensor, const char* name, ScalarType type, int64_t numel) {
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.is_contiguous() && tensor.numel() == numel, name,
                  " has another dtype, number of elements or layout than this op takes");
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}
template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// call(T{}) with the element type of a floating tensor.
template <typename B16, typename F16, typename Call>
void with_type(const Tensor& tensor, Call call) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return call(float{});
    case ScalarType::BFloat16: return call(B16{});
    case ScalarType::Half: return call(F16{});
    default: STD_TORCH_CHECK(false, "this op takes float32, bfloat16 and float16");
  }
}

struct AppendSizes {
  int64_t tokens, heads, kv_heads, dim;
};

inline AppendSizes check_append(const Tensor& qkv, const std::optional<Tensor>& bias, const std::optional<Tensor>& q_norm,
                                const std::optional<Tensor>& k_norm, const Tensor& cos, const Tensor& sin, const Tensor& slots,
                                const Tensor& key_pages, const Tensor& value_pages) {
  STD_TORCH_CHECK(qkv.dim() == 2 && key_pages.dim() == 4, "append takes qkv (T, (H + 2K)D) and pages (N, S, K, D)");
  AppendSizes size{qkv.size(0), 0, key_pages.size(2), key_pages.size(3)};
  size.heads = qkv.size(1) / size.dim - 2 * size.kv_heads;
  const ScalarType type = qkv.scalar_type();
  check(qkv, "qkv", type, size.tokens * (size.heads + 2 * size.kv_heads) * size.dim);
  check(cos, "cos", ScalarType::Float, size.tokens * size.dim / 2);
  check(sin, "sin", ScalarType::Float, size.tokens * size.dim / 2);
  check(slots, "slots", ScalarType::Long, size.tokens);
  check(key_pages, "key_pages", type, key_pages.numel());
  check(value_pages, "value_pages", type, key_pages.numel());
  if (bias) check(*bias, "bias", type, qkv.size(1));
  if (q_norm) check(*q_norm, "q_norm", type, size.dim);
  if (k_norm) check(*k_norm, "k_norm", type, size.dim);
  STD_TORCH_CHECK(size.heads > 0 && size.dim % 2 == 0, "append needs query heads and an even head dimension");
  return size;
}

inline void check_gate(const Tensor& rows, const Tensor& weight, const Tensor& head, int64_t silence, int64_t marker,
                       const std::optional<Tensor>& resting) {
  STD_TORCH_CHECK(rows.dim() == 2 && head.dim() == 2, "gate takes rows (B, h) and head (V, h)");
  const ScalarType type = rows.scalar_type();
  check(rows, "rows", type, rows.size(0) * weight.numel());
  check(weight, "weight", type, rows.size(1));
  check(head, "head", type, head.size(0) * rows.size(1));
  if (resting) check(*resting, "resting", ScalarType::Int, rows.size(0));
  STD_TORCH_CHECK(silence >= 0 && silence < head.size(0) && marker >= 0 && marker < head.size(0), "the gate's tokens are rows of the head");
}

inline void check_preprocess(const Tensor& frames, const Tensor& first_y, const Tensor& weights_y, const Tensor& first_x,
                             const Tensor& weights_x, const std::vector<double>& mean, const std::vector<double>& deviation, int64_t patch,
                             int64_t merge, const std::vector<int64_t>& color, const Tensor& out) {
  const bool nv12 = !color.empty();
  STD_TORCH_CHECK(frames.dim() == (nv12 ? 3 : 4), "preprocess takes frames (B, H, W, 3), or (B, 3H/2, W) with a color matrix");
  check(frames, "frames", ScalarType::Byte, frames.numel());
  STD_TORCH_CHECK(nv12 ? frames.size(1) % 3 == 0 && frames.size(2) % 2 == 0 && color.size() == 5 : frames.size(3) == 3,
                  "frames have three channels, or an even height and width with a color matrix of five numbers");
  for (const auto& [first, weights] : {std::tie(first_y, weights_y), std::tie(first_x, weights_x)}) {
    STD_TORCH_CHECK(weights.dim() == 4 && weights.size(0) <= 2 && weights.size(3) == 4, "a resize table is (planes, taps / 4, outputs, 4)");
    check(first, "first", ScalarType::Int, weights.size(2));
    check(weights, "weights", ScalarType::Short, weights.numel());
    STD_TORCH_CHECK(patch > 0 && merge > 0 && weights.size(2) % (patch * merge) == 0, "the size is a multiple of patch * merge");
  }
  STD_TORCH_CHECK(mean.size() == 3 && deviation.size() == 3, "mean and std are three numbers");
  check(out, "out", out.scalar_type(), frames.size(0) * weights_y.size(2) * weights_x.size(2) * 3);
}

}  // namespace evostreaming
