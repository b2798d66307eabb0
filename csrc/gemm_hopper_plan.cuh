// What a cluster of the Hopper product computes, and where its data lies: arithmetic alone, so that a CPU can check it.
//
// out (T, N) = x (T, K) · weight (N, K)^T with the operands swapped: rows of the weight are the tensor core's M, tokens its N, which may be any
// multiple of 8. A CTA's tile is 128 weight rows times `tile` tokens; a cluster of rows x columns CTAs computes that many tiles side by side
// and loads what they share once. "tile" below is what a cluster computes, "block" 64 numbers of the inner dimension.
#pragma once

#include <cstdint>

namespace evostreaming::hopper {

constexpr int kRows = 128;       // weight rows of a CTA, 64 to each of two warpgroups
constexpr int kDepth = 64;       // numbers of a block: 128 bytes, the width of the swizzle
constexpr int kLine = 128;       // bytes of a row of a block
constexpr int kBox = 256;        // rows that one copy brings at most
constexpr int kChunk = 64;       // tokens that a warpgroup stores at once
constexpr int kStaging = kChunk * kLine;  // bytes through which it does: 64 numbers of bf16 a token, or 32
constexpr int kMostStages = 8;
constexpr int kLeast = 2;        // blocks under which a part of a tile is not worth its exchange
constexpr int kCounters = 4096;  // words at the start of the workspace, four for each warpgroup and tile that is cut

// Blocks [begin, end) of the inner dimension of one tile.
struct Segment {
  int tile, begin, end;
};

// Tiles for persistent clusters. The first `shared` tiles are cut into even runs of blocks, one a cluster, wherever tiles end; whole tiles follow
// in turns. Runs come first: their exchange then hides behind the whole tiles. The first `longer` runs have `run` + 1 blocks, the others `run`.
struct Schedule {
  int tiles, blocks, clusters, shared, run, longer;

  // Where the run of a cluster begins; moved, so that no run begins or ends with less than kLeast blocks of a tile.
  constexpr int boundary(int cluster) const {
    const int at = cluster * run + (cluster < longer ? cluster : longer), past = at % blocks;
    return past < kLeast ? at - past : blocks - past < kLeast ? at + blocks - past : at;
  }
  // The cluster whose run holds a block.
  constexpr int owner(int block) const {
    const int far = longer * (run + 1);
    int cluster = block < far ? block / (run + 1) : longer + (block - far) / run;
    if (boundary(cluster + 1) <= block) return cluster + 1;
    return boundary(cluster) > block ? cluster - 1 : cluster;
  }
  constexpr int first_owner(int tile) const { return owner(tile * blocks); }
  constexpr int last_owner(int tile) const { return owner((tile + 1) * blocks - 1); }
  // Where a cluster leaves its part of a tile that others complete: at most two tiles are, one at each end of its run.
  constexpr int slot(int cluster, int tile) const { return 2 * cluster + (boundary(cluster) < tile * blocks); }
};

// Walks the segments of one cluster in order.
struct Walk {
  int at, end, tile;

  constexpr Walk(const Schedule& schedule, int cluster)
      : at(schedule.boundary(cluster)), end(schedule.boundary(cluster + 1)), tile(schedule.shared + cluster) {}
  constexpr bool next(const Schedule& schedule, Segment& segment) {
    if (at < end) {
      const int begin = at % schedule.blocks, left = end - at, most = schedule.blocks - begin;
      segment = {at / schedule.blocks, begin, begin + (left < most ? left : most)};
      at += segment.end - begin;
      return true;
    }
    if (tile >= schedule.tiles) return false;
    segment = {tile, 0, schedule.blocks};
    tile += schedule.clusters;
    return true;
  }
  constexpr bool done(const Schedule& schedule) const { return at >= end && tile >= schedule.tiles; }
};

// A schedule for at most `most` clusters. split: whether tiles are cut so that all clusters end at once.
constexpr Schedule plan(int tiles, int blocks, int most, bool split) {
  const int pieces = split ? tiles * blocks / (2 * kLeast) : tiles, clusters = pieces < 1 ? 1 : pieces < most ? pieces : most;
  const int waves = tiles / clusters;
  // Between one and two tiles a cluster are cut: less leaves many hands on a tile, more leaves fewer whole ones to hide behind.
  const int shared = !split || tiles % clusters == 0 ? 0 : tiles - (waves > 1 ? waves - 1 : 0) * clusters;
  return {tiles, blocks, clusters, shared, shared * blocks / clusters, shared * blocks % clusters};
}

// How the CTAs of a cluster that share tokens, or weight rows, split the load: `each` copies of `rows` rows a CTA. Rows come in eights, the
// period of the swizzle; where that does not divide, the last copies overlap and bring the same bytes twice.
struct Slices {
  int each, rows, total;

  constexpr int start(int index) const { return index * rows < total - rows ? index * rows : total - rows; }
};

constexpr Slices slices(int total, int ctas) {
  const int each = (total + ctas * kBox - 1) / (ctas * kBox), pieces = ctas * each;
  return {each, ((total + pieces - 1) / pieces + 7) / 8 * 8, total};
}

// The place of a CTA in its cluster, and those who receive what it loads.
struct Place {
  int row, column;

  constexpr Place(int rank, int columns) : row(rank / columns), column(rank % columns) {}
  constexpr std::uint16_t same_rows(int columns) const { return static_cast<std::uint16_t>(((1 << columns) - 1) << row * columns); }
  constexpr std::uint16_t same_tokens(int rows, int columns) const {
    int mask = 0;
    for (int other = 0; other < rows; ++other) mask |= 1 << (other * columns + column);
    return static_cast<std::uint16_t>(mask);
  }
};

// Bytes of one stage: weight rows, then tokens.
constexpr int stage_bytes(int tile) { return (kRows + tile) * kLine; }
constexpr int shared_bytes(int tile, int stages) { return 1024 + stages * stage_bytes(tile) + 2 * kStaging; }

// wgmma's description of an operand in shared memory at `address`, rows of 128 swizzled bytes along the inner dimension: 16-byte units throughout,
// eight rows every 1024 bytes, swizzle of 128 bytes in the top bits. Steps along the inner dimension, or by eights of rows, add to the address.
constexpr std::uint64_t descriptor(std::uint32_t address) {
  return (address & 0x3ffff) >> 4 | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}

// Where 8 numbers of one token, 16 bytes of `eights` such, wait for their store: bits of the token keep neighbors in other banks.
constexpr int staged(int token, int eight, int eights) { return (token * eights + (eight ^ token * eights / 8 % eights)) * 16; }

}  // namespace evostreaming::hopper
