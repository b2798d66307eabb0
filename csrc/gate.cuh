// The speak/no-speak gate on the GPU. Raw pointers, no framework.
//
// pair:       one block a stream: final norm, two logits, decision; every load is issued before the first result is needed.
// vocabulary: norm; then the pass over the vocabulary; then one block a stream joins its partials in a fixed order.
#pragma once

#include "gate_vocabulary.cuh"

namespace evostreaming {

constexpr int kNormThreads = 512, kNormChunks = 4;  // 16,384 wide at most

// Sum over a block of whole warps; every thread gets it. `shared` holds 32 floats and is free again after the call.
__device__ __forceinline__ float sum_block(float value, float* shared) {
  value = sum_lanes<32>(value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.0f;
  value = sum_lanes<32>(value);
  __syncthreads();
  return value;
}

template <typename T>
__device__ __forceinline__ bool rests(const Gate<T>& op, int stream) {
  return op.resting != nullptr && op.resting[stream] > 0;
}

// One block a stream. kPair decides at once from two rows of the head; otherwise the normalized row is written for the vocabulary kernel.
template <typename T, bool kPair>
__global__ void __launch_bounds__(kNormThreads) normalize_kernel(const Gate<T> op) {
  __shared__ float shared[32];
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * op.width;
  const T* silence = op.head + static_cast<std::int64_t>(op.silence) * op.width;
  const T* marker = op.head + static_cast<std::int64_t>(op.marker) * op.width;
  const int chunks = op.width / 8;
  const bool silenced = kPair && rests(op, blockIdx.x);  // asked for here, needed at the end
  Eight<T> x[kNormChunks];
  float square = 0;
  // The head's rows come from memory and nothing depends on where they are: ask for them now, use them after the norm.
  if (kPair)
    for (int chunk = threadIdx.x; chunk < chunks; chunk += blockDim.x) {
      asm volatile("prefetch.global.L1 [%0];" ::"l"(silence + chunk * 8));
      asm volatile("prefetch.global.L1 [%0];" ::"l"(marker + chunk * 8));
      asm volatile("prefetch.global.L1 [%0];" ::"l"(op.weight + chunk * 8));
    }
#pragma unroll
  for (int n = 0; n < kNormChunks; ++n) {
    const int chunk = threadIdx.x + n * blockDim.x;
    if (chunk < chunks) x[n] = Eight<T>::load(op.rows + row + chunk * 8);
  }
#pragma unroll
  for (int n = 0; n < kNormChunks; ++n)
    if (threadIdx.x + n * blockDim.x < chunks)
#pragma unroll
      for (int j = 0; j < 8; ++j) square += widen(x[n].value[j]) * widen(x[n].value[j]);
  const float scale = rsqrtf(sum_block(square, shared) / op.width + op.eps);

  float silent = 0, speaking = 0;
#pragma unroll
  for (int n = 0; n < kNormChunks; ++n) {
    const int chunk = threadIdx.x + n * blockDim.x;
    if (chunk >= chunks) continue;
    const Eight<T> weight = Eight<T>::load(op.weight + chunk * 8);
    // Rounded to T, as every other norm of the model is.
#pragma unroll
    for (int j = 0; j < 8; ++j) x[n].value[j] = narrow<T>(widen(x[n].value[j]) * scale * widen(weight.value[j]));
    if (kPair) {
      const Eight<T> a = Eight<T>::load(silence + chunk * 8), b = Eight<T>::load(marker + chunk * 8);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        silent += widen(x[n].value[j]) * widen(a.value[j]);
        speaking += widen(x[n].value[j]) * widen(b.value[j]);
      }
    } else {
      x[n].store(op.normalized + row + chunk * 8);
    }
  }
  if (kPair) {
    silent = sum_block(silent, shared);
    speaking = sum_block(speaking, shared);
    if (threadIdx.x == 0) {
      const float probability = 1.0f / (1.0f + expf(silent - speaking));
      op.probability[blockIdx.x] = probability;
      op.speak[blockIdx.x] = !silenced && probability >= op.threshold;
    }
  }
}

// One block a stream. Four partials are asked for at once, because each comes from the L2 cache.
template <typename T>
__global__ void __launch_bounds__(1024) decide_kernel(const Gate<T> op, int runs) {
  __shared__ Partial shared[32];
  const Partial nothing = {-INFINITY, 0.0f, op.vocabulary};
  const bool silenced = rests(op, blockIdx.x);
  const Partial* partial = op.partial + static_cast<std::int64_t>(blockIdx.x) * runs;
  Partial all = nothing;
  for (int run = threadIdx.x; run < runs; run += 4 * 1024) {
    Partial next[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) next[n] = run + n * 1024 < runs ? partial[run + n * 1024] : nothing;
#pragma unroll
    for (int n = 0; n < 4; ++n) join(all, next[n]);
  }
  for (int offset = 1; offset < 32; offset *= 2) join(all, shuffle(all, offset));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = all;
  __syncthreads();
  if (threadIdx.x < 32) {
    all = shared[threadIdx.x];
    for (int offset = 1; offset < 32; offset *= 2) join(all, shuffle(all, offset));
    if (threadIdx.x == 0) {
      const float probability = -expm1f(op.silence_logit[blockIdx.x] - all.top - logf(all.sum));
      op.probability[blockIdx.x] = probability;
      op.speak[blockIdx.x] = !silenced && (op.mode == GateMode::kGreedy ? all.best != op.silence : probability >= op.threshold);
    }
  }
}

// The width is a multiple of 32, at most 16,384.
template <typename T>
cudaError_t launch_gate(const Gate<T>& op, cudaStream_t stream) {
  if (op.streams == 0) return cudaSuccess;
  const int threads = min(kNormThreads, (op.width / 8 + 31) / 32 * 32);
  if (op.mode == GateMode::kPair) {
    normalize_kernel<T, true><<<op.streams, threads, 0, stream>>>(op);
    return cudaGetLastError();
  }
  normalize_kernel<T, false><<<op.streams, threads, 0, stream>>>(op);
  launch_vocabulary(op, stream);
  decide_kernel<T><<<op.streams, 1024, 0, stream>>>(op, gate_runs(op.vocabulary));
  return cudaGetLastError();
}

}  // namespace evostreaming
