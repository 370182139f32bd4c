#include "kernels/packed_weights.h"

namespace packqvit {
namespace {

uint8_t code_or_zero(const WeightView& weights, size_t row, size_t column) {
  return row < weights.n && column < weights.k ? static_cast<uint8_t>(weights.code(row, column)) : 0;
}

int8_t sign_extended(unsigned nibble) {
  return static_cast<int8_t>(nibble < 8 ? static_cast<int>(nibble) : static_cast<int>(nibble) - 16);
}

}  // namespace

int8_t WeightView::code(size_t row, size_t column) const {
  if (bits == 8) return static_cast<int8_t>(data[row * k + column]);
  return sign_extended(data[row * row_bytes() + column / 2] >> (column % 2 * 4) & 15);
}

int8_t PackedWeights::code(size_t row, size_t column) const {
  const size_t group = tile.kr * 8 / bits;  // codes in one run of kr bytes
  const size_t byte = column / group * tile.kr * tile.nr + row % tile.nr * tile.kr + column % tile.kr;
  const unsigned stored = panel(row / tile.nr)[byte];
  if (bits == 8) return static_cast<int8_t>(stored);
  return sign_extended(column % group < tile.kr ? stored & 15 : stored >> 4);
}

bool pack_weights(const WeightView& weights, const GemmTile& tile, PackedWeights& packed) {
  const size_t groups = weights.bits == 8 ? 1 : 2;  // groups of kr codes in one run of kr bytes
  packed.tile = tile;
  packed.bits = weights.bits;
  packed.n = weights.n;
  packed.k = weights.k;
  packed.padded_k = round_up(weights.k, groups * tile.kr);
  if (!packed.data.allocate(packed.panels() * packed.panel_bytes())) return false;

  uint8_t* out = packed.data.data();
  for (size_t first = 0; first < weights.n; first += tile.nr) {
    for (size_t k = 0; k < packed.padded_k; k += groups * tile.kr) {
      for (size_t row = first; row < first + tile.nr; ++row) {
        for (size_t column = k; column < k + tile.kr; ++column) {
          const unsigned low = code_or_zero(weights, row, column);
          const unsigned high = groups == 2 ? code_or_zero(weights, row, column + tile.kr) : 0;
          *out++ = static_cast<uint8_t>(groups == 2 ? (low & 15) | (high & 15) << 4 : low);
        }
      }
    }
  }
  return true;
}

}  // namespace packqvit
