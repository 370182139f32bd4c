// GEMM over packed rows: what the dot product and the matrix multiply instructions share.
//
// A call packs its rows once, then visits the panels; each panel stays in the first-level cache while the tiles of rows
// pass over it, whole k at a time. Panels of 4 bits are widened once per visit, so that the inner loops know int8 only.
// Sums of a few tiles pass through a buffer to the epilogue, which sets up its vectors once for all of them.
//
// In an anonymous namespace for the same reason as epilogue.h.
#pragma once

#include <algorithm>

#include "kernels/neon/epilogue.h"

namespace packqvit::neon {
namespace {

inline constexpr size_t kTileRows = 8;
inline constexpr size_t kTileColumns = 12;

// acc[row][kTileColumns] = bias + rows of a times a panel, for as many rows as the function is made for; it may write
// any other row of the tile.
// a is packed[groups][kTileRows][kr], b is panel[groups][kTileColumns][kr].
using TileKernel = void (*)(const int8_t* a, const int8_t* b, size_t groups, const int32_t* bias, int32_t* acc);

// kernels[rows - 1]
using TileKernels = TileKernel[kTileRows];

// Packs a tile of up to kTileRows rows: packed[padded_k / kr][kTileRows][kr], zero from k on. What it writes for rows
// beyond `rows` does not matter.
using PackTile = void (*)(const int8_t* x, size_t rows, size_t k, size_t padded_k, int8_t* packed);

// Sixteen codes of a row from column k on, zero beyond the row's end.
inline int8x16_t load_codes(const int8_t* row, size_t k, size_t size) {
  if (size - k >= 16) return vld1q_s8(row + k);
  int8_t codes[16] = {};
  std::memcpy(codes, row + k, size - k);
  return vld1q_s8(codes);
}

// [k / (2 kr)][nr][kr] pairs of nibbles to [k / kr][nr][kr] codes.
template <size_t kGroup>
inline void widen_panel(const uint8_t* panel, size_t padded_k, int8_t* codes) {
  constexpr size_t kBytes = kTileColumns * kGroup;
  for (size_t k = 0; k < padded_k; k += 2 * kGroup) {
    for (size_t i = 0; i < kBytes; i += 16) {
      const int8x16_t pairs = vreinterpretq_s8_u8(vld1q_u8(panel + i));
      vst1q_s8(codes + i, vshrq_n_s8(vshlq_n_s8(pairs, 4), 4));
      vst1q_s8(codes + kBytes + i, vshrq_n_s8(pairs, 4));
    }
    panel += kBytes;
    codes += 2 * kBytes;
  }
}

inline size_t packed_rows_bytes(const PackedWeights& weights, size_t rows) {
  return round_up(rows, kTileRows) * weights.padded_k;
}

inline size_t tile_gemm_scratch(const PackedWeights& weights, size_t rows) {
  return packed_rows_bytes(weights, rows) + (weights.bits == 4 ? kTileColumns * weights.padded_k : 0);
}

template <size_t kGroup>
inline void tile_gemm(const GemmArguments& arguments, Range rows, Range panels, void* scratch, PackTile pack,
                      const TileKernels& kernels) {
  constexpr size_t kBatch = 4 * kTileRows;
  const PackedWeights& weights = *arguments.weights;
  const StoreTile store = choose_store<kTileColumns, false>(arguments);
  int8_t* packed = static_cast<int8_t*>(scratch);
  for (size_t row = rows.begin; row < rows.end; row += kTileRows) {
    pack(arguments.x + row * weights.k, std::min(kTileRows, rows.end - row), weights.k, weights.padded_k,
         packed + (row - rows.begin) * weights.padded_k);
  }
  int8_t* widened = packed + packed_rows_bytes(weights, rows.end - rows.begin);
  for (size_t panel = panels.begin; panel < panels.end; ++panel) {
    const int8_t* b = reinterpret_cast<const int8_t*>(weights.panel(panel));
    if (weights.bits == 4) {
      widen_panel<kGroup>(weights.panel(panel), weights.padded_k, widened);
      b = widened;
    }
    const size_t column = panel * kTileColumns;
    for (size_t first = rows.begin; first < rows.end; first += kBatch) {
      int32_t acc[kBatch * kTileColumns];
      const size_t end = std::min(first + kBatch, rows.end);
      for (size_t row = first; row < end; row += kTileRows) {
        kernels[std::min(kTileRows, end - row) - 1](packed + (row - rows.begin) * weights.padded_k, b,
                                                    weights.padded_k / kGroup, arguments.bias + column,
                                                    acc + (row - first) * kTileColumns);
      }
      store(arguments, first, end - first, column, acc);
    }
  }
}

}  // namespace
}  // namespace packqvit::neon
