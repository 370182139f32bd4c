// The SDOT microkernel of a full tile, written out: compilers' schedulers hoist its loads until accumulators no longer
// fit into registers. The sums of row i are in v(8 + 3 i) to v(10 + 3 i).
#pragma once

#include "kernels/mca.h"
#include "kernels/neon/tile.h"

// clang-format off: a line is an instruction, or a row.
// Three registers of sums from the bias, for eight rows.
#define PACKQVIT_SDOT_COPY(c0, c1, c2) \
  "mov v" #c0 ".16b, v8.16b\n"         \
  "mov v" #c1 ".16b, v9.16b\n"         \
  "mov v" #c2 ".16b, v10.16b\n"
#define PACKQVIT_SDOT_START      \
  "ldp q8, q9, [%[bias]]\n"      \
  "ldr q10, [%[bias], #32]\n"    \
  PACKQVIT_SDOT_COPY(11, 12, 13) \
  PACKQVIT_SDOT_COPY(14, 15, 16) \
  PACKQVIT_SDOT_COPY(17, 18, 19) \
  PACKQVIT_SDOT_COPY(20, 21, 22) \
  PACKQVIT_SDOT_COPY(23, 24, 25) \
  PACKQVIT_SDOT_COPY(26, 27, 28) \
  PACKQVIT_SDOT_COPY(29, 30, 31)

// One group of k: the rows in v0 and v1, the columns in b0 to b2.
#define PACKQVIT_SDOT_ROW(c0, c1, c2, b0, b1, b2, a)  \
  "sdot v" #c0 ".4s, v" #b0 ".16b, v" #a "\n"         \
  "sdot v" #c1 ".4s, v" #b1 ".16b, v" #a "\n"         \
  "sdot v" #c2 ".4s, v" #b2 ".16b, v" #a "\n"
#define PACKQVIT_SDOT_GROUP(b0, b1, b2)               \
  PACKQVIT_SDOT_ROW(8, 9, 10, b0, b1, b2, 0.4b [0])   \
  PACKQVIT_SDOT_ROW(11, 12, 13, b0, b1, b2, 0.4b [1]) \
  PACKQVIT_SDOT_ROW(14, 15, 16, b0, b1, b2, 0.4b [2]) \
  PACKQVIT_SDOT_ROW(17, 18, 19, b0, b1, b2, 0.4b [3]) \
  PACKQVIT_SDOT_ROW(20, 21, 22, b0, b1, b2, 1.4b [0]) \
  PACKQVIT_SDOT_ROW(23, 24, 25, b0, b1, b2, 1.4b [1]) \
  PACKQVIT_SDOT_ROW(26, 27, 28, b0, b1, b2, 1.4b [2]) \
  PACKQVIT_SDOT_ROW(29, 30, 31, b0, b1, b2, 1.4b [3])

#define PACKQVIT_SDOT_STORE_ROW(c0, c1, c2)   \
  "stp q" #c0 ", q" #c1 ", [%[sums]]\n"       \
  "str q" #c2 ", [%[sums], #32]\n"            \
  "add %[sums], %[sums], %[stride], lsl #2\n"
#define PACKQVIT_SDOT_STORE           \
  PACKQVIT_SDOT_STORE_ROW(8, 9, 10)   \
  PACKQVIT_SDOT_STORE_ROW(11, 12, 13) \
  PACKQVIT_SDOT_STORE_ROW(14, 15, 16) \
  PACKQVIT_SDOT_STORE_ROW(17, 18, 19) \
  PACKQVIT_SDOT_STORE_ROW(20, 21, 22) \
  PACKQVIT_SDOT_STORE_ROW(23, 24, 25) \
  PACKQVIT_SDOT_STORE_ROW(26, 27, 28) \
  PACKQVIT_SDOT_STORE_ROW(29, 30, 31)
// clang-format on

#define PACKQVIT_SDOT_CLOBBERS                                                                                        \
  "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", \
      "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31", "cc", "memory"

namespace packqvit::neon_dotprod {
namespace {

// A neon::TileKernel. Two groups of k a turn. Not inlined into the kernel for CPUs that issue in order.
__attribute__((noinline)) void multiply_8x12(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias,
                                             int32_t* sums, size_t stride) {
  size_t pairs = groups / 2;
  // clang-format off
  __asm volatile(
      PACKQVIT_SDOT_START
      "cbz %[pairs], 2f\n"
      "1:\n"
      PACKQVIT_MCA_BEGIN_TEXT("sdot_8x12")
      "ldp q0, q1, [%[a]], #64\n"
      "ldp q2, q3, [%[b]], #96\n"
      "ldp q4, q5, [%[b], #-64]\n"
      "subs %[pairs], %[pairs], #1\n"
      PACKQVIT_SDOT_GROUP(2, 3, 4)
      "ldp q0, q1, [%[a], #-32]\n"
      "ldp q6, q7, [%[b], #-32]\n"
      PACKQVIT_SDOT_GROUP(5, 6, 7)
      "b.ne 1b\n"
      PACKQVIT_MCA_END_TEXT()
      "2:\n"
      "tbz %[groups], #0, 3f\n"
      "ldp q0, q1, [%[a]]\n"
      "ldp q2, q3, [%[b]]\n"
      "ldr q4, [%[b], #32]\n"
      PACKQVIT_SDOT_GROUP(2, 3, 4)
      "3:\n"
      PACKQVIT_SDOT_STORE
      : [a] "+r"(a), [b] "+r"(b), [pairs] "+r"(pairs), [sums] "+r"(sums)
      : [groups] "r"(groups), [bias] "r"(bias), [stride] "r"(stride)
      : PACKQVIT_SDOT_CLOBBERS);
  // clang-format on
}

}  // namespace
}  // namespace packqvit::neon_dotprod
