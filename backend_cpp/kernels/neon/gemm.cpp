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

// Not inlined: compilers keep the accumulators in registers only where nothing else lives beside them.
__attribute__((noinline)) void mla(const int8_t* a, const int8_t* b, size_t groups, bool add, int32_t* sums) {
  int16x8_t acc[kRows][kSums];
  clear(acc);
  // 4 lanes x 252 x 32 = 32256
  const bool narrow = groups <= 64;
  const int8_t* const end = b + groups * kStepB;
  do {
    PACKQVIT_MCA_BEGIN("mla16b_4x4");
    int8x16_t first[kRows];
    int8x16_t second[kRows];
    for (size_t i = 0; i < kRows; ++i) {
      first[i] = vld1q_s8(a + i * kGroup);
      second[i] = vld1q_s8(a + kStepA + i * kGroup);
    }
    for (size_t j = 0; j < kSums; ++j) {
      const int8x16_t low = vld1q_s8(b + j * kGroup);
      const int8x16_t high = vld1q_s8(b + kStepB + j * kGroup);
      for (size_t i = 0; i < kRows; ++i) {
        acc[i][j] = vpadalq_s8(acc[i][j], vmlaq_s8(vmulq_s8(first[i], low), second[i], high));
      }
    }
    a += 2 * kStepA;
    b += 2 * kStepB;
    PACKQVIT_MCA_END();
  } while (b != end);
  for (size_t i = 0; i < kRows; ++i) {
    store_sums(narrow ? total_narrow(acc[i]) : total_widened(acc[i]), add, sums + i * kColumns);
  }
}

__attribute__((noinline)) void smlal(const int8_t* a, const int8_t* b, size_t groups, bool add, int32_t* sums) {
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
    PACKQVIT_MCA_END();
  } while (b != end);
  for (size_t i = 0; i < kRows; ++i) store_sums(total_widened(acc[i]), add, sums + i * kColumns);
}

__attribute__((noinline)) void smull(const int8_t* a, const int8_t* b, size_t groups, bool add, int32_t* sums) {
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
    PACKQVIT_MCA_END();
  } while (b != end);
  for (size_t i = 0; i < kRows; ++i) store_sums(total(acc[i]), add, sums + i * kColumns);
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
        const int8_t* a = packed + (row - rows.begin) * weights.padded_k;
        for (size_t column = 0; column < kColumns; column += kSums) {
          for (size_t group = 0; group < groups; group += kMaxGroups) {
            kKernel(a + group * kStepA, b + group * kStepB + column * kGroup, std::min(kMaxGroups, groups - group),
                    group > 0, sums + (row - first) * kColumns + column);
          }
        }
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
