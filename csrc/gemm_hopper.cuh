// x (T, K) · weight (N, K)^T in bf16 on Hopper: the weight once from memory, for the tokens of a video frame. The plan is gemm_hopper_plan.cuh.
//
// A CTA has two warpgroups that multiply, 64 weight rows each, and one whose first lane feeds them: blocks of weight and tokens go through a
// ring of stages by the copy engine. A stage is full when all its bytes are there, whichever CTA of the cluster asked for them, and empty when
// every warp of every CTA has left it, since any of them may write to all. What a cluster computes, and the parts of tiles that several share, is
// told in gemm_hopper_plan.cuh and gemm_hopper_meet.cuh.
#pragma once

#include "gemm_hopper_meet.cuh"
#include "gemm_hopper_wgmma.cuh"

namespace evostreaming::hopper {

// The third warpgroup exists for one lane; its registers go to the others, which hold the sums.
constexpr int kWarps = kRows / 16, kThreads = kWarps * 32 + 128, kFewRegisters = 56, kManyRegisters = 224;

// Where this CTA works.
struct Site {
  int rank, cluster, ctas;
  Place place;

  __device__ __forceinline__ explicit Site(const Gemm& op)
      : rank(cluster_rank()), cluster(cluster_index()), ctas(op.rows * op.columns), place(rank, op.columns) {}
  // Tiles of the same weight rows are neighbors: the clusters that work on them at one time find those rows in the L2 cache.
  __device__ __forceinline__ int first_row(const Gemm& op, int tile) const { return (tile / op.token_tiles * op.rows + place.row) * kRows; }
  __device__ __forceinline__ int first_token(const Gemm& op, int tile, int size) const {
    return (tile % op.token_tiles * op.columns + place.column) * size;
  }
};

// The place in the ring, and the parity of the round through it.
struct Ring {
  int slot = 0, parity = 0;

  __device__ __forceinline__ void advance(int stages) {
    if (++slot == stages) slot = 0, parity ^= 1;
  }
};

template <int kTile>
__device__ __forceinline__ void produce(const CUtensorMap& weights, const CUtensorMap& tokens, const Gemm& op, const Site& site,
                                        std::uint32_t ring, std::uint32_t full, std::uint32_t empty) {
  const Slices row_slices = slices(kRows, op.columns), token_slices = slices(kTile, op.rows);
  const std::uint16_t same_rows = site.place.same_rows(op.columns), same_tokens = site.place.same_tokens(op.rows, op.columns);
  const int row_start = row_slices.start(site.place.column);
  const int bytes = (row_slices.rows * op.columns + token_slices.rows * token_slices.each * op.rows) * kLine;
  // Many tokens do not stay in the cache anyhow, and the weight is read again then.
  const std::uint64_t token_policy = op.weights_once ? evict_last() : evict_normal();
  const std::uint64_t weight_policy = op.weights_once ? evict_first() : evict_normal();
  Walk walk(op.schedule, site.cluster);
  Segment segment;
  Ring at;
  while (walk.next(op.schedule, segment)) {
    const int row = site.first_row(op, segment.tile) + row_start, token = site.first_token(op, segment.tile, kTile);
#pragma unroll 1
    for (int block = segment.begin; block < segment.end; ++block) {
      const std::uint32_t stage = ring + at.slot * stage_bytes(kTile), arrived = full + at.slot * 8;
      barrier_wait(empty + at.slot * 8, at.parity ^ 1);
      barrier_expect(arrived, bytes);
      copy_box(weights, stage + row_start * kLine, arrived, block * kDepth, row, same_rows, weight_policy);
      for (int i = 0; i < token_slices.each; ++i) {
        const int start = token_slices.start(site.place.row * token_slices.each + i);
        copy_box(tokens, stage + (kRows + start) * kLine, arrived, block * kDepth, token + start, same_tokens, token_policy);
      }
      at.advance(op.stages);
    }
  }
}

template <bool kGated, int kN, int kParts>
__device__ __forceinline__ void consume(const Gemm& op, const Site& site, char* memory, std::uint32_t full, std::uint32_t empty, int* words) {
  constexpr int kTile = kN * kParts;
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
  const std::uint32_t ring = shared_address(memory);
  char* const staging = memory + op.stages * stage_bytes(kTile) + group * kStaging;
  const auto leave = [&](int slot) {
    if (lane < site.ctas) barrier_arrive_at(empty + slot * 8, lane);
  };
  Walk walk(op.schedule, site.cluster);
  Segment segment;
  Ring at;
  while (walk.next(op.schedule, segment)) {
    Sums<kN, kParts> sums = {};
    int before = 0;
#pragma unroll 1
    for (int block = segment.begin; block < segment.end; ++block) {
      barrier_wait(full + at.slot * 8, at.parity);
      const std::uint32_t stage = ring + at.slot * stage_bytes(kTile);
      const std::uint64_t weights = descriptor(stage + group * (kRows / 2) * kLine), tokens = descriptor(stage + kRows * kLine);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k)
#pragma unroll
        for (int part = 0; part < kParts; ++part) Wgmma<kN>::add(sums.part[part], weights + k * 2, tokens + part * (kN * kLine / 16) + k * 2);
      wgmma_commit();
      wgmma_wait<1>();
      if (block > segment.begin) leave(before);
      before = at.slot;
      at.advance(op.stages);
    }
    wgmma_wait<0>();
    leave(before);
    // The compiler must not read the sums before the wait.
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
      for (int i = 0; i < kN / 2; ++i) asm volatile("" : "+f"(sums.part[part][i])::"memory");
    const int row = site.first_row(op, segment.tile) + group * (kRows / 2), thread = threadIdx.x % 128;
    const Corner corner{kGated ? row / 2 : row, site.first_token(op, segment.tile, kTile), group, thread, staging, words + group};
    if (segment.end - segment.begin == op.schedule.blocks) {
      store_all<kGated>(sums, op, corner);
    } else {
      const Meeting<kGated, kN, kParts> meeting(op, corner, segment.tile, site.cluster, site.rank * 2 + group, site.ctas * 2);
      if (meeting.last - meeting.first == 1)
        meeting.two(sums);
      else
        meeting.many(sums, walk.done(op.schedule));
    }
  }
}

template <bool kGated, int kN, int kParts>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_kernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap tokens, const __grid_constant__ Gemm op) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char dynamic[];
  __shared__ std::uint64_t barriers[2][kMostStages];
  __shared__ int words[2];
  // The swizzle counts in 1024 bytes; every CTA of the cluster finds the same offset.
  char* const memory = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
  const std::uint32_t full = shared_address(barriers[0]), empty = shared_address(barriers[1]);
  const Site site(op);
  if (threadIdx.x == 0) {
    prefetch_map(weights);
    prefetch_map(tokens);
    for (int slot = 0; slot < op.stages; ++slot) {
      barrier_init(full + slot * 8, 1);
      barrier_init(empty + slot * 8, site.ctas * kWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  cluster_begin();
  if (threadIdx.x / 32 < kWarps) {
    more_registers<kManyRegisters>();
    consume<kGated, kN, kParts>(op, site, memory, full, empty, words);
  } else {
    fewer_registers<kFewRegisters>();
    if (threadIdx.x == kWarps * 32) produce<kN * kParts>(weights, tokens, op, site, shared_address(memory), full, empty);
  }
  __syncwarp();
  cluster_end();  // until then another CTA may copy to this one, or arrive here
#endif
}

}  // namespace evostreaming::hopper
