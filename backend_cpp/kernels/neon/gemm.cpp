// GEMM without dot product instructions. Operands are row-major in groups of 16 k, so that the lanes of a vector run
// along k, and one sum is spread over the lanes of an accumulator until the tile is done:
//
//   route         weights  x            16 products        exact because
//   mla           4 bits   [-9, 9]      MUL/MLA, SADALP/2  2 x 9 x 7 = 126 fits into 8 bits; SADALP adds at most 252
//   per
//                                                          32 k to a lane of 16 bits: 32256 after 4096
//   mla_unsigned  4 bits   [-1, 17]     the same of x - 8  8 x the weights' sum is folded into the bias
//   smlal         4 bits   int8         SMLAL, SMLAL2      128 x 7 = 896 twice per 16 k: 32256 in 16 bits after 288
//   smull         any      int8         SMULL, SMLAL2,     128 x 127 twice is 32512; a lane of 32 bits takes any K
//                                       SADALP
//
// Weights of 4 bits are within [-7, 7] and those of 8 bits within [-127, 127] by contract.
#include <arm_neon.h>

#include <algorithm>

#include "kernels/mca.h"
#include "kernels/neon/epilogue.h"
#include "kernels/neon/neon.h"

namespace packqvit::neon {
namespace {

constexpr size_t kRows = 4;
constexpr size_t kSums = 4;      // columns of one microkernel call: 4 x 4 accumulators are 16 registers
constexpr size_t kColumns = 16;  // of a panel, so that the epilogue has whole vectors
constexpr size_t kGroup = 16;
constexpr size_t kStepA = kRows * kGroup;
constexpr size_t kStepB = kColumns * kGroup;
constexpr GemmTile kTile = {kRows, kColumns, kGroup};

// sums[4][kColumns], four columns of it, from a[groups][4][16] and b[groups][kColumns][16]. Written or, behind the
// first piece of k, added.
using Kernel = void (*)(const int8_t* a, const int8_t* b, size_t groups, bool add, int32_t* sums);

// Four sums per row, each the total of one accumulator's lanes.
inline void store_sums(int32x4_t row, bool add, int32_t* sums) {
  vst1q_s32(sums, add ? vaddq_s32(row, vld1q_s32(sums)) : row);
}
inline int32x4_t total(const int32x4_t (&acc)[kSums]) {
  return vpaddq_s32(vpaddq_s32(acc[0], acc[1]), vpaddq_s32(acc[2], acc[3]));
}
inline int32x4_t total_widened(const int16x8_t (&acc)[kSums]) {
  return total({vpaddlq_s16(acc[0]), vpaddlq_s16(acc[1]), vpaddlq_s16(acc[2]), vpaddlq_s16(acc[3])});
}
// Four lanes of an accumulator have to fit into 16 bits.
inline int32x4_t total_narrow(const int16x8_t (&acc)[kSums]) {
  return vpaddlq_s16(vpaddq_s16(vpaddq_s16(acc[0], acc[1]), vpaddq_s16(acc[2], acc[3])));
}

template <typename Vector>
inline void clear(Vector (&acc)[kRows][kSums]) {
  for (auto& row : acc) {
    for (Vector& lanes : row) lanes = Vector{};
  }
}

template <typename Vector>
inline void end_of_step([[maybe_unused]] Vector (&acc)[kRows][kSums]) {
#ifdef PACKQVIT_MCA
  for (auto& row : acc) {
    for (Vector& lanes : row) PACKQVIT_MCA_KEEP(lanes);
  }
#endif
  PACKQVIT_MCA_END();
}

// acc = sums of all steps of 32 k. Compilers start more products than there are registers for, and spill, so this loop
// is written out. Products take turns in v24-v28: MUL, MLA seven instructions behind it, and SADALP as far behind that,
// which is when an in-order core has their results. Loads come in groups, because such a core stalls where a short
// instruction follows a long one; the last products of a step are added during the loads of the next.
// clang-format off: one slot of the schedule per line
inline void mla_steps(const int8_t* a, const int8_t* b, size_t steps, int16x8_t (&acc)[kRows][kSums]) {
  static_assert(kStepA == 64 && kStepB == 256, "the offsets below");
  __asm volatile(
      // v16-v19: rows of the first 16 k; v20-v23: of the second; v29-v31: columns.
      "movi %[s00].2d, #0; movi %[s01].2d, #0; movi %[s02].2d, #0; movi %[s03].2d, #0\n"
      "movi %[s10].2d, #0; movi %[s11].2d, #0; movi %[s12].2d, #0; movi %[s13].2d, #0\n"
      "movi %[s20].2d, #0; movi %[s21].2d, #0; movi %[s22].2d, #0; movi %[s23].2d, #0\n"
      "movi %[s30].2d, #0; movi %[s31].2d, #0; movi %[s32].2d, #0; movi %[s33].2d, #0\n"
      "movi v26.2d, #0; movi v27.2d, #0; movi v28.2d, #0; movi v24.2d, #0\n"
      "1:\n"
      PACKQVIT_MCA_BEGIN_TEXT("mla16b_4x4")
      "ldp q16, q17, [%[a]]; ldp q18, q19, [%[a], #32]; ldp q20, q21, [%[a], #64]; ldp q22, q23, [%[a], #96]\n"
      "ldp q29, q31, [%[b]]; ldr q30, [%[b], #256]\n"
      "subs %[steps], %[steps], #1; add %[a], %[a], #128\n"
      "sadalp %[s33].8h, v24.16b; mul v24.16b, v16.16b, v29.16b\n"
      "mul v25.16b, v17.16b, v29.16b; sadalp %[s03].8h, v26.16b\n"
      "mul v26.16b, v18.16b, v29.16b; sadalp %[s13].8h, v27.16b\n"
      "sadalp %[s23].8h, v28.16b; mla v24.16b, v20.16b, v30.16b\n"
      "mul v27.16b, v19.16b, v29.16b; mla v25.16b, v21.16b, v30.16b\n"
      "mul v28.16b, v16.16b, v31.16b; mla v26.16b, v22.16b, v30.16b; sadalp %[s00].8h, v24.16b\n"
      "mul v24.16b, v17.16b, v31.16b; mla v27.16b, v23.16b, v30.16b; sadalp %[s10].8h, v25.16b\n"
      "ldr q29, [%[b], #272]; ldr q30, [%[b], #32]\n"
      "mul v25.16b, v18.16b, v31.16b; sadalp %[s20].8h, v26.16b; mla v28.16b, v20.16b, v29.16b\n"
      "mul v26.16b, v19.16b, v31.16b; mla v24.16b, v21.16b, v29.16b; sadalp %[s30].8h, v27.16b\n"
      "mul v27.16b, v16.16b, v30.16b; mla v25.16b, v22.16b, v29.16b; sadalp %[s01].8h, v28.16b\n"
      "mul v28.16b, v17.16b, v30.16b; mla v26.16b, v23.16b, v29.16b; sadalp %[s11].8h, v24.16b\n"
      "ldr q31, [%[b], #288]; ldr q29, [%[b], #48]\n"
      "mul v24.16b, v18.16b, v30.16b; sadalp %[s21].8h, v25.16b; mla v27.16b, v20.16b, v31.16b\n"
      "mul v25.16b, v19.16b, v30.16b; mla v28.16b, v21.16b, v31.16b; sadalp %[s31].8h, v26.16b\n"
      "mul v26.16b, v16.16b, v29.16b; mla v24.16b, v22.16b, v31.16b; sadalp %[s02].8h, v27.16b\n"
      "ldr q30, [%[b], #304]; add %[b], %[b], #512\n"
      "mul v27.16b, v17.16b, v29.16b; mla v25.16b, v23.16b, v31.16b; sadalp %[s12].8h, v28.16b\n"
      "mul v28.16b, v18.16b, v29.16b; mla v26.16b, v20.16b, v30.16b; sadalp %[s22].8h, v24.16b\n"
      "mul v24.16b, v19.16b, v29.16b; mla v27.16b, v21.16b, v30.16b; sadalp %[s32].8h, v25.16b\n"
      "mla v28.16b, v22.16b, v30.16b; mla v24.16b, v23.16b, v30.16b\n"
      PACKQVIT_MCA_END_TEXT()
      "b.ne 1b\n"
      "sadalp %[s03].8h, v26.16b; sadalp %[s13].8h, v27.16b; sadalp %[s23].8h, v28.16b; sadalp %[s33].8h, v24.16b\n"
      : [a] "+r"(a), [b] "+r"(b), [steps] "+r"(steps),
        [s00] "=&w"(acc[0][0]), [s01] "=&w"(acc[0][1]), [s02] "=&w"(acc[0][2]), [s03] "=&w"(acc[0][3]),
        [s10] "=&w"(acc[1][0]), [s11] "=&w"(acc[1][1]), [s12] "=&w"(acc[1][2]), [s13] "=&w"(acc[1][3]),
        [s20] "=&w"(acc[2][0]), [s21] "=&w"(acc[2][1]), [s22] "=&w"(acc[2][2]), [s23] "=&w"(acc[2][3]),
        [s30] "=&w"(acc[3][0]), [s31] "=&w"(acc[3][1]), [s32] "=&w"(acc[3][2]), [s33] "=&w"(acc[3][3])
      :
      : "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31",
        "cc", "memory");
}
// clang-format on

__attribute__((always_inline)) inline void mla(const int8_t* a, const int8_t* b, size_t groups, bool add,
                                               int32_t* sums) {
  int16x8_t acc[kRows][kSums];
  mla_steps(a, b, groups / 2, acc);
  const bool narrow = groups <= 64;  // 4 lanes x 252 x 32 = 32256
  for (size_t i = 0; i < kRows; ++i) {
    store_sums(narrow ? total_narrow(acc[i]) : total_widened(acc[i]), add, sums + i * kColumns);
  }
}

__attribute__((always_inline)) inline void smlal(const int8_t* a, const int8_t* b, size_t groups, bool add,
                                                 int32_t* sums) {
  int16x8_t acc[kRows][kSums];
  clear(acc);
  const int8_t* const end = b + groups * kStepB;
  do {
    PACKQVIT_MCA_BEGIN("smlal8h_4x4");
    for (size_t half = 0; half < 2; ++half) {
      int8x16_t rows[kRows];
      for (size_t i = 0; i < kRows; ++i) rows[i] = vld1q_s8(a + half * kStepA + i * kGroup);
      for (size_t j = 0; j < kSums; ++j) {
        const int8x16_t column = vld1q_s8(b + half * kStepB + j * kGroup);
        for (size_t i = 0; i < kRows; ++i) {
          acc[i][j] = vmlal_s8(acc[i][j], vget_low_s8(rows[i]), vget_low_s8(column));
          acc[i][j] = vmlal_high_s8(acc[i][j], rows[i], column);
        }
      }
    }
    a += 2 * kStepA;
    b += 2 * kStepB;
    end_of_step(acc);
  } while (b != end);
  for (size_t i = 0; i < kRows; ++i) store_sums(total_widened(acc[i]), add, sums + i * kColumns);
}

__attribute__((always_inline)) inline void smull(const int8_t* a, const int8_t* b, size_t groups, bool add,
                                                 int32_t* sums) {
  int32x4_t acc[kRows][kSums];
  clear(acc);
  const int8_t* const end = b + groups * kStepB;
  do {
    PACKQVIT_MCA_BEGIN("smull_4x4");
    int8x16_t rows[kRows];
    for (size_t i = 0; i < kRows; ++i) rows[i] = vld1q_s8(a + i * kGroup);
    for (size_t j = 0; j < kSums; ++j) {
      const int8x16_t column = vld1q_s8(b + j * kGroup);
      for (size_t i = 0; i < kRows; ++i) {
        const int16x8_t product = vmull_s8(vget_low_s8(rows[i]), vget_low_s8(column));
        acc[i][j] = vpadalq_s16(acc[i][j], vmlal_high_s8(product, rows[i], column));
      }
    }
    a += kStepA;
    b += kStepB;
    end_of_step(acc);
  } while (b != end);
  for (size_t i = 0; i < kRows; ++i) store_sums(total(acc[i]), add, sums + i * kColumns);
}

// All columns of sums[4][kColumns], in pieces of k whose sums are exact. Not inlined: compilers keep the accumulators
// in registers only where little else lives beside them.
template <Kernel kKernel, size_t kMaxGroups>
__attribute__((noinline)) void multiply_tile(const int8_t* a, const int8_t* b, size_t groups, int32_t* sums) {
  for (size_t column = 0; column < kColumns; column += kSums) {
    for (size_t group = 0; group < groups; group += kMaxGroups) {
      kKernel(a + group * kStepA, b + group * kStepB + column * kGroup, std::min(kMaxGroups, groups - group), group > 0,
              sums + column);
    }
  }
}

// Rows to [k / 16][4][16] codes minus kOffset, zero beyond k. Rows beyond the tile's last are left as they are: their
// sums are never stored.
template <int kOffset>
void pack_tile(const int8_t* x, size_t rows, size_t k, int8_t* packed) {
  const int8x16_t offset = vdupq_n_s8(kOffset);
  for (size_t i = 0; i < rows; ++i, x += k) {
    int8_t* out = packed + i * kGroup;
    size_t column = 0;
    for (; column + kGroup <= k; column += kGroup, out += kStepA) vst1q_s8(out, vsubq_s8(vld1q_s8(x + column), offset));
    if (column < k) {
      int8_t codes[kGroup];
      std::fill(codes, codes + kGroup, static_cast<int8_t>(kOffset));
      std::copy(x + column, x + k, codes);
      vst1q_s8(out, vsubq_s8(vld1q_s8(codes), offset));
    }
  }
}

// [k / 32][16][16] pairs of nibbles to [k / 16][16][16] codes.
void widen_panel(const uint8_t* panel, size_t padded_k, int8_t* codes) {
  for (size_t k = 0; k < padded_k; k += 2 * kGroup, panel += kStepB, codes += 2 * kStepB) {
    for (size_t i = 0; i < kStepB; i += 16) {
      const int8x16_t pairs = vreinterpretq_s8_u8(vld1q_u8(panel + i));
      vst1q_s8(codes + i, vshrq_n_s8(vshlq_n_s8(pairs, 4), 4));
      vst1q_s8(codes + kStepB + i, vshrq_n_s8(pairs, 4));
    }
  }
}

size_t packed_rows_bytes(const PackedWeights& weights, size_t rows) {
  // A last tile whose k ends half way in a pair of groups is read to the end.
  return round_up(rows, kRows) * weights.padded_k;
}

size_t scratch_bytes(const PackedWeights& weights, size_t rows) {
  return packed_rows_bytes(weights, rows) + (weights.bits == 4 ? kColumns * weights.padded_k : 0);
}

// Rows are packed once per call and panels widened once; the sums of a few tiles pass through a buffer to the epilogue.
template <Kernel kKernel, size_t kMaxGroups, int kOffset>
void run(const GemmArguments& arguments, Range rows, Range panels, void* scratch) {
  constexpr size_t kBatch = 4 * kRows;
  const PackedWeights& weights = *arguments.weights;
  const size_t groups = weights.padded_k / kGroup;
  const StoreTile store = choose_store<kColumns, true>(arguments);
  int8_t* packed = static_cast<int8_t*>(scratch);
  for (size_t row = rows.begin; row < rows.end; row += kRows) {
    pack_tile<kOffset>(arguments.x + row * weights.k, std::min(kRows, rows.end - row), weights.k,
                       packed + (row - rows.begin) * weights.padded_k);
  }
  int8_t* widened = packed + packed_rows_bytes(weights, rows.end - rows.begin);
  for (size_t panel = panels.begin; panel < panels.end; ++panel) {
    const int8_t* b = reinterpret_cast<const int8_t*>(weights.panel(panel));
    if (weights.bits == 4) {
      widen_panel(weights.panel(panel), weights.padded_k, widened);
      b = widened;
    }
    for (size_t first = rows.begin; first < rows.end; first += kBatch) {
      int32_t sums[kBatch * kColumns];
      const size_t end = std::min(first + kBatch, rows.end);
      for (size_t row = first; row < end; row += kRows) {
        multiply_tile<kKernel, kMaxGroups>(packed + (row - rows.begin) * weights.padded_k, b, groups,
                                           sums + (row - first) * kColumns);
      }
      store(arguments, first, end - first, panel * kColumns, sums);
    }
  }
}

constexpr int kUnsignedOffset = 8;

void fold_unsigned_offset(const PackedWeights& weights, Epilogue, const Requantizer&, int32_t* bias) {
  for (size_t panel = 0; panel < weights.panels(); ++panel) {
    const uint8_t* pairs = weights.panel(panel);
    for (size_t i = 0; i < weights.panel_bytes(); ++i) {
      const int low = static_cast<int8_t>(pairs[i] << 4) >> 4;
      const int high = static_cast<int8_t>(pairs[i]) >> 4;
      bias[panel * kColumns + i / kGroup % kColumns] += kUnsignedOffset * (low + high);
    }
  }
}

bool always() { return true; }

constexpr bool within(CodeRange x, int32_t low, int32_t high) { return x.low >= low && x.high <= high; }

}  // namespace

const GemmRoute& mla_route() {
  static constexpr GemmRoute kRoute = {
      "mla",
      [](unsigned bits, CodeRange x) { return bits == 4 && within(x, -9, 9); },
      always,
      kTile,
      nullptr,
      scratch_bytes,
      run<mla, /*kMaxGroups=*/256, /*kOffset=*/0>,
  };
  return kRoute;
}

const GemmRoute& mla_unsigned_route() {
  static constexpr GemmRoute kRoute = {
      "mla_unsigned",
      [](unsigned bits, CodeRange x) { return bits == 4 && within(x, kUnsignedOffset - 9, kUnsignedOffset + 9); },
      always,
      kTile,
      fold_unsigned_offset,
      scratch_bytes,
      run<mla, /*kMaxGroups=*/256, kUnsignedOffset>,
  };
  return kRoute;
}

const GemmRoute& smlal_route() {
  static constexpr GemmRoute kRoute = {
      "smlal",       [](unsigned bits, CodeRange) { return bits == 4; }, always, kTile, nullptr,
      scratch_bytes, run<smlal, /*kMaxGroups=*/18, /*kOffset=*/0>,
  };
  return kRoute;
}

const GemmRoute& smull_route() {
  static constexpr GemmRoute kRoute = {
      "smull",       [](unsigned, CodeRange) { return true; },           always, kTile, nullptr,
      scratch_bytes, run<smull, /*kMaxGroups=*/SIZE_MAX, /*kOffset=*/0>,
  };
  return kRoute;
}

}  // namespace packqvit::neon
