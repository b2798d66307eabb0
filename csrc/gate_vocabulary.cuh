// The gate's op and its pass over the vocabulary on the GPU: every warp takes 16 rows of the head against 8 to 32 streams on the tensor cores
// and keeps only a log-sum-exp partial and an argmax. The head is read once and logits are never stored. Raw pointers, no framework.
#pragma once

#include "logits.cuh"
#include "vector.cuh"

namespace evostreaming {

enum class GateMode : int { kGreedy = 0, kSoftmax = 1, kPair = 2 };

// log-sum-exp of a run of the vocabulary as top + log(sum), and the first of its largest logits.
struct Partial {
  float top, sum;
  int best;
};

template <typename T>
struct Gate {
  const T* rows;       // (streams, width)
  const T* weight;     // (width)
  const T* head;       // (vocabulary, width)
  const std::int32_t* resting;  // (streams) turns of enforced silence left; null: no stream rests
  T* normalized;       // (streams, width)
  Partial* partial;    // (streams, runs)
  float* silence_logit;  // (streams)
  bool* speak;         // (streams)
  float* probability;  // (streams)
  int streams, width, vocabulary, silence, marker;
  GateMode mode;
  float eps, threshold;
};

constexpr int kRunRows = 32;  // vocabulary rows of one block: small, so that all processors finish together

__device__ __forceinline__ void join(Partial& all, const Partial& other) {
  const float top = fmaxf(all.top, other.top);
  const float scale = all.top == top ? 1.0f : __expf(all.top - top), other_scale = other.top == top ? 1.0f : __expf(other.top - top);
  if (other.top > all.top || (other.top == all.top && other.best < all.best)) all.best = other.best;
  all.sum = all.sum * scale + other.sum * other_scale;
  all.top = top;
}

// 16 bytes of global memory to shared memory, behind the back of the registers.
__device__ __forceinline__ void copy_sixteen(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(to))), "l"(from) : "memory");
}
// As `load_once`, but not of memory that is said never to change: the assembler moves such a load behind the barrier that it should run ahead of.
__device__ __forceinline__ uint4 load_now(const void* from) {
  uint4 word;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w) : "l"(from));
  return word;
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ __forceinline__ Partial shuffle(const Partial& from, int offset) {
  return {__shfl_xor_sync(0xffffffffu, from.top, offset), __shfl_xor_sync(0xffffffffu, from.sum, offset),
          __shfl_xor_sync(0xffffffffu, from.best, offset)};
}

// Partials of a warp's 16 rows, from fragments as `Logits` leaves them, to `shared` (kTiles * 8), one a stream.
template <typename T, int kTiles>
__device__ __forceinline__ void join_rows(const Gate<T>& op, int first_row, int first_stream, const float (&logit)[kTiles][4], Partial* shared) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int column = tile * 8 + lane % 4 * 2 + n;
      Partial all = {-INFINITY, 0.0f, op.vocabulary};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + half * 8 + lane / 4;
        const float value = logit[tile][half * 2 + n];
        if (row < op.vocabulary) join(all, {value, 1.0f, row});
        if (row == op.silence && first_stream + column < op.streams) op.silence_logit[first_stream + column] = value;
      }
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) join(all, shuffle(all, offset));
      if (lane < 4) shared[column] = all;
    }
}

inline __host__ __device__ int gate_runs(int vocabulary) { return (vocabulary + kRunRows - 1) / kRunRows; }

// Partials of the block's runs, of kWarps warps each, to memory.
template <int kWarps, int kStreams, typename T, int kBlockWarps>
__device__ __forceinline__ void leave_runs(const Gate<T>& op, int first_stream, const Partial (&shared)[kBlockWarps][kStreams]) {
  constexpr int kRuns = kBlockWarps / kWarps;
  __syncthreads();
  const int run = threadIdx.x / kStreams, column = threadIdx.x % kStreams, all_runs = gate_runs(op.vocabulary);
  const int place = blockIdx.x * kRuns + run, stream = first_stream + column;
  if (run >= kRuns || place >= all_runs || stream >= op.streams) return;
  Partial all = shared[run * kWarps][column];
#pragma unroll
  for (int other = 1; other < kWarps; ++other) join(all, shared[run * kWarps + other][column]);
  op.partial[static_cast<std::int64_t>(stream) * all_runs + place] = all;
}

// Grid (runs, groups of kTiles * 8 streams); the warps of a block share its kRunRows vocabulary rows.
template <typename T, int kTiles>
__global__ void __launch_bounds__(kRunRows * 2, 4) vocabulary_kernel(const Gate<T> op) {
  constexpr int kWarps = kRunRows / 16;
  __shared__ Partial shared[kWarps][kTiles * 8];
  const int warp = threadIdx.x / 32, first_row = blockIdx.x * kRunRows + warp * 16, first_stream = blockIdx.y * kTiles * 8;
  float logit[kTiles][4] = {};
  Logits<T, kTiles>::compute(op, first_row, first_stream, 0, op.width, logit);
  join_rows<T, kTiles>(op, first_row, first_stream, logit, shared[warp]);
  leave_runs<kWarps>(op, first_stream, shared);
}

constexpr int kManyStreams = 32, kManyWarps = 8, kManySlabs = 8, kManyRows = kManyWarps * 16;

// For more than 16 streams. Each warp for itself would ask the L2 cache for as many bytes of the streams' rows as memory for the head's. So the
// warps of a block share them: 256 columns of 32 streams at a time come to shared memory while those before are multiplied, and one pass over
// them serves 128 rows of the head. Products and sums have the order of `vocabulary_kernel`. Grid (groups of 128 rows, groups of 32 streams).
template <typename T>
__global__ void __launch_bounds__(kManyWarps * 32, 2) many_streams_kernel(const Gate<T> op) {
  constexpr int kTiles = kManyStreams / 8, kPieces = kManyStreams * 4;  // pieces of 16 bytes, four of each stream to a slab of 32 columns
  __shared__ uint4 staged[2][kManySlabs][kPieces];
  __shared__ Partial shared[kManyWarps][kManyStreams];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slabs = op.width / 32;
  const int first_row = blockIdx.x * kManyRows + warp * 16, first_stream = blockIdx.y * kManyStreams;
  const auto head_row = [&](int row) {
    return op.head + static_cast<std::int64_t>(min(first_row + row + lane / 4, op.vocabulary - 1)) * op.width + lane % 4 * 8;
  };
  const T* const top = head_row(0);
  const T* const bottom = head_row(8);
  const int piece = threadIdx.x % kPieces;
  const T* const from = op.normalized + static_cast<std::int64_t>(min(first_stream + piece / 4, op.streams - 1)) * op.width + piece % 4 * 8;
  const auto stage = [&](int begin, int buffer) {
#pragma unroll
    for (int n = threadIdx.x / kPieces; n < kManySlabs; n += kManyWarps * 32 / kPieces)
      if (begin + n < slabs) copy_sixteen(&staged[buffer][n][piece], from + (begin + n) * 32);
  };

  float logit[kTiles][4] = {};
  stage(0, 0);
  int buffer = 0;
#pragma unroll 1
  for (int begin = 0; begin < slabs; begin += kManySlabs, buffer ^= 1) {
    uint4 a[kManySlabs][2];
#pragma unroll
    for (int n = 0; n < kManySlabs; ++n) {
      const int at = min(begin + n, slabs - 1) * 32;
      a[n][0] = load_now(top + at);
      a[n][1] = load_now(bottom + at);
    }
    wait_for_copies();
    __syncthreads();  // these columns are there, and nobody reads those before any more
    stage(begin + kManySlabs, buffer ^ 1);
#pragma unroll
    for (int n = 0; n < kManySlabs; ++n) {
      if (begin + n >= slabs) break;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint4 x = staged[buffer][n][tile * 32 + lane];
        multiply<T>(logit[tile], {a[n][0].x, a[n][1].x, a[n][0].y, a[n][1].y}, x.x, x.y);
        multiply<T>(logit[tile], {a[n][0].z, a[n][1].z, a[n][0].w, a[n][1].w}, x.z, x.w);
      }
    }
  }
  join_rows<T, kTiles>(op, first_row, first_stream, logit, shared[warp]);
  leave_runs<kRunRows / 16>(op, first_stream, shared);
}

template <typename T, int kTiles>
void launch_few_streams(const Gate<T>& op, int runs, cudaStream_t stream) {
  const dim3 grid(runs, (op.streams + kTiles * 8 - 1) / (kTiles * 8));
  vocabulary_kernel<T, kTiles><<<grid, kRunRows * 2, 0, stream>>>(op);
}

template <typename T>
void launch_many_streams(const Gate<T>& op, cudaStream_t stream) {
  const dim3 grid((op.vocabulary + kManyRows - 1) / kManyRows, (op.streams + kManyStreams - 1) / kManyStreams);
  many_streams_kernel<T><<<grid, kManyWarps * 32, 0, stream>>>(op);
}

// The pass for every number of streams: grids over runs and groups of streams.
template <typename T>
void launch_vocabulary(const Gate<T>& op, cudaStream_t stream) {
  const int runs = gate_runs(op.vocabulary);
  if (op.streams <= 8)
    launch_few_streams<T, 1>(op, runs, stream);
  else if (op.streams <= 16)
    launch_few_streams<T, 2>(op, runs, stream);
  else if constexpr (std::is_same_v<T, float>)  // no tensor cores
    launch_few_streams<T, 4>(op, runs, stream);
  else
    launch_many_streams(op, stream);
}

}  // namespace evostreaming
