#include "kernels/packed_weights.h"

#include <gtest/gtest.h>

#include "tests/support/random.h"
#include "tests/support/weights.h"

namespace packqvit {
namespace {

// The code at (row, column) of the layout, zero in the padding.
int8_t unpacked(const PackedWeights& packed, size_t row, size_t column) {
  const size_t nr = packed.tile.nr;
  const size_t kr = packed.tile.kr;
  const uint8_t* panel = packed.panel(row / nr);
  if (packed.bits == 8) return static_cast<int8_t>(panel[(column / kr * nr + row % nr) * kr + column % kr]);
  const size_t pair = column / (2 * kr);
  const uint8_t byte = panel[(pair * nr + row % nr) * kr + column % kr];
  return static_cast<int8_t>(static_cast<int8_t>(column % (2 * kr) < kr ? byte << 4 : byte & 0xF0) >> 4);
}

TEST(PackedWeights, EveryCodeIsWhereTheLayoutSaysForAnyTile) {
  Random random(1);
  for (const GemmTile& tile :
       {GemmTile{2, 4, 16}, GemmTile{8, 12, 4}, GemmTile{8, 12, 8}, GemmTile{5, 64, 4}, GemmTile{1, 1, 1}}) {
    for (const size_t n : {1, 3, 4, 13, 64, 65}) {
      for (const size_t k : {1, 2, 7, 16, 31, 33, 64}) {
        for (const unsigned bits : {4u, 8u}) {
          const int64_t limit = bits == 8 ? 127 : 7;
          const auto codes = random.numbers<int8_t>(n * k, -limit, limit);
          const auto bytes = bits == 8 ? to_bytes(codes) : to_nibbles(codes, k);
          WeightMemory memory;
          PackedWeights packed;
          ASSERT_TRUE(pack_weights({bytes.data(), n, k, bits}, tile, memory, packed));
          ASSERT_GE(packed.padded_k, k);
          for (size_t row = 0; row < packed.panels() * tile.nr; ++row) {
            for (size_t column = 0; column < packed.padded_k; ++column) {
              const int8_t expected = row < n && column < k ? codes[row * k + column] : int8_t{0};
              ASSERT_EQ(unpacked(packed, row, column), expected) << n << "x" << k << " at " << row << "," << column;
            }
          }
        }
      }
    }
  }
}

TEST(PackedWeights, ReadsNibblesLowFirstAndSigned) {
  const uint8_t bytes[] = {0x98, 0x0F, 0x71, 0x0A};  // rows of three codes
  const WeightView view{bytes, 2, 3, 4};
  EXPECT_EQ(view.code(0, 0), -8);
  EXPECT_EQ(view.code(0, 1), -7);
  EXPECT_EQ(view.code(0, 2), -1);
  EXPECT_EQ(view.code(1, 0), 1);
  EXPECT_EQ(view.code(1, 1), 7);
  EXPECT_EQ(view.code(1, 2), -6);
  int8_t row[3];
  view.read_row(1, row);
  EXPECT_EQ(row[0], 1);
  EXPECT_EQ(row[1], 7);
  EXPECT_EQ(row[2], -6);
}

}  // namespace
}  // namespace packqvit
