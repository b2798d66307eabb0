// A model of the hardware that csrc/gemm_hopper.cuh runs on, in which the plan of csrc/gemm_hopper_plan.cuh is carried out: copies that swizzle,
// clusters that receive each other's copies, wgmma that reads through descriptors, fragments, transposed stores. Prints nothing if all is right.
//
//   gemm_hopper_model product T N K tile rows columns most split gated    multiplies small integers and compares with the truth
//   gemm_hopper_model schedule tiles blocks most                          every block of every tile once, even shares, parts that do not collide
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "gemm_hopper_plan.cuh"

using namespace evostreaming::hopper;

constexpr int kNever = -(1 << 30);

#define MUST(condition, ...)                                   \
  do                                                           \
    if (!(condition)) {                                        \
      std::printf("line %d: " #condition ": ", __LINE__);      \
      std::printf(__VA_ARGS__), std::printf("\n"), std::exit(1); \
    }                                                          \
  while (false)

// Shared memory of one CTA in words of two bytes; small integers stand for bf16.
struct Shared {
  std::vector<short> word;
  std::vector<bool> fresh;  // written since the stage was last emptied
};

int swizzled(int byte) { return byte ^ (byte >> 7 & 7) << 4; }

// Copies a box of `rows` rows by kDepth at (column, row) of a matrix to byte `to`; zeros beyond its edges.
int copy(const std::vector<short>& matrix, int height, int depth, int column, int row, int rows, Shared& shared, int to) {
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < kDepth; ++k) {
      const bool inside = row + r < height && column + k < depth;
      const int at = swizzled(to + r * kLine + k * 2) / 2;
      shared.word[at] = inside ? matrix[static_cast<size_t>(row + r) * depth + column + k] : 0;
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

void product(int T, int N, int K, int tile, int rows, int columns, int most, bool split, bool gated) {
  const int ctas = rows * columns, blocks = (K + kDepth - 1) / kDepth, token_tiles = (T + tile * columns - 1) / (tile * columns);
  const Schedule schedule = plan((N + kRows * rows - 1) / (kRows * rows) * token_tiles, blocks, most, split);
  const Slices row_slices = slices(kRows, columns), token_slices = slices(tile, rows);
  std::vector<short> x(static_cast<size_t>(T) * K), weight(static_cast<size_t>(N) * K);
  for (auto* matrix : {&x, &weight})
    for (auto& value : *matrix) value = static_cast<short>(std::rand() % 7 - 3);
  const int width = gated ? N / 2 : N, wide = gated ? 32 : 64;  // of out, of a warpgroup's share
  std::vector<int> out(static_cast<size_t>(T) * width, kNever);
  std::map<std::pair<int, int>, std::vector<int>> partials;  // (slot, rank) -> fragments of both warpgroups
  std::map<int, int> counters;
  const int base = 3072;  // a stage begins at a multiple of 1024

  // Clusters end in an order of their own; the last to come to a tile adds its parts.
  for (int turn = 0; turn < schedule.clusters; ++turn) {
    const int cluster = (turn * 7 + 3) % schedule.clusters * (schedule.clusters % 7 != 0) + turn * (schedule.clusters % 7 == 0);
    Walk walk(schedule, cluster);
    for (Segment segment; walk.next(schedule, segment);) {
      std::vector<std::vector<int>> sum(ctas, std::vector<int>(256 * tile / 2));
      for (int block = segment.begin; block < segment.end; ++block) {
        std::vector<Shared> shared(ctas, {std::vector<short>(base / 2 + stage_bytes(tile) / 2), std::vector<bool>(base / 2 + stage_bytes(tile) / 2)});
        std::vector<int> bytes(ctas);
        for (int rank = 0; rank < ctas; ++rank) {
          const Place place(rank, columns);
          const int row_start = row_slices.start(place.column);
          const int row = (segment.tile / token_tiles * rows + place.row) * kRows + row_start;
          const int token = (segment.tile % token_tiles * columns + place.column) * tile;
          for (int to = 0; to < ctas; ++to)
            if (place.same_rows(columns) >> to & 1)
              bytes[to] += copy(weight, N, K, block * kDepth, row, row_slices.rows, shared[to], base + row_start * kLine);
          for (int i = 0; i < token_slices.each; ++i) {
            const int start = token_slices.start(place.row * token_slices.each + i);
            for (int to = 0; to < ctas; ++to)
              if (place.same_tokens(rows, columns) >> to & 1)
                bytes[to] += copy(x, T, K, block * kDepth, token + start, token_slices.rows, shared[to], base + (kRows + start) * kLine);
          }
        }
        for (int rank = 0; rank < ctas; ++rank) {
          MUST(bytes[rank] == (row_slices.rows * columns + token_slices.rows * token_slices.each * rows) * kLine, "%d bytes", bytes[rank]);
          for (int thread = 0; thread < 256; ++thread)
            for (int i = 0; i < tile / 2; ++i) {
              const int row = thread % 128 / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4, token = i / 4 * 8 + thread % 4 * 2 + i % 2;
              const std::uint64_t a = descriptor(base + thread / 128 * (kRows / 2) * kLine), b = descriptor(base + kRows * kLine);
              for (int k = 0; k < kDepth; ++k)
                sum[rank][thread * (tile / 2) + i] += read(shared[rank], a + k / 16 * 2, row, k % 16) * read(shared[rank], b + k / 16 * 2, token, k % 16);
            }
        }
      }
      for (int rank = 0; rank < ctas; ++rank) {
        if (segment.end - segment.begin < blocks) {
          const int first = schedule.first_owner(segment.tile), last = schedule.last_owner(segment.tile);
          int& counter = counters[segment.tile * ctas + rank];
          MUST(first <= cluster && cluster <= last && segment.tile < schedule.shared, "cluster %d is no owner", cluster);
          if (counter++ < last - first) {
            MUST(partials.emplace(std::pair(schedule.slot(cluster, segment.tile), rank), sum[rank]).second, "the slot is taken");
            continue;
          }
          for (int other = first; other <= last; ++other)
            for (size_t i = 0; other != cluster && i < sum[rank].size(); ++i)
              sum[rank][i] += partials.at({schedule.slot(other, segment.tile), rank})[i];
        }
        const Place place(rank, columns);
        for (int group = 0; group < 2; ++group) {
          const int first_row = ((segment.tile / token_tiles * rows + place.row) * kRows + group * 64) / (gated ? 2 : 1);
          const int first_token = (segment.tile % token_tiles * columns + place.column) * tile;
          for (int begin = 0; begin < tile; begin += kChunk) {
            std::vector<int> staging(kStaging / 2, kNever);
            for (int thread = 0; thread < 128; ++thread)  // what a transposed store does with the fragments
              for (int i = begin / 2; i < tile / 2 && i < (begin + kChunk) / 2; ++i) {
                if (gated && i / 2 % 2) continue;
                const int token = i / 4 * 8 + thread % 4 * 2 + i % 2 - begin, eight = gated ? thread / 32 : thread / 32 * 2 + i / 2 % 2;
                const int* const own = &sum[rank][(group * 128 + thread) * (tile / 2) + i];
                staging[staged(token, eight, wide / 8) / 2 + thread % 32 / 4] = gated ? 3 * own[0] - own[2] : own[0];
              }
            for (int token = 0; token < kChunk && begin + token < tile; ++token)
              for (int row = 0; row < wide; ++row)
                if (first_token + begin + token < T && first_row + row < width) {
                  int& place = out[static_cast<size_t>(first_token + begin + token) * width + first_row + row];
                  MUST(place == kNever, "written twice");
                  place = staging[staged(token, row / 8, wide / 8) / 2 + row % 8];
                }
          }
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
    for (int n = 0; n < width; ++n) {
      const int gate = n / 8 * 16 + n % 8, truth = gated ? 3 * dot(t, gate) - dot(t, gate + 8) : dot(t, n);
      const int got = out[static_cast<size_t>(t) * width + n];
      MUST(got == truth, "token %d, row %d: %d, not %d", t, n, got, truth);
    }
}

void schedule(int tiles, int blocks, int most) {
  const Schedule schedule = plan(tiles, blocks, most, true);
  MUST(schedule.clusters >= 1 && schedule.clusters <= most && schedule.shared <= tiles && schedule.shared <= 2 * schedule.clusters, "plan");
  std::vector<int> seen(static_cast<size_t>(tiles) * blocks), parts(tiles);
  std::set<int> slots;
  int shortest = 1 << 30, longest = 0;
  for (int cluster = 0; cluster < schedule.clusters; ++cluster) {
    Walk walk(schedule, cluster);
    int work = 0;
    for (Segment segment; walk.next(schedule, segment); work += segment.end - segment.begin) {
      MUST(segment.begin >= 0 && segment.begin < segment.end && segment.end <= blocks && segment.tile < tiles, "segment");
      for (int block = segment.begin; block < segment.end; ++block) ++seen[static_cast<size_t>(segment.tile) * blocks + block];
      ++parts[segment.tile];
      if (segment.end - segment.begin == blocks) continue;
      MUST(segment.end - segment.begin >= kLeast, "a part of %d blocks", segment.end - segment.begin);
      const int slot = schedule.slot(cluster, segment.tile);
      MUST(slot < 2 * schedule.clusters && slots.insert(slot).second, "slot %d", slot);
    }
    shortest = work < shortest ? work : shortest, longest = work > longest ? work : longest;
  }
  for (int count : seen) MUST(count == 1, "a block %d times", count);
  for (int tile = 0; tile < schedule.shared; ++tile)
    MUST(schedule.last_owner(tile) - schedule.first_owner(tile) + 1 == parts[tile], "tile %d has %d parts", tile, parts[tile]);
  MUST(longest - shortest <= 1 + 4 * (kLeast - 1) || tiles * blocks < 2 * kLeast * most, "from %d to %d blocks a cluster", shortest, longest);
}

int main(int count, char** text) {
  std::vector<int> n;
  for (int i = 2; i < count; ++i) n.push_back(std::atoi(text[i]));
  if (!std::strcmp(text[1], "product"))
    product(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]);
  else
    for (size_t i = 0; i + 2 < n.size(); i += 3) schedule(n[i], n[i + 1], n[i + 2]);
}
