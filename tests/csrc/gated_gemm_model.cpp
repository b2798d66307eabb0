// A model of the hardware that csrc/gated_gemm.cuh runs on, in which the plan of csrc/gated_gemm_plan.cuh is carried out: copies that swizzle,
// clusters that receive each other's copies, wgmma that reads through descriptors, fragments, transposed stores. Prints nothing if all is right.
//
//   gated_gemm_model T I K tile groups rows columns clusters    multiplies small integers and compares with the truth
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "gated_gemm_plan.cuh"

using namespace evostreaming::hopper;

constexpr int kNever = -(1 << 30);

#define MUST(condition, ...)                                   \
  do                                                           \
    if (!(condition)) {                                        \
      std::printf("line %d: %s: ", __LINE__, #condition);       \
      std::printf(__VA_ARGS__), std::printf("\n"), std::exit(1); \
    }                                                          \
  while (false)

// Shared memory of one CTA in words of two bytes; small integers stand for bf16.
struct Shared {
  std::vector<short> word;
  std::vector<bool> fresh;  // written since the stage was last emptied
};

int swizzled(int byte) { return byte ^ (byte >> 7 & 7) << 4; }

// Copies a box of `rows` rows by kDepth at (column, row) of a matrix to byte `to`; zeros beyond its edges. sixteens: of a weight, by the map that
// has its rows in sixteens.
int copy(const std::vector<short>& matrix, int height, int depth, int column, int row, int rows, bool sixteens, Shared& shared, int to) {
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < kDepth; ++k) {
      const bool inside = row + r < height && column + k < depth;
      const int at = swizzled(to + r * kLine + k * 2) / 2, from = sixteens ? row_of_weight(row + r, height / 2) : row + r;
      shared.word[at] = inside ? matrix[static_cast<size_t>(from) * depth + column + k] : 0;
      shared.fresh[at] = true;
    }
  return rows * kLine;
}

// Element (row, k) of the operand that a descriptor describes.
short read(const Shared& shared, std::uint64_t descriptor, int row, int k) {
  MUST(descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0, "swizzle of 128 bytes, no offset");
  const int start = static_cast<int>(descriptor & 0x3fff) << 4, eights = static_cast<int>(descriptor >> 32 & 0x3fff) << 4;
  const int at = swizzled(start + row / 8 * eights + row % 8 * kLine + k * 2) / 2;
  MUST(shared.fresh[at], "row %d, k %d was not copied", row, k);
  return shared.word[at];
}

// The gate is three times the one less the other: integers stay integers, and neither can be taken for the other.
int gated(int gate, int up) { return 3 * gate - up; }

void product(int T, int I, int K, int tile, int groups, int rows, int columns, int clusters) {
  const int height = groups * kGroupRows, ctas = rows * columns, blocks = (K + kDepth - 1) / kDepth;
  const int token_tiles = (T + tile * columns - 1) / (tile * columns), tiles = (2 * I + height * rows - 1) / (height * rows) * token_tiles;
  const Slices row_slices = slices(height, columns), token_slices = slices(tile, rows);
  std::vector<short> x(static_cast<size_t>(T) * K), weight(static_cast<size_t>(2 * I) * K);
  for (auto* matrix : {&x, &weight})
    for (auto& value : *matrix) value = static_cast<short>(std::rand() % 7 - 3);
  std::vector<int> out(static_cast<size_t>(T) * I, kNever);
  const int base = 3072;  // a stage begins at a multiple of 1024

  for (int cluster = 0; cluster < clusters; ++cluster)
    for (int number = cluster; number < tiles; number += clusters) {
      std::vector<std::vector<int>> sum(ctas, std::vector<int>(groups * 128 * tile / 2));
      for (int block = 0; block < blocks; ++block) {
        const int words = (base + stage_bytes(groups, tile)) / 2;
        std::vector<Shared> shared(ctas, {std::vector<short>(words), std::vector<bool>(words)});
        std::vector<int> bytes(ctas);
        for (int rank = 0; rank < ctas; ++rank) {
          const Place place(rank, columns);
          const int row_start = row_slices.start(place.column);
          const int row = (number / token_tiles * rows + place.row) * height + row_start;
          const int token = (number % token_tiles * columns + place.column) * tile;
          MUST(row % 16 == 0 && row_slices.rows % 16 == 0, "whole sixteens");
          for (int to = 0; to < ctas; ++to)
            if (place.same_rows(columns) >> to & 1)
              bytes[to] += copy(weight, 2 * I, K, block * kDepth, row, row_slices.rows, true, shared[to], base + row_start * kLine);
          for (int i = 0; i < token_slices.each; ++i) {
            const int start = token_slices.start(place.row * token_slices.each + i);
            for (int to = 0; to < ctas; ++to)
              if (place.same_tokens(rows, columns) >> to & 1)
                bytes[to] += copy(x, T, K, block * kDepth, token + start, token_slices.rows, false, shared[to], base + (height + start) * kLine);
          }
        }
        for (int rank = 0; rank < ctas; ++rank) {
          MUST(bytes[rank] == (row_slices.rows * columns + token_slices.rows * token_slices.each * rows) * kLine, "%d bytes", bytes[rank]);
          for (int thread = 0; thread < groups * 128; ++thread)
            for (int i = 0; i < tile / 2; ++i) {
              const int row = thread % 128 / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4, token = i / 4 * 8 + thread % 4 * 2 + i % 2;
              const std::uint64_t a = descriptor(base + thread / 128 * kGroupRows * kLine), b = descriptor(base + height * kLine);
              for (int k = 0; k < kDepth; ++k)
                sum[rank][thread * (tile / 2) + i] += read(shared[rank], a + k / 16 * 2, row, k % 16) * read(shared[rank], b + k / 16 * 2, token, k % 16);
            }
        }
      }
      for (int rank = 0; rank < ctas; ++rank)
        for (int group = 0; group < groups; ++group) {
          const Place place(rank, columns);
          const int first_row = ((number / token_tiles * rows + place.row) * height + group * kGroupRows) / 2;
          const int first_token = (number % token_tiles * columns + place.column) * tile;
          for (int begin = 0; begin < tile; begin += kChunk) {
            std::vector<int> staging(kStaging / 2, kNever);
            for (int thread = 0; thread < 128; ++thread)  // what a transposed store does with the fragments
              for (int i = begin / 2; i < tile / 2 && i < (begin + kChunk) / 2; ++i) {
                if (i / 2 % 2) continue;
                const int token = i / 4 * 8 + thread % 4 * 2 + i % 2 - begin;
                const int* const own = &sum[rank][(group * 128 + thread) * (tile / 2) + i];
                staging[staged(token, thread / 32) / 2 + thread % 32 / 4] = gated(own[0], own[2]);
              }
            for (int token = 0; token < kChunk && begin + token < tile; ++token)
              for (int row = 0; row < kGroupRows / 2; ++row)
                if (first_token + begin + token < T && first_row + row < I) {
                  int& place = out[static_cast<size_t>(first_token + begin + token) * I + first_row + row];
                  MUST(place == kNever, "written twice");
                  place = staging[staged(token, row / 8) / 2 + row % 8];
                }
          }
        }
    }
  const auto dot = [&](int t, int n) {
    int truth = 0;
    for (int k = 0; k < K; ++k) truth += x[static_cast<size_t>(t) * K + k] * weight[static_cast<size_t>(n) * K + k];
    return truth;
  };
  for (int t = 0; t < T; ++t)
    for (int i = 0; i < I; ++i) {
      const int got = out[static_cast<size_t>(t) * I + i], truth = gated(dot(t, i), dot(t, I + i));
      MUST(got == truth, "token %d, row %d: %d, not %d", t, i, got, truth);
    }
}

int main(int count, char** text) {
  std::vector<int> n;
  for (int i = 1; i < count; ++i) n.push_back(std::atoi(text[i]));
  product(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]);
}
