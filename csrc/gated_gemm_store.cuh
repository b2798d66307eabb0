// How the sums of the gated product leave for `out`, 64 rows of the weight times a tile of tokens by one warpgroup.
#pragma once

#include <cuda_bf16.h>

#include "gated_gemm_plan.cuh"
#include "hopper_ptx.cuh"

namespace evostreaming::hopper {

constexpr int kChunkQuads = kChunk / 8;

struct GatedGemm {
  __nv_bfloat16* out;         // (tokens, width), where width is half the weight's rows
  const __nv_bfloat16* bias;  // (2 * width,), gates first, or null
  int tokens, width, blocks, tiles, token_tiles, rows, columns, stages;
  bool weights_once;  // whether one tile holds all tokens
};

// The sums of one thread: a quad is of 8 tokens, a gate l / 4 of its warp's eight and what it gates, tokens 2 (l % 4) and the next.
template <int kN, int kParts>
struct Sums {
  static constexpr int kQuads = kN * kParts / 8;
  float part[kParts][kN / 2];

  __device__ __forceinline__ float at(int quad, int i) const { return part[quad / (kN / 8)][quad % (kN / 8) * 4 + i]; }
};

// The corner of a warpgroup's tile in out, and what it needs to store it.
struct Corner {
  int row, token, group, thread;
  char* staging;
};

// Writes kCount quads, which begin at token `begin` of the tile: gated, rounded to bf16, through shared memory, so that 8 numbers of a token make one
// word of 16 bytes. gate_bias, up_bias: of this thread's rows.
template <int kCount>
__device__ __forceinline__ void store(const float (&quad)[kChunkQuads][4], const GatedGemm& op, const Corner& corner, int begin, float gate_bias,
                                      float up_bias) {
  const int lane = corner.thread % 32, warp = corner.thread / 32;
  const std::uint32_t shared = shared_address(corner.staging);
  const auto gated = [&](float gate, float up) {
    gate += gate_bias;
    return __fdividef(gate, 1 + __expf(-gate)) * (up + up_bias);
  };
  warpgroup_sync(corner.group);  // the chunk before is read
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    // Four 8x8 tiles, one of each quad. Those of quads that are not there are not read below.
    std::uint32_t tile[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float* const four = quad[i + n];
      const __nv_bfloat162 both = __floats2bfloat162_rn(gated(four[0], four[2]), gated(four[1], four[3]));
      tile[n] = reinterpret_cast<const std::uint32_t&>(both);
    }
    store_transposed(shared + staged((i + lane / 8) * 8 + lane % 8, warp), tile);
  }
  warpgroup_sync(corner.group);
#pragma unroll
  for (int at = 0; at < kCount * 8 * kEights; at += 128) {
    const int token = (at + corner.thread) / kEights, eight = corner.thread % kEights;
    const int to_token = corner.token + begin + token, to_row = corner.row + eight * 8;
    if (token < kCount * 8 && to_token < op.tokens && to_row < op.width)
      *reinterpret_cast<uint4*>(op.out + static_cast<std::int64_t>(to_token) * op.width + to_row) =
          *reinterpret_cast<const uint4*>(corner.staging + staged(token, eight));
  }
}

template <int kN, int kParts>
__device__ __forceinline__ void store_all(const Sums<kN, kParts>& sums, const GatedGemm& op, const Corner& corner) {
  constexpr int kQuads = Sums<kN, kParts>::kQuads, kRest = kQuads % kChunkQuads;
  const int own = corner.row + corner.thread / 32 * 8 + corner.thread % 32 / 4;
  const bool biased = op.bias != nullptr && own < op.width;
  const float gate_bias = biased ? __bfloat162float(op.bias[own]) : 0, up_bias = biased ? __bfloat162float(op.bias[op.width + own]) : 0;
  float chunk[kChunkQuads][4] = {};
#pragma unroll
  for (int begin = 0; begin < kQuads; begin += kChunkQuads) {
#pragma unroll
    for (int i = 0; i < kChunkQuads * 4 && begin + i / 4 < kQuads; ++i) chunk[i / 4][i % 4] = sums.at(begin + i / 4, i % 4);
    if (begin + kChunkQuads <= kQuads)
      store<kChunkQuads>(chunk, op, corner, begin * 8, gate_bias, up_bias);
    else
      store<kRest>(chunk, op, corner, begin * 8, gate_bias, up_bias);
  }
}

}  // namespace evostreaming::hopper
