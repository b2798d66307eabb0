// x (tokens, width) · weight (rows, width)^T for at most 8 tokens: bound by the bytes of the weight. Raw pointers, no framework.
//
// A block takes 16 rows of the weight; its warps share the inner dimension and add their parts in a fixed order. Many warps with few loads
// each: a weight of 3584 rows has only 224 blocks, and all of them have to keep the memory busy at once.
#pragma once

#include "logits.cuh"

namespace evostreaming {

constexpr int kGemvTokens = 8, kGemvRows = 16, kGemvWarps = 8, kGemvSlabs = 4;

// Field names are those that `Logits` reads: the weight is a head of `vocabulary` rows.
template <typename T>
struct Gemv {
  const T* head;        // (vocabulary, width)
  const T* normalized;  // (streams, width)
  T* out;               // (streams, vocabulary)
  int streams, width, vocabulary;
};

template <typename T>
__global__ void __launch_bounds__(kGemvWarps * 32, 3) gemv_kernel(const Gemv<T> op) {
  __shared__ float shared[kGemvWarps][kGemvTokens][kGemvRows];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slabs = op.width / 32, first = blockIdx.x * kGemvRows;
  float part[1][4] = {};
  Logits<T, 1, kGemvSlabs>::compute(op, first, 0, slabs * warp / kGemvWarps * 32, slabs * (warp + 1) / kGemvWarps * 32, part);
#pragma unroll
  for (int n = 0; n < 4; ++n) shared[warp][lane % 4 * 2 + n % 2][n / 2 * 8 + lane / 4] = part[0][n];
  __syncthreads();
  const int token = threadIdx.x / kGemvRows, row = threadIdx.x % kGemvRows;
  if (token < op.streams && first + row < op.vocabulary) {
    float sum = 0;
#pragma unroll
    for (int other = 0; other < kGemvWarps; ++other) sum += shared[other][token][row];
    op.out[static_cast<std::int64_t>(token) * op.vocabulary + first + row] = narrow<T>(sum);
  }
}

// 1 to 8 tokens; the width is a multiple of 32.
template <typename T>
cudaError_t launch_gemv(const Gemv<T>& op, cudaStream_t stream) {
  gemv_kernel<T><<<(op.vocabulary + kGemvRows - 1) / kGemvRows, kGemvWarps * 32, 0, stream>>>(op);
  return cudaGetLastError();
}

}  // namespace evostreaming
