// The SDOT microkernel of a full tile for Cortex-A55, which issues in order: a load of 64 bits goes beside an SDOT, one
// of 128 bits does not. Each vector of the next group comes in two halves (LDR D, LDR X, INS) between the products of
// this one. Columns are finished one after the other, so that their registers take the next ones.
#pragma once

#include "kernels/neon_dotprod/sdot_8x12.h"

// A column of sums, vector of b, vectors of a, and what is issued beside each product.
#define PACKQVIT_SDOT_COLUMN(c0, c1, c2, c3, c4, c5, c6, c7, b, a0, a1, s0, s1, s2, s3, s4, s5, s6, s7)     \
  "sdot v" #c0 ".4s, v" #b ".16b, v" #a0 ".4b[0]\n" s0 "sdot v" #c1 ".4s, v" #b ".16b, v" #a0 ".4b[1]\n" s1 \
  "sdot v" #c2 ".4s, v" #b ".16b, v" #a0 ".4b[2]\n" s2 "sdot v" #c3 ".4s, v" #b ".16b, v" #a0 ".4b[3]\n" s3 \
  "sdot v" #c4 ".4s, v" #b ".16b, v" #a1 ".4b[0]\n" s4 "sdot v" #c5 ".4s, v" #b ".16b, v" #a1 ".4b[1]\n" s5 \
  "sdot v" #c6 ".4s, v" #b ".16b, v" #a1 ".4b[2]\n" s6 "sdot v" #c7 ".4s, v" #b ".16b, v" #a1 ".4b[3]\n" s7
#define PACKQVIT_SDOT_COLUMN0(...) PACKQVIT_SDOT_COLUMN(8, 11, 14, 17, 20, 23, 26, 29, __VA_ARGS__)
#define PACKQVIT_SDOT_COLUMN1(...) PACKQVIT_SDOT_COLUMN(9, 12, 15, 18, 21, 24, 27, 30, __VA_ARGS__)
#define PACKQVIT_SDOT_COLUMN2(...) PACKQVIT_SDOT_COLUMN(10, 13, 16, 19, 22, 25, 28, 31, __VA_ARGS__)

// The parts of a load.
#define PACKQVIT_LOW(v, p, offset) "ldr d" #v ", [%[" #p "], #" #offset "]\n"
#define PACKQVIT_HIGH(t, p, offset) "ldr %[" #t "], [%[" #p "], #" #offset "]\n"
#define PACKQVIT_JOIN(v, t) "ins v" #v ".d[1], %[" #t "]\n"

// An even group has its rows in v0 and v1, its columns in v2, v3, v4; the odd one after it in v5, v6 and v7, v2, v3.
// Loads the odd one.
#define PACKQVIT_SDOT_EVEN                                                                                           \
  PACKQVIT_SDOT_COLUMN0(2, 0, 1, PACKQVIT_LOW(5, a, 0), PACKQVIT_HIGH(t0, a, 8), PACKQVIT_LOW(6, a, 16),             \
                        PACKQVIT_HIGH(t1, a, 24), PACKQVIT_JOIN(5, t0), PACKQVIT_LOW(7, b, 0),                       \
                        PACKQVIT_HIGH(t0, b, 8), PACKQVIT_JOIN(6, t1))                                               \
  PACKQVIT_SDOT_COLUMN1(3, 0, 1, PACKQVIT_LOW(2, b, 16), PACKQVIT_HIGH(t1, b, 24), PACKQVIT_JOIN(7, t0), "", "",     \
                        PACKQVIT_JOIN(2, t1), "", "")                                                                \
  PACKQVIT_SDOT_COLUMN2(4, 0, 1, PACKQVIT_LOW(3, b, 32), PACKQVIT_HIGH(t0, b, 40), "", "", "", PACKQVIT_JOIN(3, t0), \
                        "", "")
// Loads the next even one and counts.
#define PACKQVIT_SDOT_ODD                                                                                   \
  PACKQVIT_SDOT_COLUMN1(2, 5, 6, PACKQVIT_LOW(0, a, 32), PACKQVIT_HIGH(t0, a, 40), PACKQVIT_LOW(1, a, 48),  \
                        PACKQVIT_HIGH(t1, a, 56), PACKQVIT_JOIN(0, t0), PACKQVIT_LOW(4, b, 80),             \
                        PACKQVIT_HIGH(t0, b, 88), PACKQVIT_JOIN(1, t1))                                     \
  PACKQVIT_SDOT_COLUMN2(3, 5, 6, PACKQVIT_LOW(2, b, 48), PACKQVIT_HIGH(t1, b, 56), PACKQVIT_JOIN(4, t0),    \
                        "add %[a], %[a], #64\n", "", PACKQVIT_JOIN(2, t1), "", "")                          \
  PACKQVIT_SDOT_COLUMN0(7, 5, 6, PACKQVIT_LOW(3, b, 64), PACKQVIT_HIGH(t0, b, 72), "add %[b], %[b], #96\n", \
                        "subs %[pairs], %[pairs], #1\n", "", PACKQVIT_JOIN(3, t0), "", "")
// The last one.
#define PACKQVIT_SDOT_LAST_ODD                                   \
  PACKQVIT_SDOT_COLUMN1(2, 5, 6, "", "", "", "", "", "", "", "") \
  PACKQVIT_SDOT_COLUMN2(3, 5, 6, "", "", "", "", "", "", "", "") \
  PACKQVIT_SDOT_COLUMN0(7, 5, 6, "", "", "", "", "", "", "", "")

namespace packqvit::neon_dotprod {
namespace {

// A neon::TileKernel. Two groups of k a turn; the last two load nothing beyond themselves.
void multiply_8x12_in_order(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias, int32_t* sums,
                            size_t stride) {
  if (groups < 2) return multiply_8x12(a, b, groups, bias, sums, stride);
  size_t pairs = groups / 2 - 1;
  uint64_t t0;
  uint64_t t1;
  // clang-format off
  __asm volatile(
      PACKQVIT_SDOT_START
      "ldp q0, q1, [%[a]], #32\n"
      "ldp q2, q3, [%[b]], #48\n"
      "ldur q4, [%[b], #-16]\n"
      "cbz %[pairs], 2f\n"
      "1:\n"
      PACKQVIT_MCA_BEGIN_TEXT("sdot_8x12_in_order")
      PACKQVIT_SDOT_EVEN
      PACKQVIT_SDOT_ODD
      "b.ne 1b\n"
      PACKQVIT_MCA_END_TEXT()
      "2:\n"
      PACKQVIT_SDOT_EVEN
      PACKQVIT_SDOT_LAST_ODD
      "tbz %[groups], #0, 3f\n"
      "ldp q0, q1, [%[a], #32]\n"
      "ldp q2, q3, [%[b], #48]\n"
      "ldr q4, [%[b], #80]\n"
      PACKQVIT_SDOT_GROUP(2, 3, 4)
      "3:\n"
      PACKQVIT_SDOT_STORE
      : [a] "+r"(a), [b] "+r"(b), [pairs] "+r"(pairs), [sums] "+r"(sums), [t0] "=&r"(t0), [t1] "=&r"(t1)
      : [groups] "r"(groups), [bias] "r"(bias), [stride] "r"(stride)
      : PACKQVIT_SDOT_CLOBBERS);
  // clang-format on
}

}  // namespace
}  // namespace packqvit::neon_dotprod
