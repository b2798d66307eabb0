// wgmma of 64 weight rows times n tokens times 16, bf16 into float32, both operands in shared memory along the inner dimension.
//
// The number of operands of an asm statement is part of its text, so every n has one of its own; the macros below only write lists of them.
// A thread of the warpgroup (warp w, lane l) holds d[4 j + 2 h + i] of row 16 w + 8 h + l / 4 and token 8 j + 2 (l % 4) + i.
#pragma once

#include <cstdint>

namespace evostreaming::hopper {

// d += weights · tokens^T; both are descriptors.
template <int n>
struct Wgmma;

#define EVO_2(t) "%" t "0,%" t "1"
#define EVO_4(t) EVO_2(t) ",%" t "2,%" t "3"
#define EVO_6(t) EVO_4(t) ",%" t "4,%" t "5"
#define EVO_8(t) EVO_6(t) ",%" t "6,%" t "7"
#define EVO_10(t) EVO_8(t) ",%" t "8,%" t "9,"
#define EVO_30 EVO_10("") EVO_10("1") EVO_10("2")
#define EVO_50 EVO_30 EVO_10("3") EVO_10("4")
#define EVO_70 EVO_50 EVO_10("5") EVO_10("6")
#define EVO_120 EVO_70 EVO_10("7") EVO_10("8") EVO_10("9") EVO_10("10") EVO_10("11")
#define EVO_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define EVO_D8(i) EVO_D4(i), EVO_D4(i + 4)
#define EVO_D16(i) EVO_D8(i), EVO_D8(i + 8)
#define EVO_D32(i) EVO_D16(i), EVO_D16(i + 16)
#define EVO_D64(i) EVO_D32(i), EVO_D32(i + 32)
#define EVO_WGMMA(n, registers, a, b, ...)                                                                                                  \
  template <>                                                                                                                               \
  struct Wgmma<n> {                                                                                                                         \
    __device__ __forceinline__ static void add(float (&d)[n / 2], std::uint64_t weights, std::uint64_t tokens) {                            \
      asm volatile("{\n\t.reg .pred keep;\n\tsetp.eq.u32 keep, 0, 0;\n\twgmma.mma_async.sync.aligned.m64n" #n                                \
                   "k16.f32.bf16.bf16 {" registers "}, " a ", " b ", keep, 1, 1, 0, 0;\n\t}"                                                \
                   : __VA_ARGS__                                                                                                            \
                   : "l"(weights), "l"(tokens));                                                                                            \
    }                                                                                                                                       \
  };

EVO_WGMMA(72, EVO_30 EVO_6("3"), "%36", "%37", EVO_D32(0), EVO_D4(32))
EVO_WGMMA(80, EVO_30 EVO_8("3") ",%38,%39", "%40", "%41", EVO_D32(0), EVO_D8(32))
EVO_WGMMA(96, EVO_30 EVO_10("3") EVO_8("4"), "%48", "%49", EVO_D32(0), EVO_D16(32))
EVO_WGMMA(112, EVO_50 EVO_6("5"), "%56", "%57", EVO_D32(0), EVO_D16(32), EVO_D8(48))
EVO_WGMMA(128, EVO_50 EVO_10("5") EVO_4("6"), "%64", "%65", EVO_D64(0))
EVO_WGMMA(136, EVO_50 EVO_10("5") EVO_8("6"), "%68", "%69", EVO_D64(0), EVO_D4(64))
EVO_WGMMA(144, EVO_70 EVO_2("7"), "%72", "%73", EVO_D64(0), EVO_D8(64))
EVO_WGMMA(160, EVO_70 EVO_8("7") ",%78,%79", "%80", "%81", EVO_D64(0), EVO_D16(64))
EVO_WGMMA(256, EVO_120 EVO_8("12"), "%128", "%129", EVO_D64(0), EVO_D64(64))

#undef EVO_2
#undef EVO_4
#undef EVO_6
#undef EVO_8
#undef EVO_10
#undef EVO_30
#undef EVO_50
#undef EVO_70
#undef EVO_120
#undef EVO_D4
#undef EVO_D8
#undef EVO_D16
#undef EVO_D32
#undef EVO_D64
#undef EVO_WGMMA

}  // namespace evostreaming::hopper
