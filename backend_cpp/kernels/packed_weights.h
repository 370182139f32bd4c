#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/aligned_array.h"
#include "kernels/weight_memory.h"

namespace packqvit {

// Geometry of a tier's GEMM: one microkernel call computes mr rows by nr columns and consumes k in groups of kr.
struct GemmTile {
  size_t mr;
  size_t nr;
  size_t kr;
};

// A weight matrix [n, k] as the plan stores it: int8 codes, or two 4-bit codes to a byte with rows padded to even k.
struct WeightView {
  const uint8_t* data;
  size_t n;
  size_t k;
  unsigned bits;  // 8 or 4

  size_t row_bytes() const { return bits == 8 ? k : (k + 1) / 2; }
  int8_t code(size_t row, size_t column) const;

  // The codes of one row, in order, to out[k]: what a loop over all of them should use.
  void read_row(size_t row, int8_t* out) const;
};

// Weights in panels of nr columns, zero codes where n or k is padded:
//   8 bits: packed[n / nr][k / kr][nr][kr]
//   4 bits: packed[n / nr][k / (2 kr)][nr][kr], a byte's low nibble from the first group of kr, the high from the
//   second
struct PackedWeights {
  GemmTile tile;
  unsigned bits = 8;
  size_t n = 0;
  size_t k = 0;
  size_t padded_k = 0;      // a multiple of kr, and of 2 kr for 4 bits
  uint8_t* data = nullptr;  // of the WeightMemory

  size_t panels() const { return divide_up(n, tile.nr); }
  size_t panel_bytes() const { return tile.nr * padded_k * bits / 8; }
  size_t bytes() const { return panels() * panel_bytes(); }
  const uint8_t* panel(size_t index) const { return data + index * panel_bytes(); }
};

// sums[column] += factor * (sum of the column's codes), for all columns up to a multiple of nr.
void add_column_sums(const PackedWeights& weights, int32_t factor, int32_t* sums);

// Of 4-bit weights: sums[column] += factor * (sum of w1 * (w2 + offset)), where w1 and w2 share a byte.
void add_column_products(const PackedWeights& weights, int32_t offset, int32_t factor, int32_t* sums);

// False when there is no memory. `packed` is as good as `memory` is there.
[[nodiscard]] bool pack_weights(const WeightView& weights, const GemmTile& tile, WeightMemory& memory,
                                PackedWeights& packed);

}  // namespace packqvit
