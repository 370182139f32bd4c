// GEMM with the microkernels of tile.h.
//
// A call packs its rows once, then visits the panels; each panel stays in the first-level cache while the tiles of rows
// pass over it, whole k at a time. Panels of 4 bits are widened once per visit, so that the microkernels know int8
// only. Sums of a few tiles pass through a buffer to the epilogue, which sets up its vectors once for all of them.
#pragma once

#include "kernels/neon/epilogue.h"
#include "kernels/neon/tile.h"

namespace packqvit::neon {
namespace {

// [k / (2 kr)][nr][kr] pairs of nibbles to [k / kr][nr][kr] codes.
template <typename Instruction>
inline void widen_panel(const uint8_t* panel, size_t padded_k, int8_t* codes) {
  constexpr size_t kBytes = kTileColumns * Instruction::kGroup;
  for (size_t k = 0; k < padded_k; k += 2 * Instruction::kGroup) {
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

template <typename Instruction>
inline void tile_gemm(const GemmArguments& arguments, Range rows, Range panels, void* scratch) {
  constexpr size_t kBatch = 4 * kTileRows;
  const PackedWeights& weights = *arguments.weights;
  const size_t padded_k = weights.padded_k;
  const TileKernel* kernels = Instruction::kernels[kTileColumns / 4 - 1];
  const StoreTile store = choose_store<kTileColumns, false>(arguments);
  int8_t* packed = static_cast<int8_t*>(scratch);
  for (size_t row = rows.begin; row < rows.end; row += kTileRows) {
    pack_strip<Instruction>(arguments.x + row * weights.k, weights.k, std::min(kTileRows, rows.end - row), weights.k,
                            padded_k, kTileRows, packed + (row - rows.begin) * padded_k);
  }
  int8_t* widened = packed + packed_rows_bytes(weights, rows.end - rows.begin);
  for (size_t panel = panels.begin; panel < panels.end; ++panel) {
    const int8_t* b = reinterpret_cast<const int8_t*>(weights.panel(panel));
    if (weights.bits == 4) {
      widen_panel<Instruction>(weights.panel(panel), padded_k, widened);
      b = widened;
    }
    const size_t column = panel * kTileColumns;
    for (size_t first = rows.begin; first < rows.end; first += kBatch) {
      int32_t sums[kBatch * kTileColumns];
      const size_t end = std::min(first + kBatch, rows.end);
      for (size_t row = first; row < end; row += kTileRows) {
        kernels[std::min(kTileRows, end - row) - 1](packed + (row - rows.begin) * padded_k, b,
                                                    padded_k / Instruction::kGroup, arguments.bias + column,
                                                    sums + (row - first) * kTileColumns, kTileColumns);
      }
      store(arguments, first, end - first, column, sums);
    }
  }
}

}  // namespace
}  // namespace packqvit::neon
