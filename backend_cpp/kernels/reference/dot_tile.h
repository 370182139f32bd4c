// The microkernel that GEMM and attention share: int16 dot products over contiguous k.
//
// Compilers turn `int32 += int16 * int16` along k into the multiply-add of pairs that every ISA has (PMADDWD, SMLAL).
// Both operands are widened to int16 beforehand, once per row block and panel, outside of this loop. Sums are unsigned:
// within the contract they fit into int32, and what a caller hands in beyond it wraps around.
#pragma once

#include <cstddef>
#include <cstdint>

namespace packqvit::reference {

// 2 x 4 accumulators leave room for the operands in 16 vector registers.
inline constexpr size_t kTileRows = 2;
inline constexpr size_t kTileColumns = 4;

// acc[i][j] = sum over k of a[i, k] * b[j, k]; rows of a and b are `stride` apart.
template <size_t kRows>
inline void dot_tile(const int16_t* a, const int16_t* b, size_t stride, size_t k, int32_t (*acc)[kTileColumns]) {
  uint32_t sum[kRows][kTileColumns] = {};
  for (size_t x = 0; x < k; ++x) {
    for (size_t i = 0; i < kRows; ++i) {
      for (size_t j = 0; j < kTileColumns; ++j)
        sum[i][j] += static_cast<uint32_t>(int32_t{a[i * stride + x]} * b[j * stride + x]);
    }
  }
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kTileColumns; ++j) acc[i][j] = static_cast<int32_t>(sum[i][j]);
  }
}

// All of a's `rows` against one panel of b; store(row, acc of kTileColumns) is called once per row.
template <typename Store>
inline void dot_panel(const int16_t* a, size_t rows, const int16_t* b, size_t stride, size_t k, const Store& store) {
  int32_t acc[kTileRows][kTileColumns];
  for (size_t row = 0; row < rows; row += kTileRows) {
    const int16_t* first = a + row * stride;
    if (rows - row >= kTileRows) {
      dot_tile<kTileRows>(first, b, stride, k, acc);
      store(row, acc[0]);
      store(row + 1, acc[1]);
    } else {
      dot_tile<1>(first, b, stride, k, acc);
      store(row, acc[0]);
    }
  }
}

}  // namespace packqvit::reference
