// The speak/no-speak gate on the CPU: final norm, logits, running log-sum-exp and argmax. Raw pointers, no framework.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "numbers.h"

namespace evostreaming {

enum class GateMode : std::int64_t { kGreedy = 0, kSoftmax = 1, kPair = 2 };

// What a run of the vocabulary says about one stream: log-sum-exp as top + log(sum), and the first of the largest logits.
struct Partial {
  float top = -std::numeric_limits<float>::infinity();
  float sum = 0;
  std::int64_t best = 0;

  void add(float logit, std::int64_t token) {
    if (logit > top) {
      sum = sum * std::exp(top - logit) + 1;
      top = logit;
      best = token;
    } else {
      // A NaN comes here too and stays in the sum.
      sum += top == -std::numeric_limits<float>::infinity() ? logit - logit : std::exp(logit - top);
    }
  }

  void join(const Partial& later) {
    if (later.top > top) {
      sum = sum * std::exp(top - later.top) + later.sum;
      top = later.top;
      best = later.best;
    } else {
      sum += later.top == -std::numeric_limits<float>::infinity() ? later.sum : later.sum * std::exp(later.top - top);
    }
  }
};

// RMSNorm of one row, rounded to T as every other norm of the model is.
template <typename T>
void normalize_row(const T* row, const T* weight, float eps, std::int64_t width, T* out) {
  const float scale = 1.0f / std::sqrt(dot(row, row, width) / width + eps);
  for (std::int64_t i = 0; i < width; ++i) out[i] = narrow<T>(widen(row[i]) * scale * widen(weight[i]));
}

// Vocabulary rows [begin, end) against `streams` normalized rows; partial (streams). The head is read once for all streams.
template <typename T>
void scan_vocabulary(const T* normalized, std::int64_t streams, const T* head, std::int64_t width, std::int64_t begin, std::int64_t end,
                     Partial* partial) {
  for (std::int64_t token = begin; token < end; ++token)
    for (std::int64_t stream = 0; stream < streams; ++stream)
      partial[stream].add(dot(normalized + stream * width, head + token * width, width), token);
}

inline float speak_probability(float silence_logit, const Partial& all) {
  return -std::expm1(silence_logit - all.top - std::log(all.sum));
}

inline float pair_probability(float silence_logit, float marker_logit) { return 1.0f / (1.0f + std::exp(silence_logit - marker_logit)); }

}  // namespace evostreaming
