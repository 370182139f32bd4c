// Two 4-bit weights share a lane of 16 bits, one activation multiplies both: (256 w_high + w_low) x. The paper's form
// takes the two products apart after each multiplication. Three things make it cheaper:
//
//   - Two products of codes within [-9, 9] by weights within [-7, 7] are at most 126: MUL and MLA, then one split.
//   - SRSRA rounds while it shifts, which takes back what a negative lower product borrowed from the upper one.
//   - The lower sums are never taken out: with T the sum of whole lanes and H that of upper products, both modulo 2^16,
//     they are T - 256 H.
//
// That is MUL, MLA, SRSRA and ADD for 32 multiply-accumulates. Lanes run along the columns, so that an activation is an
// element of a vector and no sums have to be added across lanes.
#include "comparison/two_in_lane.h"

#include <arm_neon.h>

#include <algorithm>

#include "kernels/mca.h"
#include "kernels/neon/epilogue.h"

namespace packqvit::comparison {
namespace {

constexpr size_t kRows = 6;  // with 8 rows, compilers spill
constexpr size_t kHalf = kRows / 2;
constexpr size_t kColumns = 16;  // two for each lane: c and c + 8
constexpr size_t kLanes = 8;
constexpr size_t kStep = 8;       // k of one turn of the loop: a vector of int16 of each row
constexpr size_t kMaxSteps = 64;  // 512 k: 63 x 512 = 32256 fits into 16 bits

// Half of the rows of a tile, for two k: the products of 3 rows take turns.
template <int kLane, size_t kFirst>
inline void multiply_pair(const int16x8_t (&x)[kRows], int16x8_t w0, int16x8_t w1, uint16x8_t (&whole)[kRows],
                          int16x8_t (&upper)[kRows]) {
  int16x8_t product[kHalf];
  for (size_t i = 0; i < kHalf; ++i) product[i] = vmulq_laneq_s16(w0, x[kFirst + i], kLane);
  for (size_t i = 0; i < kHalf; ++i) product[i] = vmlaq_laneq_s16(product[i], w1, x[kFirst + i], kLane + 1);
  for (size_t i = 0; i < kHalf; ++i) upper[kFirst + i] = vrsraq_n_s16(upper[kFirst + i], product[i], 8);
  for (size_t i = 0; i < kHalf; ++i) {
    whole[kFirst + i] = vaddq_u16(whole[kFirst + i], vreinterpretq_u16_s16(product[i]));  // unsigned: wraps
  }
}

// sums[6][16] from a[steps][6][8] and b[steps][8][8 lanes]; written or, behind the first piece of k, added.
__attribute__((noinline)) void multiply_tile(const int16_t* a, const int16_t* b, size_t steps, bool add,
                                             int32_t* sums) {
  uint16x8_t whole[kRows];
  int16x8_t upper[kRows];
  for (size_t i = 0; i < kRows; ++i) whole[i] = vdupq_n_u16(0), upper[i] = vdupq_n_s16(0);
  const int16_t* const end = b + steps * kStep * kLanes;
  do {
    PACKQVIT_MCA_BEGIN("two_in_lane_6x16 route=two_in_lane macs=768");
    int16x8_t x[kRows];
    for (size_t i = 0; i < kRows; ++i) x[i] = vld1q_s16(a + i * kStep);
    const auto weights = [b](size_t k) { return vld1q_s16(b + k * kLanes); };
    multiply_pair<0, 0>(x, weights(0), weights(1), whole, upper);
    multiply_pair<0, kHalf>(x, weights(0), weights(1), whole, upper);
    multiply_pair<2, 0>(x, weights(2), weights(3), whole, upper);
    multiply_pair<2, kHalf>(x, weights(2), weights(3), whole, upper);
    multiply_pair<4, 0>(x, weights(4), weights(5), whole, upper);
    multiply_pair<4, kHalf>(x, weights(4), weights(5), whole, upper);
    multiply_pair<6, 0>(x, weights(6), weights(7), whole, upper);
    multiply_pair<6, kHalf>(x, weights(6), weights(7), whole, upper);
    a += kRows * kStep;
    b += kStep * kLanes;
    PACKQVIT_MCA_END();
  } while (b != end);
  for (size_t i = 0; i < kRows; ++i) {
    const uint16x8_t upper_part = vshlq_n_u16(vreinterpretq_u16_s16(upper[i]), 8);
    const int16x8_t lower = vreinterpretq_s16_u16(vsubq_u16(whole[i], upper_part));
    const int32x4_t row[4] = {vmovl_s16(vget_low_s16(lower)), vmovl_high_s16(lower), vmovl_s16(vget_low_s16(upper[i])),
                              vmovl_high_s16(upper[i])};
    for (size_t j = 0; j < 4; ++j) {
      int32_t* out = sums + i * kColumns + 4 * j;
      vst1q_s32(out, add ? vaddq_s32(row[j], vld1q_s32(out)) : row[j]);
    }
  }
}

// Rows to int16 [k / 8][6][8], zero beyond k.
void pack_tile(const int8_t* x, size_t rows, size_t k, size_t padded_k, int16_t* packed) {
  std::fill_n(packed, kRows * padded_k, int16_t{0});
  for (size_t i = 0; i < rows; ++i) {
    for (size_t c = 0; c < k; ++c) packed[(c / kStep * kRows + i) * kStep + c % kStep] = x[i * k + c];
  }
}

// [k / 2][16] pairs of nibbles to [k][8] lanes.
void widen_panel(const uint8_t* panel, size_t padded_k, int16_t* lanes) {
  const auto join = [](int8x16_t codes) { return vaddw_s8(vshll_n_s8(vget_high_s8(codes), 8), vget_low_s8(codes)); };
  for (size_t k = 0; k < padded_k; k += 2, panel += kColumns, lanes += 2 * kLanes) {
    const int8x16_t pairs = vreinterpretq_s8_u8(vld1q_u8(panel));
    vst1q_s16(lanes, join(vshrq_n_s8(vshlq_n_s8(pairs, 4), 4)));
    vst1q_s16(lanes + kLanes, join(vshrq_n_s8(pairs, 4)));
  }
}

size_t padded(const PackedWeights& weights) { return round_up(weights.padded_k, kStep); }

size_t scratch_bytes(const PackedWeights& weights, size_t rows) {
  return (round_up(rows, kRows) + kLanes) * padded(weights) * sizeof(int16_t);
}

void run(const GemmArguments& arguments, Range rows, Range panels, void* scratch) {
  const PackedWeights& weights = *arguments.weights;
  const size_t k = padded(weights);
  const size_t steps = k / kStep;
  const neon::StoreTile store = neon::choose_store<kColumns, true>(arguments);
  int16_t* const packed = static_cast<int16_t*>(scratch);
  int16_t* const lanes = packed + round_up(rows.end - rows.begin, kRows) * k;
  for (size_t row = rows.begin; row < rows.end; row += kRows) {
    pack_tile(arguments.x + row * weights.k, std::min(kRows, rows.end - row), weights.k, k,
              packed + (row - rows.begin) * k);
  }
  std::fill_n(lanes, kLanes * k, int16_t{0});
  for (size_t panel = panels.begin; panel < panels.end; ++panel) {
    widen_panel(weights.panel(panel), weights.padded_k, lanes);
    for (size_t row = rows.begin; row < rows.end; row += kRows) {
      int32_t sums[kRows * kColumns];
      const int16_t* a = packed + (row - rows.begin) * k;
      for (size_t step = 0; step < steps; step += kMaxSteps) {
        multiply_tile(a + step * kRows * kStep, lanes + step * kStep * kLanes, std::min(kMaxSteps, steps - step),
                      step > 0, sums);
      }
      store(arguments, row, std::min(kRows, rows.end - row), panel * kColumns, sums);
    }
  }
}

}  // namespace

const GemmRoute& two_in_lane_route() {
  static constexpr GemmRoute kRoute = {
      "two_in_lane",
      [](unsigned bits, CodeRange x) { return bits == 4 && x.low >= -9 && x.high <= 9; },
      [] { return true; },
      {kRows, kColumns, /*kr=*/1},
      nullptr,
      scratch_bytes,
      run,
  };
  return kRoute;
}

}  // namespace packqvit::comparison
