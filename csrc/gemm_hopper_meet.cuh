// Where the parts of one tile of the Hopper product meet, in the workspace, and how sums leave for `out`. All of it is done by one warpgroup, for
// its 64 weight rows, without a word to the others.
//
// Parts are added in the order of the inner dimension, so results repeat bit for bit. Nobody depends on a cluster that may not run yet: the last to
// come finishes the tile, alone if it must. Clusters that end together and have nothing left to do wait for it a while and help.
#pragma once

#include <cuda_bf16.h>

#include "gemm_hopper_plan.cuh"
#include "gemm_hopper_ptx.cuh"

namespace evostreaming::hopper {

constexpr int kChunkQuads = kChunk / 8;
constexpr long long kPatience = 40000;  // cycles, about 20 µs

struct Gemm {
  __nv_bfloat16* out;  // (tokens, width), where width is half the weight rows if they are gated
  int* counters;       // arrived, claimed and left, for each tile, CTA of a cluster and warpgroup; zero before and after
  float* partials;     // (2 * clusters, CTAs, 2, tile / 8, 128, 4)
  int tokens, width, token_tiles, rows, columns, stages;
  Schedule schedule;
  bool weights_once;  // whether one tile holds all tokens
};

// The sums of one thread: a quad is of 8 tokens, rows l / 4 and l / 4 + 8 of its warp's sixteen, tokens 2 (l % 4) and the next.
template <int kN, int kParts>
struct Sums {
  static constexpr int kQuads = kN * kParts / 8;
  float part[kParts][kN / 2];

  __device__ __forceinline__ float& at(int quad, int i) { return part[quad / (kN / 8)][quad % (kN / 8) * 4 + i]; }
};

// The corner of this warpgroup's sums in out, and what it needs to work alone.
struct Corner {
  int row, token, group, thread;
  char* staging;
  int* word;

  // The value of thread 0, for all.
  __device__ __forceinline__ int tell(int value) const {
    if (thread == 0) *word = value;
    warpgroup_sync(group);
    const int told = *word;
    warpgroup_sync(group);
    return told;
  }
};

__device__ __forceinline__ float swiglu(float gate, float up) { return __fdividef(gate, 1 + __expf(-gate)) * up; }

// Rounds kCount quads, which begin at token `begin` of the tile, to bf16 and writes those inside of out: through shared memory, so that 8 numbers
// of a token make one word of 16 bytes. kGated: of each 16 rows the first 8 are gates of the others, and silu(gate) * up is what is written.
template <bool kGated, int kCount>
__device__ __forceinline__ void store(const float (&quad)[kChunkQuads][4], const Gemm& op, const Corner& corner, int begin) {
  constexpr int kEights = kGated ? 4 : 8, kAtOnce = kGated ? 4 : 2;
  const int lane = corner.thread % 32, warp = corner.thread / 32;
  const std::uint32_t shared = shared_address(corner.staging);
  warpgroup_sync(corner.group);  // the chunk before is read
#pragma unroll
  for (int i = 0; i < kCount; i += kAtOnce) {
    // Four 8x8 tiles: of 4 quads one each, or of 2 quads rows 0 to 7 and 8 to 15. Those of quads that are not there are not read below.
    std::uint32_t tile[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float* const four = quad[i + n * kAtOnce / 4];
      const __nv_bfloat162 both = kGated ? __floats2bfloat162_rn(swiglu(four[0], four[2]), swiglu(four[1], four[3]))
                                         : __floats2bfloat162_rn(four[n % 2 * 2], four[n % 2 * 2 + 1]);
      tile[n] = reinterpret_cast<const std::uint32_t&>(both);
    }
    const int token = (i + lane / 8 * kAtOnce / 4) * 8 + lane % 8, eight = kGated ? warp : warp * 2 + lane / 8 % 2;
    store_transposed(shared + staged(token, eight, kEights), tile);
  }
  warpgroup_sync(corner.group);
#pragma unroll
  for (int at = 0; at < kCount * 8 * kEights; at += 128) {
    const int token = (at + corner.thread) / kEights, eight = corner.thread % kEights;
    const int to_token = corner.token + begin + token, to_row = corner.row + eight * 8;
    if (token < kCount * 8 && to_token < op.tokens && to_row < op.width)
      *reinterpret_cast<uint4*>(op.out + static_cast<std::int64_t>(to_token) * op.width + to_row) =
          *reinterpret_cast<const uint4*>(corner.staging + staged(token, eight, kEights));
  }
}

template <bool kGated, int kN, int kParts>
__device__ __forceinline__ void store_all(Sums<kN, kParts>& sums, const Gemm& op, const Corner& corner) {
  constexpr int kQuads = Sums<kN, kParts>::kQuads, kRest = kQuads % kChunkQuads;
  float chunk[kChunkQuads][4] = {};
#pragma unroll
  for (int begin = 0; begin < kQuads; begin += kChunkQuads) {
#pragma unroll
    for (int i = 0; i < kChunkQuads * 4 && begin + i / 4 < kQuads; ++i) chunk[i / 4][i % 4] = sums.at(begin + i / 4, i % 4);
    if (begin + kChunkQuads <= kQuads)
      store<kGated, kChunkQuads>(chunk, op, corner, begin * 8);
    else
      store<kGated, kRest>(chunk, op, corner, begin * 8);
  }
}

__device__ __forceinline__ void add(float* sum, const float4& other) {
  sum[0] += other.x, sum[1] += other.y, sum[2] += other.z, sum[3] += other.w;
}

// One tile's parts. `site` numbers the CTA in its cluster and the warpgroup in the CTA, of all those in a cluster.
template <bool kGated, int kN, int kParts>
struct Meeting {
  static constexpr int kQuads = Sums<kN, kParts>::kQuads, kPieces = (kQuads + kChunkQuads - 1) / kChunkQuads;
  static constexpr int kRest = kQuads - (kPieces - 1) * kChunkQuads;
  const Gemm& op;
  const Corner& corner;
  int cluster, site, sites, first, last, first_slot;
  int* counter;  // arrived, claimed, left

  __device__ __forceinline__ Meeting(const Gemm& op, const Corner& corner, int tile, int cluster, int site, int sites)
      : op(op), corner(corner), cluster(cluster), site(site), sites(sites), first(op.schedule.first_owner(tile)),
        last(op.schedule.last_owner(tile)), first_slot(op.schedule.slot(first, tile)), counter(op.counters + (tile * sites + site) * 4) {}

  // Only the first owner may have begun before this tile.
  __device__ __forceinline__ float4* part_of(int owner) const {
    const std::int64_t part = (owner == first ? first_slot : 2 * owner) * sites + site;
    return reinterpret_cast<float4*>(op.partials) + part * (kQuads * 128) + corner.thread;
  }

  // Leaves this cluster's part where others find it, and returns, to thread 0, how many have come with it.
  __device__ __forceinline__ int leave(Sums<kN, kParts>& sums) const {
    float4* const to = part_of(cluster);
#pragma unroll
    for (int i = 0; i < kQuads; ++i) __stcg(to + i * 128, make_float4(sums.at(i, 0), sums.at(i, 1), sums.at(i, 2), sums.at(i, 3)));
    warpgroup_sync(corner.group);
    return corner.thread == 0 ? count_up(counter) + 1 : 0;
  }

  // Two parts: the second to come adds the first to its own, which never leaves the registers if the first is there already.
  __device__ __forceinline__ void two(Sums<kN, kParts>& sums) const {
    if (corner.tell(corner.thread == 0 ? count_of(counter) : 0) == 0 && corner.tell(leave(sums)) == 1) return;
    constexpr int kAtOnce = kQuads > 34 ? 8 : 12;  // as many loads as there are registers for
#pragma unroll
    for (int begin = 0; begin < kQuads; begin += kAtOnce) {
      // One turn, but a loop: else the assembler starts all loads at once, and has no registers.
#pragma unroll 1
      for (int owner = first; owner <= last; ++owner) {
        if (owner == cluster) continue;
        const float4* const from = part_of(owner) + begin * 128;
        float4 other[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce && begin + i < kQuads; ++i) other[i] = __ldcg(from + i * 128);
#pragma unroll
        for (int i = 0; i < kAtOnce && begin + i < kQuads; ++i) add(&sums.at(begin + i, 0), other[i]);
      }
    }
    if (corner.thread == 0) *counter = 0;  // for the next launch
    store_all<kGated>(sums, op, corner);
  }

  // Adds and stores kCount quads of all parts.
  template <int kCount>
  __device__ __forceinline__ void piece(int begin) const {
    float total[kChunkQuads][4] = {};
#pragma unroll 1
    for (int owner = first; owner <= last; ++owner) {
      const float4* const from = part_of(owner) + begin * 128;
      float4 part[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) part[i] = __ldcg(from + i * 128);
#pragma unroll
      for (int i = 0; i < kCount; ++i) add(total[i], part[i]);
    }
    store<kGated, kCount>(total, op, corner, begin * 8);
  }

  // More parts: all are left, then added piece by piece by whoever is here once the last has come. idle: this cluster has nothing else to do.
  __device__ __forceinline__ void many(Sums<kN, kParts>& sums, bool idle) const {
    const int parts = last - first + 1;
    int come = leave(sums);
    if (corner.thread == 0 && idle)
      for (const long long since = clock64(); come < parts && clock64() - since < kPatience; come = count_of(counter)) __nanosleep(50);
    if (corner.tell(come) == parts)
      while (true) {
        const int begin = corner.tell(corner.thread == 0 ? count_up(counter + 1) : 0) * kChunkQuads;
        if (begin + kChunkQuads <= kQuads)
          piece<kChunkQuads>(begin);
        else if (begin < kQuads)
          piece<kRest>(begin);
        else
          break;
      }
    if (corner.thread == 0 && count_up(counter + 2) == parts - 1) counter[0] = counter[1] = counter[2] = 0;  // for the next launch
  }
};

}  // namespace evostreaming::hopper
