// The ops of EvoStreaming on CUDA; the schemas are in ops.cpp. Everything runs on the current stream and nothing waits for the device.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <limits>

#include "append.cuh"
#include "binding.h"
#include "gate.cuh"
#include "gated_gemm_launch.cuh"
#include "gemv.cuh"
#include "gemv_fp8.cuh"
#include "preprocess.cuh"

namespace evostreaming {

using Float16 = __half;
using BFloat16 = __nv_bfloat16;

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launch(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

Tensor append(Tensor qkv, std::optional<Tensor> bias, std::optional<Tensor> q_norm, std::optional<Tensor> k_norm, double eps, Tensor cos,
              Tensor sin, Tensor slots, Tensor key_pages, Tensor value_pages) {
  const AppendSizes size = check_append(qkv, bias, q_norm, k_norm, cos, sin, slots, key_pages, value_pages);
  STD_TORCH_CHECK(qkv.numel() / 16 <= std::numeric_limits<int>::max(), "too many tokens for one call of append");
  const torch::stable::accelerator::DeviceGuard guard(qkv.get_device_index());
  Tensor q = torch::stable::new_empty(qkv, {size.tokens, size.heads, size.dim});
  with_type<BFloat16, Float16>(qkv, [&](auto zero) {
    using T = decltype(zero);
    const Append<T> op{data<T>(qkv), data<T>(bias), data<T>(q_norm), data<T>(k_norm), data<float>(cos), data<float>(sin), data<int64_t>(slots),
                       mutable_data<T>(key_pages), mutable_data<T>(value_pages), mutable_data<T>(q), static_cast<int>(size.tokens),
                       static_cast<int>(size.heads), static_cast<int>(size.kv_heads), static_cast<float>(eps)};
    check_launch(launch_append(op, static_cast<int>(size.dim), current_stream(qkv)), "append (head dimension 16, 32, 64, 128 or 256)");
  });
  return q;
}

std::tuple<Tensor, Tensor> gate(Tensor rows, Tensor weight, double eps, Tensor head, int64_t silence, int64_t marker, int64_t mode,
                                double threshold, std::optional<Tensor> resting) {
  check_gate(rows, weight, head, silence, marker, resting);
  const int64_t streams = rows.size(0), width = rows.size(1), vocabulary = head.size(0);
  STD_TORCH_CHECK(width % 32 == 0 && width <= kNormThreads * kNormChunks * 8 && vocabulary <= std::numeric_limits<int>::max(),
                  "gate takes rows of a multiple of 32 numbers, 16,384 at most; these have ", width);
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  Tensor speak = torch::stable::new_empty(rows, {streams}, ScalarType::Bool);
  Tensor probability = torch::stable::new_empty(rows, {streams}, ScalarType::Float);
  const bool pair = static_cast<GateMode>(mode) == GateMode::kPair;
  const int64_t runs = pair ? 0 : gate_runs(static_cast<int>(vocabulary));
  Tensor normalized = torch::stable::new_empty(rows, {pair ? 0 : streams, width});
  // `runs` partials of three words a stream, then its silence logit.
  Tensor partial = torch::stable::new_empty(rows, {streams * (3 * runs + 1)}, ScalarType::Float);
  with_type<BFloat16, Float16>(rows, [&](auto zero) {
    using T = decltype(zero);
    Gate<T> op{};
    op.rows = data<T>(rows);
    op.weight = data<T>(weight);
    op.head = data<T>(head);
    op.resting = data<int32_t>(resting);
    op.normalized = mutable_data<T>(normalized);
    op.partial = mutable_data<Partial>(partial);
    op.silence_logit = mutable_data<float>(partial) + 3 * runs * streams;
    op.speak = mutable_data<bool>(speak);
    op.probability = mutable_data<float>(probability);
    op.streams = static_cast<int>(streams);
    op.width = static_cast<int>(width);
    op.vocabulary = static_cast<int>(vocabulary);
    op.silence = static_cast<int>(silence);
    op.marker = static_cast<int>(marker);
    op.mode = static_cast<GateMode>(mode);
    op.eps = static_cast<float>(eps);
    op.threshold = static_cast<float>(threshold);
    check_launch(launch_gate(op, current_stream(rows)), "gate");
  });
  return {speak, probability};
}

Tensor gemv(Tensor x, Tensor weight) {
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2 && x.size(1) == weight.size(1) && x.size(0) > 0 && x.size(0) <= kGemvTokens &&
                      x.size(1) % 32 == 0 && weight.size(0) <= std::numeric_limits<int>::max(),
                  "gemv takes 1 to 8 tokens whose width is that of the weight, a multiple of 32");
  check(x, "x", weight.scalar_type(), x.numel());
  check(weight, "weight", weight.scalar_type(), weight.numel());
  STD_TORCH_CHECK(reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0, "x begins at a multiple of 16 bytes");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor out = torch::stable::new_empty(x, {x.size(0), weight.size(0)});
  with_type<BFloat16, Float16>(x, [&](auto zero) {
    using T = decltype(zero);
    const Gemv<T> op{data<T>(weight), data<T>(x), mutable_data<T>(out), static_cast<int>(x.size(0)), static_cast<int>(x.size(1)),
                     static_cast<int>(weight.size(0))};
    check_launch(launch_gemv(op, current_stream(x)), "gemv");
  });
  return out;
}

Tensor gemv_fp8(Tensor x, Tensor weight, Tensor scales) {
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2 && x.size(1) == weight.size(1) && x.size(0) > 0 && x.size(0) <= kGemvTokens &&
                      x.size(1) > 0 && x.size(1) % 16 == 0 && weight.size(0) <= std::numeric_limits<int>::max(),
                  "gemv_fp8 takes 1 to 8 tokens whose width is that of the weight, a multiple of 16");
  check(x, "x", ScalarType::BFloat16, x.numel());
  check(weight, "weight", ScalarType::Float8_e4m3fn, weight.numel());
  check(scales, "scales", ScalarType::Float, weight.size(0));
  for (const Tensor& tensor : {x, weight})
    STD_TORCH_CHECK(reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % 16 == 0, "x and the weight begin at multiples of 16 bytes");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor out = torch::stable::new_empty(x, {x.size(0), weight.size(0)});
  const GemvFp8 op{data<std::uint8_t>(weight), data<float>(scales), data<BFloat16>(x), mutable_data<BFloat16>(out),
                   static_cast<int>(x.size(0)), static_cast<int>(x.size(1)), static_cast<int>(weight.size(0))};
  check_launch(launch_gemv_fp8(op, current_stream(x)), "gemv_fp8");
  return out;
}

Tensor gated_gemm(Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t tile, int64_t height, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2 && x.size(1) == weight.size(1) && x.numel() > 0 && weight.numel() > 0 &&
                      x.size(1) % 8 == 0 && weight.size(0) % 16 == 0 &&
                      std::max({x.size(0), x.size(1), weight.size(0)}) <= std::numeric_limits<int>::max() / 2,
                  "gated_gemm takes x (T, K) and a weight (2 * I, K), K and I multiples of 8");
  check(x, "x", ScalarType::BFloat16, x.numel());
  check(weight, "weight", ScalarType::BFloat16, weight.numel());
  if (bias) check(*bias, "bias", ScalarType::BFloat16, weight.size(0));
  for (const Tensor& tensor : {x, weight})
    STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == x.get_device_index() &&
                        reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % 16 == 0,
                    "all operands lie on one GPU and begin at multiples of 16 bytes");
  STD_TORCH_CHECK((rows == 1 || rows == 2 || rows == 4) && (columns == 1 || columns == 2 || columns == 4) && rows * columns <= 8,
                  "a cluster has 1, 2 or 4 CTAs each way, 8 at most");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor out = torch::stable::new_empty(x, {x.size(0), weight.size(0) / 2});
  const hopper::Problem problem{data<BFloat16>(x), data<BFloat16>(weight), data<BFloat16>(bias), mutable_data<BFloat16>(out),
                                static_cast<int>(x.size(0)), static_cast<int>(weight.size(0) / 2), static_cast<int>(x.size(1))};
  const hopper::Way way{static_cast<int>(tile), static_cast<int>(height), static_cast<int>(rows), static_cast<int>(columns)};
  check_launch(hopper::launch(problem, way, current_stream(x)), "gated_gemm (a Hopper GPU, a tile it has)");
  return out;
}

void preprocess(Tensor frames, Tensor first_y, Tensor weights_y, int64_t bits_y, Tensor first_x, Tensor weights_x, int64_t bits_x,
                std::vector<double> mean, std::vector<double> deviation, int64_t patch, int64_t merge, std::vector<int64_t> color, Tensor out) {
  check_preprocess(frames, first_y, weights_y, first_x, weights_x, mean, deviation, patch, merge, color, out);
  const auto axis = [](const Tensor& first, const Tensor& weights, int64_t bits, int64_t in) {
    const int taps = static_cast<int>(weights.size(1) * 4), outputs = static_cast<int>(weights.size(2));
    const int16_t* coarse = data<int16_t>(weights);
    return Axis{data<int32_t>(first), coarse, weights.size(0) == 2 ? coarse + taps * outputs : nullptr, taps, static_cast<int>(bits),
                static_cast<int>(in), outputs, 0};
  };
  const torch::stable::accelerator::DeviceGuard guard(frames.get_device_index());
  with_type<BFloat16, Float16>(out, [&](auto zero) {
    using T = decltype(zero);
    Preprocess<T> op{};
    op.frames = data<uint8_t>(frames);
    op.out = mutable_data<T>(out);
    op.rows = axis(first_y, weights_y, bits_y, color.empty() ? frames.size(1) : frames.size(1) / 3 * 2);
    op.columns = axis(first_x, weights_x, bits_x, frames.size(2));
    op.patch = static_cast<int>(patch);
    op.merge = static_cast<int>(merge);
    op.frame_bytes = frames.size(0) ? frames.numel() / frames.size(0) : 0;
    for (int channel = 0; channel < 3; ++channel) {
      op.center[channel] = 255 * static_cast<float>(mean[channel]);
      op.spread[channel] = 255 * static_cast<float>(deviation[channel]);
    }
    if (!color.empty()) {
      int* const matrix[] = {&op.luma, &op.red_v, &op.green_u, &op.green_v, &op.blue_u};
      for (int i = 0; i < 5; ++i) *matrix[i] = static_cast<int>(color[i]);
    }
    check_launch(launch_preprocess(op, static_cast<int>(frames.size(0)), current_stream(frames)), "preprocess (the frame shrinks too much)");
  });
}

}  // namespace evostreaming

// What a CPU has no use for; the schemas of all other ops are in ops.cpp.
STABLE_TORCH_LIBRARY_FRAGMENT(evostreaming, library) {
  library.def("gated_gemm(Tensor x, Tensor weight, Tensor? bias, int tile, int height, int rows, int columns) -> Tensor");
  library.def("gemv(Tensor x, Tensor weight) -> Tensor");
  library.def("gemv_fp8(Tensor x, Tensor weight, Tensor scales) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(evostreaming, CUDA, library) {
  library.impl("append", TORCH_BOX(&evostreaming::append));
  library.impl("gate", TORCH_BOX(&evostreaming::gate));
  library.impl("gated_gemm", TORCH_BOX(&evostreaming::gated_gemm));
  library.impl("gemv", TORCH_BOX(&evostreaming::gemv));
  library.impl("gemv_fp8", TORCH_BOX(&evostreaming::gemv_fp8));
  library.impl("preprocess", TORCH_BOX(&evostreaming::preprocess));
}
