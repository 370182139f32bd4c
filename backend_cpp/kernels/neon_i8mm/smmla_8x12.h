// The SMMLA microkernel of a full tile, written out: compilers' schedulers hoist its loads until accumulators no longer
// fit into registers. The sums of rows 2 i and 2 i + 1 by columns 2 j and 2 j + 1 are in v(8 + 6 i + j).
#pragma once

#include "kernels/mca.h"
#include "kernels/neon/tile.h"

#define PACKQVIT_SMMLA_COPY(to, from) "mov v" #to ".16b, v" #from ".16b\n"
#define PACKQVIT_SMMLA_START                                                                                         \
  "ld1r {v8.2d}, [%[bias]], #8\n"                                                                                    \
  "ld1r {v9.2d}, [%[bias]], #8\n"                                                                                    \
  "ld1r {v10.2d}, [%[bias]], #8\n"                                                                                   \
  "ld1r {v11.2d}, [%[bias]], #8\n"                                                                                   \
  "ld1r {v12.2d}, [%[bias]], #8\n"                                                                                   \
  "ld1r {v13.2d}, [%[bias]]\n" PACKQVIT_SMMLA_COPY(14, 8) PACKQVIT_SMMLA_COPY(15, 9) PACKQVIT_SMMLA_COPY(16, 10)     \
      PACKQVIT_SMMLA_COPY(17, 11) PACKQVIT_SMMLA_COPY(18, 12) PACKQVIT_SMMLA_COPY(19, 13) PACKQVIT_SMMLA_COPY(20, 8) \
          PACKQVIT_SMMLA_COPY(21, 9) PACKQVIT_SMMLA_COPY(22, 10) PACKQVIT_SMMLA_COPY(23, 11)                         \
              PACKQVIT_SMMLA_COPY(24, 12) PACKQVIT_SMMLA_COPY(25, 13) PACKQVIT_SMMLA_COPY(26, 8)                     \
                  PACKQVIT_SMMLA_COPY(27, 9) PACKQVIT_SMMLA_COPY(28, 10) PACKQVIT_SMMLA_COPY(29, 11)                 \
                      PACKQVIT_SMMLA_COPY(30, 12) PACKQVIT_SMMLA_COPY(31, 13)

// One group of k: four pairs of rows in v0 to v3 times a pair of columns in b.
#define PACKQVIT_SMMLA_COLUMNS(c0, c1, c2, c3, b) \
  "smmla v" #c0 ".4s, v0.16b, v" #b               \
  ".16b\n"                                        \
  "smmla v" #c1 ".4s, v1.16b, v" #b               \
  ".16b\n"                                        \
  "smmla v" #c2 ".4s, v2.16b, v" #b               \
  ".16b\n"                                        \
  "smmla v" #c3 ".4s, v3.16b, v" #b ".16b\n"
#define PACKQVIT_SMMLA_GROUP                                                                                          \
  "ldp q0, q1, [%[a]], #64\n"                                                                                         \
  "ldp q4, q5, [%[b]], #96\n"                                                                                         \
  "ldp q2, q3, [%[a], #-32]\n"                                                                                        \
  "ldp q6, q7, [%[b], #-64]\n" PACKQVIT_SMMLA_COLUMNS(8, 14, 20, 26, 4)                                               \
      PACKQVIT_SMMLA_COLUMNS(9, 15, 21, 27, 5) "ldp q4, q5, [%[b], #-32]\n" PACKQVIT_SMMLA_COLUMNS(10, 16, 22, 28, 6) \
          PACKQVIT_SMMLA_COLUMNS(11, 17, 23, 29, 7) PACKQVIT_SMMLA_COLUMNS(12, 18, 24, 30, 4)                         \
              PACKQVIT_SMMLA_COLUMNS(13, 19, 25, 31, 5)

// A row of sums is the lower or the upper halves of six registers.
#define PACKQVIT_SMMLA_STORE_ROWS(c0, c1, c2, c3, c4, c5) \
  "zip1 v0.2d, v" #c0 ".2d, v" #c1                        \
  ".2d\n"                                                 \
  "zip1 v1.2d, v" #c2 ".2d, v" #c3                        \
  ".2d\n"                                                 \
  "zip1 v2.2d, v" #c4 ".2d, v" #c5                        \
  ".2d\n"                                                 \
  "zip2 v3.2d, v" #c0 ".2d, v" #c1                        \
  ".2d\n"                                                 \
  "zip2 v4.2d, v" #c2 ".2d, v" #c3                        \
  ".2d\n"                                                 \
  "zip2 v5.2d, v" #c4 ".2d, v" #c5                        \
  ".2d\n"                                                 \
  "stp q0, q1, [%[sums]]\n"                               \
  "str q2, [%[sums], #32]\n"                              \
  "add %[sums], %[sums], %[stride], lsl #2\n"             \
  "stp q3, q4, [%[sums]]\n"                               \
  "str q5, [%[sums], #32]\n"                              \
  "add %[sums], %[sums], %[stride], lsl #2\n"
#define PACKQVIT_SMMLA_STORE                        \
  PACKQVIT_SMMLA_STORE_ROWS(8, 9, 10, 11, 12, 13)   \
  PACKQVIT_SMMLA_STORE_ROWS(14, 15, 16, 17, 18, 19) \
  PACKQVIT_SMMLA_STORE_ROWS(20, 21, 22, 23, 24, 25) \
  PACKQVIT_SMMLA_STORE_ROWS(26, 27, 28, 29, 30, 31)

namespace packqvit::neon_i8mm {
namespace {

// A neon::TileKernel. Two groups of k a turn.
void multiply_8x12(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias, int32_t* sums, size_t stride) {
  size_t pairs = groups / 2;
  // clang-format off
  __asm volatile(
      PACKQVIT_SMMLA_START
      "cbz %[pairs], 2f\n"
      "1:\n"
      PACKQVIT_MCA_BEGIN_TEXT("smmla_8x12")
      "subs %[pairs], %[pairs], #1\n"
      PACKQVIT_SMMLA_GROUP
      PACKQVIT_SMMLA_GROUP
      "b.ne 1b\n"
      PACKQVIT_MCA_END_TEXT()
      "2:\n"
      "tbz %[groups], #0, 3f\n"
      PACKQVIT_SMMLA_GROUP
      "3:\n"
      PACKQVIT_SMMLA_STORE
      : [a] "+r"(a), [b] "+r"(b), [pairs] "+r"(pairs), [bias] "+r"(bias), [sums] "+r"(sums)
      : [groups] "r"(groups), [stride] "r"(stride)
      : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16",
        "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31", "cc",
        "memory");
  // clang-format on
}

}  // namespace
}  // namespace packqvit::neon_i8mm
