// The first half of an MLP in bf16 on Hopper, product and gated activation in one kernel; what is computed is told in gated_gemm_plan.cuh.
//
// A CTA has two or three warpgroups that multiply, 64 rows each, and one whose first lane feeds them: blocks of weight and tokens go through a ring
// of stages by the copy engine, which brings the rows in sixteens. A stage is full when all its bytes are there, whichever CTA of the cluster asked
// for them, and empty when every warp of every CTA has left it, since any of them may write to all.
#pragma once

#include "gated_gemm_store.cuh"
#include "hopper_wgmma.cuh"

namespace evostreaming::hopper {

// The last warpgroup exists for one lane; its registers go to the others, which hold the sums. 65,536 are there.
template <int kGroups>
struct Threads {
  static constexpr int kWarps = kGroups * 4, kAll = kWarps * 32 + 128;
  static constexpr int kFew = 56, kMany = kGroups == 2 ? 224 : 152;
};

// Where this CTA works.
struct Site {
  int rank, cluster, clusters, ctas, height;
  Place place;

  __device__ __forceinline__ Site(const GatedGemm& op, int height)
      : rank(cluster_rank()), cluster(cluster_index()), clusters(gridDim.x / (op.rows * op.columns)), ctas(op.rows * op.columns), height(height),
        place(rank, op.columns) {}
  // Tiles of the same weight rows are neighbors: the clusters that work on them at one time find those rows in the L2 cache.
  __device__ __forceinline__ int first_row(const GatedGemm& op, int tile) const { return (tile / op.token_tiles * op.rows + place.row) * height; }
  __device__ __forceinline__ int first_token(const GatedGemm& op, int tile, int size) const {
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

template <int kGroups, int kTile>
__device__ __forceinline__ void produce(const CUtensorMap& weights, const CUtensorMap& tokens, const GatedGemm& op, const Site& site,
                                        std::uint32_t ring, std::uint32_t full, std::uint32_t empty) {
  constexpr int kRows = kGroups * kGroupRows;
  const Slices row_slices = slices(kRows, op.columns), token_slices = slices(kTile, op.rows);
  const std::uint16_t same_rows = site.place.same_rows(op.columns), same_tokens = site.place.same_tokens(op.rows, op.columns);
  const int row_start = row_slices.start(site.place.column);
  const int bytes = (row_slices.rows * op.columns + token_slices.rows * token_slices.each * op.rows) * kLine;
  // Many tokens do not stay in the cache anyhow, and the weight is read again then.
  const std::uint64_t token_policy = op.weights_once ? evict_last() : evict_normal();
  const std::uint64_t weight_policy = op.weights_once ? evict_first() : evict_normal();
  Ring at;
  for (int tile = site.cluster; tile < op.tiles; tile += site.clusters) {
    const int row = site.first_row(op, tile) + row_start, token = site.first_token(op, tile, kTile);
#pragma unroll 1
    for (int block = 0; block < op.blocks; ++block) {
      const std::uint32_t stage = ring + at.slot * stage_bytes(kGroups, kTile), arrived = full + at.slot * 8;
      barrier_wait(empty + at.slot * 8, at.parity ^ 1);
      barrier_expect(arrived, bytes);
      copy_sixteens(weights, stage + row_start * kLine, arrived, block * kDepth, row / 16, same_rows, weight_policy);
      for (int i = 0; i < token_slices.each; ++i) {
        const int start = token_slices.start(site.place.row * token_slices.each + i);
        copy_box(tokens, stage + (kRows + start) * kLine, arrived, block * kDepth, token + start, same_tokens, token_policy);
      }
      at.advance(op.stages);
    }
  }
}

template <int kGroups, int kN, int kParts>
__device__ __forceinline__ void consume(const GatedGemm& op, const Site& site, char* memory, std::uint32_t full, std::uint32_t empty) {
  constexpr int kTile = kN * kParts, kRows = kGroups * kGroupRows;
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
  const std::uint32_t ring = shared_address(memory);
  char* const staging = memory + op.stages * stage_bytes(kGroups, kTile) + group * kStaging;
  const auto leave = [&](int slot) {
    if (lane < site.ctas) barrier_arrive_at(empty + slot * 8, lane);
  };
  Ring at;
  for (int tile = site.cluster; tile < op.tiles; tile += site.clusters) {
    Sums<kN, kParts> sums = {};
    int before = 0;
#pragma unroll 1
    for (int block = 0; block < op.blocks; ++block) {
      barrier_wait(full + at.slot * 8, at.parity);
      const std::uint32_t stage = ring + at.slot * stage_bytes(kGroups, kTile);
      const std::uint64_t weights = descriptor(stage + group * kGroupRows * kLine), tokens = descriptor(stage + kRows * kLine);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k)
#pragma unroll
        for (int part = 0; part < kParts; ++part) Wgmma<kN>::add(sums.part[part], weights + k * 2, tokens + part * (kN * kLine / 16) + k * 2);
      wgmma_commit();
      wgmma_wait<1>();
      if (block > 0) leave(before);
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
    const int row = (site.first_row(op, tile) + group * kGroupRows) / 2;
    store_all(sums, op, {row, site.first_token(op, tile, kTile), group, static_cast<int>(threadIdx.x % 128), staging});
  }
}

template <int kGroups, int kN, int kParts>
__global__ void __launch_bounds__(Threads<kGroups>::kAll, 1) gated_gemm_kernel(const __grid_constant__ CUtensorMap weights,
                                                                               const __grid_constant__ CUtensorMap tokens,
                                                                               const __grid_constant__ GatedGemm op) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char dynamic[];
  __shared__ std::uint64_t barriers[2][kMostStages];
  // The swizzle counts in 1024 bytes; every CTA of the cluster finds the same offset.
  char* const memory = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
  const std::uint32_t full = shared_address(barriers[0]), empty = shared_address(barriers[1]);
  constexpr int kWarps = Threads<kGroups>::kWarps;
  const Site site(op, kGroups * kGroupRows);
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
    more_registers<Threads<kGroups>::kMany>();
    consume<kGroups, kN, kParts>(op, site, memory, full, empty);
  } else {
    fewer_registers<Threads<kGroups>::kFew>();
    if (threadIdx.x == kWarps * 32) produce<kGroups, kN * kParts>(weights, tokens, op, site, shared_address(memory), full, empty);
  }
  __syncwarp();
  cluster_end();  // until then another CTA may copy to this one, or arrive here
#endif
}

}  // namespace evostreaming::hopper
