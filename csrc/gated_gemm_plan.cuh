// What a cluster of the gated product computes, and where its data lies: arithmetic alone, so that a CPU can check it.
//
// out (T, I) = silu(x · gates^T) * (x · ups^T), x (T, K), a weight (2·I, K) with the gates first. The operands are swapped: rows of the weight are
// the tensor core's M, tokens its N, which may be any multiple of 8. Rows come in sixteens: eight gates, the eight of what they gate, the next
// eight gates. A CTA's tile is 64 such rows for each of its warpgroups times `tile` tokens; a cluster of rows x columns CTAs computes that many
// tiles side by side and loads what they share once. "tile" below is what a cluster computes, "block" 64 numbers of the inner dimension.
#pragma once

#include <cstdint>

namespace evostreaming::hopper {

constexpr int kGroupRows = 64;            // rows of a warpgroup; a CTA has two or three that multiply
constexpr int kDepth = 64;                // numbers of a block: 128 bytes, the width of the swizzle
constexpr int kLine = 128;                // bytes of a row of a block
constexpr int kBox = 256;                 // rows that one copy brings at most
constexpr int kChunk = 64;                // tokens that a warpgroup stores at once
constexpr int kEights = kGroupRows / 16;  // eights of out's numbers that a warpgroup makes of a token
constexpr int kStaging = kChunk * kEights * 16;  // bytes through which it stores them
constexpr int kMostStages = 8;

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

// The row of the weight (2 · width, K) that is row `row` in sixteens.
constexpr int row_of_weight(int row, int width) { return row / 16 * 8 + row % 8 + row / 8 % 2 * width; }

// Bytes of one stage: weight rows, then tokens.
constexpr int stage_bytes(int groups, int tile) { return (groups * kGroupRows + tile) * kLine; }
constexpr int shared_bytes(int groups, int tile, int stages) { return 1024 + stages * stage_bytes(groups, tile) + groups * kStaging; }

// wgmma's description of an operand in shared memory at `address`, rows of 128 swizzled bytes along the inner dimension: 16-byte units throughout,
// eight rows every 1024 bytes, swizzle of 128 bytes in the top bits. Steps along the inner dimension, or by eights of rows, add to the address.
constexpr std::uint64_t descriptor(std::uint32_t address) {
  return (address & 0x3ffff) >> 4 | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}

// Where 8 numbers of one token, 16 bytes, wait for their store: bits of the token keep neighbors in other banks.
constexpr int staged(int token, int eight) { return (token * kEights + (eight ^ token * kEights / 8 % kEights)) * 16; }

}  // namespace evostreaming::hopper
