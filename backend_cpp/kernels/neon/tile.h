// Microkernels over packed operands and the packing they need: what the dot product tier and the matrix multiply tier
// share. Each supplies its instruction as a type of static members in a namespace of its own:
//
//   kGroup    codes of k that the instruction takes of one row
//   kernels   [kTileColumns / 4][kTileRows] microkernels: [columns / 4 - 1][rows - 1]
//   void pack_rows(rows[4], packed[4])
//       sixteen codes of four rows to [16 / kGroup][4][kGroup]
//   void pack_columns(rows[kGroup], packed[kGroup])
//       sixteen columns of kGroup rows to [16][kGroup]
//
// In an anonymous namespace for the same reason as epilogue.h.
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "kernels/aligned_array.h"

namespace packqvit::neon {

inline constexpr size_t kTileRows = 8;
inline constexpr size_t kTileColumns = 12;  // 24 accumulators of four sums

// sums[rows][stride] = bias + a * b, for the number of rows and columns that the function is made for. a is
// packed[groups][kTileRows][kGroup], b is packed[groups][columns][kGroup]. An even number of rows may be written.
using TileKernel = void (*)(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias, int32_t* sums,
                            size_t stride);
using TileKernels = TileKernel[kTileColumns / 4][kTileRows];

namespace {

// Sixteen codes of a row of `size` from column k on, zero beyond its end.
inline int8x16_t load_codes(const int8_t* row, size_t k, size_t size) {
  if (k + 16 <= size) return vld1q_s8(row + k);
  int8_t codes[16] = {};
  if (k < size) std::memcpy(codes, row + k, size - k);
  return vld1q_s8(codes);
}

// `count` rows of k codes to packed[padded_k / kGroup][width][kGroup], zero from k on. The rows up to the next multiple
// of four repeat the last one; nobody looks at what they give. `map` is applied to every vector of codes.
template <typename Instruction, typename Map>
inline void pack_strip(const int8_t* x, size_t stride, size_t count, size_t k, size_t padded_k, size_t width,
                       int8_t* packed, const Map& map) {
  constexpr size_t kGroup = Instruction::kGroup;
  constexpr size_t kParts = kGroup / 4;  // vectors of four rows of a group
  for (size_t first = 0; first < count; first += 4) {
    const int8_t* rows[4];
    for (size_t i = 0; i < 4; ++i) rows[i] = x + std::min(first + i, count - 1) * stride;
    int8_t* out = packed + first * kGroup;
    const auto pack = [&](const int8x16_t(&codes)[4], size_t groups) {
      int8x16_t parts[4];
      Instruction::pack_rows(codes, parts);
      for (size_t i = 0; i < 4; ++i) {
        if (i / kParts < groups) vst1q_s8(out + i / kParts * width * kGroup + i % kParts * 16, parts[i]);
      }
      out += 16 * width;
    };
    size_t column = 0;
    for (; column + 16 <= std::min(k, padded_k); column += 16) {
      const int8x16_t codes[4] = {map(vld1q_s8(rows[0] + column)), map(vld1q_s8(rows[1] + column)),
                                  map(vld1q_s8(rows[2] + column)), map(vld1q_s8(rows[3] + column))};
      pack(codes, 16 / kGroup);
    }
    for (; column < padded_k; column += 16) {
      const int8x16_t codes[4] = {map(load_codes(rows[0], column, k)), map(load_codes(rows[1], column, k)),
                                  map(load_codes(rows[2], column, k)), map(load_codes(rows[3], column, k))};
      pack(codes, (padded_k - column) / kGroup);
    }
  }
}

template <typename Instruction>
inline void pack_strip(const int8_t* x, size_t stride, size_t count, size_t k, size_t padded_k, size_t width,
                       int8_t* packed) {
  pack_strip<Instruction>(x, stride, count, k, padded_k, width, packed, [](int8x16_t codes) { return codes; });
}

}  // namespace
}  // namespace packqvit::neon
