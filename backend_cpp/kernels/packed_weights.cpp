#include "kernels/packed_weights.h"

#include <algorithm>
#include <cstring>

namespace packqvit {
namespace {

int8_t sign_extended(unsigned nibble) {
  return static_cast<int8_t>(nibble < 8 ? static_cast<int>(nibble) : static_cast<int>(nibble) - 16);
}

// visit(column, byte) for all bytes of the panels, in their order.
template <typename Visit>
void for_each_byte(const PackedWeights& weights, const Visit& visit) {
  const uint8_t* byte = weights.data;
  for (size_t first = 0; first < weights.n; first += weights.tile.nr) {
    for (size_t run = 0; run < weights.panel_bytes(); run += weights.tile.nr * weights.tile.kr) {
      for (size_t j = 0; j < weights.tile.nr; ++j) {
        for (size_t i = 0; i < weights.tile.kr; ++i) visit(first + j, *byte++);
      }
    }
  }
}

}  // namespace

int8_t WeightView::code(size_t row, size_t column) const {
  if (bits == 8) return static_cast<int8_t>(data[row * k + column]);
  return sign_extended(data[row * row_bytes() + column / 2] >> (column % 2 * 4) & 15);
}

void WeightView::read_row(size_t row, int8_t* out) const {
  const uint8_t* in = data + row * row_bytes();
  if (bits == 8) {
    std::memcpy(out, in, k);
    return;
  }
  for (size_t i = 0; i + 1 < k; i += 2) {
    out[i] = sign_extended(in[i / 2] & 15);
    out[i + 1] = sign_extended(in[i / 2] >> 4);
  }
  if (k % 2 == 1) out[k - 1] = sign_extended(in[k / 2] & 15);
}

bool pack_weights(const WeightView& weights, const GemmTile& tile, WeightMemory& memory, PackedWeights& packed) {
  const size_t groups = weights.bits == 8 ? 1 : 2;  // groups of kr codes in one run of kr bytes
  packed.tile = tile;
  packed.bits = weights.bits;
  packed.n = weights.n;
  packed.k = weights.k;
  packed.padded_k = round_up(weights.k, groups * tile.kr);
  packed.data = memory.allocate(packed.bytes());  // zero, as the padding has to be
  if (packed.data == nullptr) return false;

  const size_t run = tile.kr;
  for (size_t row = 0; row < weights.n; ++row) {
    const uint8_t* in = weights.data + row * weights.row_bytes();
    uint8_t* out = packed.data + row / tile.nr * packed.panel_bytes() + row % tile.nr * run;
    const auto nibble = [&](size_t k) -> unsigned { return k < weights.k ? in[k / 2] >> (k % 2 * 4) & 15 : 0; };
    for (size_t k = 0; k < weights.k; k += groups * run, out += tile.nr * run) {
      if (groups == 1) {
        std::memcpy(out, in + k, std::min(run, weights.k - k));
      } else {
        for (size_t i = 0; i < run; ++i) out[i] = static_cast<uint8_t>(nibble(k + i) | nibble(k + run + i) << 4);
      }
    }
  }
  return true;
}

void add_column_sums(const PackedWeights& weights, int32_t factor, int32_t* sums) {
  for_each_byte(weights, [&](size_t column, uint8_t byte) {
    const int32_t sum =
        weights.bits == 8 ? static_cast<int8_t>(byte) : sign_extended(byte & 15) + sign_extended(byte >> 4);
    sums[column] += factor * sum;
  });
}

void add_column_products(const PackedWeights& weights, int32_t offset, int32_t factor, int32_t* sums) {
  for_each_byte(weights, [&](size_t column, uint8_t byte) {
    sums[column] += factor * sign_extended(byte & 15) * (sign_extended(byte >> 4) + offset);
  });
}

}  // namespace packqvit
