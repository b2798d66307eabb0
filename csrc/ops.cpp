// The ops of EvoStreaming: their schemas, and their implementation on the CPU. Stable ABI: one build serves torch 2.11 and later.
#include "append.h"
#include "binding.h"
#include "gate.h"
#include "preprocess.h"
#include "resize_table.h"

namespace evostreaming {

using torch::stable::parallel_for;

Tensor append(Tensor qkv, std::optional<Tensor> bias, std::optional<Tensor> q_norm, std::optional<Tensor> k_norm, double eps, Tensor cos,
              Tensor sin, Tensor slots, Tensor key_pages, Tensor value_pages) {
  const AppendSizes size = check_append(qkv, bias, q_norm, k_norm, cos, sin, slots, key_pages, value_pages);
  const int64_t* slot = data<int64_t>(slots);
  const int64_t pool = size.kv_heads * size.dim == 0 ? 0 : key_pages.numel() / (size.kv_heads * size.dim);
  for (int64_t token = 0; token < size.tokens; ++token)
    STD_TORCH_CHECK(slot[token] < pool, "slot ", slot[token], " of token ", token, " is beyond the pool of ", pool);
  Tensor q = torch::stable::new_empty(qkv, {size.tokens, size.heads, size.dim});
  with_type<BFloat16, Float16>(qkv, [&](auto zero) {
    using T = decltype(zero);
    const Append<T> op{data<T>(qkv),   data<T>(bias),      data<T>(q_norm),           data<T>(k_norm), data<float>(cos), data<float>(sin), slot,
                       mutable_data<T>(key_pages), mutable_data<T>(value_pages), mutable_data<T>(q), size.heads, size.kv_heads, size.dim,
                       static_cast<float>(eps)};
    parallel_for(0, size.tokens, 8, [&](int64_t begin, int64_t end) { append_tokens(op, begin, end); });
  });
  return q;
}

std::tuple<Tensor, Tensor> gate(Tensor rows, Tensor weight, double eps, Tensor head, int64_t silence, int64_t marker, int64_t mode,
                                double threshold, std::optional<Tensor> resting) {
  check_gate(rows, weight, head, silence, marker, resting);
  const int64_t streams = rows.size(0), width = rows.size(1), vocabulary = head.size(0);
  Tensor normalized = torch::stable::new_empty(rows, {streams, width});
  Tensor speak = torch::stable::new_empty(rows, {streams}, ScalarType::Bool);
  Tensor probability = torch::stable::new_empty(rows, {streams}, ScalarType::Float);
  with_type<BFloat16, Float16>(rows, [&](auto zero) {
    using T = decltype(zero);
    T* row = mutable_data<T>(normalized);
    bool* speaks = mutable_data<bool>(speak);
    float* chance = mutable_data<float>(probability);
    const int32_t* turns = data<int32_t>(resting);
    const auto awake = [&](int64_t stream) { return turns == nullptr || turns[stream] <= 0; };
    const auto logit = [&](int64_t stream, int64_t token) { return dot(row + stream * width, data<T>(head) + token * width, width); };
    for (int64_t stream = 0; stream < streams; ++stream)
      normalize_row(data<T>(rows) + stream * width, data<T>(weight), static_cast<float>(eps), width, row + stream * width);
    if (static_cast<GateMode>(mode) == GateMode::kPair) {
      for (int64_t stream = 0; stream < streams; ++stream) {
        chance[stream] = pair_probability(logit(stream, silence), logit(stream, marker));
        speaks[stream] = awake(stream) && chance[stream] >= static_cast<float>(threshold);
      }
      return;
    }
    // Runs of fixed length, joined in order: the answer does not depend on the number of threads.
    constexpr int64_t kRun = 512;
    const int64_t runs = (vocabulary + kRun - 1) / kRun;
    std::vector<Partial> partial(runs * streams);
    parallel_for(0, runs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t run = begin; run < end; ++run)
        scan_vocabulary(row, streams, data<T>(head), width, run * kRun, std::min(vocabulary, (run + 1) * kRun), &partial[run * streams]);
    });
    for (int64_t stream = 0; stream < streams; ++stream) {
      Partial all;
      for (int64_t run = 0; run < runs; ++run) all.join(partial[run * streams + stream]);
      chance[stream] = speak_probability(logit(stream, silence), all);
      const bool wants = static_cast<GateMode>(mode) == GateMode::kGreedy ? all.best != silence : chance[stream] >= static_cast<float>(threshold);
      speaks[stream] = wants && awake(stream);
    }
  });
  return {speak, probability};
}

int64_t resize_table(int64_t size_in, int64_t weight_bits, Tensor first, Tensor weights) {
  const int64_t size_out = first.numel();
  STD_TORCH_CHECK(size_in > 0 && size_out > 0, "a resize is from at least one pixel to at least one pixel");
  STD_TORCH_CHECK(weight_bits > 0 && weight_bits <= 23, "weights have 1 to 23 bits");
  check(first, "first", ScalarType::Int, size_out);
  check(weights, "weights", ScalarType::Short, weight_planes(weight_bits) * resize_taps(size_in, size_out) * size_out);
  return fill_resize_table(size_in, size_out, weight_bits, mutable_data<int32_t>(first), mutable_data<int16_t>(weights));
}

void preprocess(Tensor frames, Tensor first_y, Tensor weights_y, int64_t bits_y, Tensor first_x, Tensor weights_x, int64_t bits_x,
                std::vector<double> mean, std::vector<double> deviation, int64_t patch, int64_t merge, std::vector<int64_t> color, Tensor out) {
  check_preprocess(frames, first_y, weights_y, first_x, weights_x, mean, deviation, patch, merge, color, out);
  Color matrix;
  if (!color.empty())
    matrix = {static_cast<int32_t>(color[0]), static_cast<int32_t>(color[1]), static_cast<int32_t>(color[2]), static_cast<int32_t>(color[3]),
              static_cast<int32_t>(color[4])};
  const int64_t height = color.empty() ? frames.size(1) : frames.size(1) / 3 * 2;
  const auto axis = [](const Tensor& first, const Tensor& weights, int64_t bits, int64_t in) {
    return Axis{data<int32_t>(first), data<int16_t>(weights), weights.size(0), weights.size(1) * 4, bits, in, weights.size(2)};
  };
  const Axis rows = axis(first_y, weights_y, bits_y, height), columns = axis(first_x, weights_x, bits_x, frames.size(2));
  std::vector<uint8_t> narrow_rows(rows.in * columns.out * 3);
  for (int64_t index = 0; index < frames.size(0); ++index) {
    const uint8_t* frame = data<uint8_t>(frames) + index * (frames.numel() / frames.size(0));
    parallel_for(0, rows.in, 16, [&](int64_t begin, int64_t end) { resize_rows(frame, rows, columns, matrix, begin, end, narrow_rows.data()); });
    with_type<BFloat16, Float16>(out, [&](auto zero) {
      using T = decltype(zero);
      const Levels<T> levels(mean.data(), deviation.data());
      T* to = mutable_data<T>(out) + index * rows.out * columns.out * 3;
      parallel_for(0, rows.out, 16, [&](int64_t begin, int64_t end) {
        resize_columns(narrow_rows.data(), rows, columns, levels, patch, merge, begin, end, to);
      });
    });
  }
}

}  // namespace evostreaming

STABLE_TORCH_LIBRARY(evostreaming, library) {
  library.def(
      "append(Tensor qkv, Tensor? bias, Tensor? q_norm, Tensor? k_norm, float eps, Tensor cos, Tensor sin, Tensor slots, "
      "Tensor(a!) key_pages, Tensor(b!) value_pages) -> Tensor");
  library.def(
      "gate(Tensor rows, Tensor weight, float eps, Tensor head, int silence, int marker, int mode, float threshold, "
      "Tensor? resting=None) -> (Tensor, Tensor)");
  library.def("resize_table(int size_in, int weight_bits, Tensor(a!) first, Tensor(b!) weights) -> int");
  library.def(
      "preprocess(Tensor frames, Tensor first_y, Tensor weights_y, int bits_y, Tensor first_x, Tensor weights_x, int bits_x, float[] mean, "
      "float[] deviation, int patch, int merge, int[] color, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(evostreaming, CPU, library) {
  library.impl("append", TORCH_BOX(&evostreaming::append));
  library.impl("gate", TORCH_BOX(&evostreaming::gate));
  library.impl("resize_table", TORCH_BOX(&evostreaming::resize_table));
  library.impl("preprocess", TORCH_BOX(&evostreaming::preprocess));
}
