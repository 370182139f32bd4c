// What the GEMM routes of the 256-bit tiers share: rows and panels brought into the route's form in scratch memory,
// panels outside, tiles of rows inside.
#pragma once

#include "kernels/ymm/epilogue.h"

namespace packqvit::PACKQVIT_ISA {

struct Tile {
  const uint8_t* x;  // rows in the route's form with a distance of `stride` bytes
  size_t stride;
  size_t k;                 // padded
  const int32_t* row_bias;  // one number a row
  const uint8_t* panel;     // in the route's form
  const int32_t* bias;      // of the panel's channels
};

template <size_t kRows, typename Route, typename Store>
__attribute__((noinline)) void run_tile(const Tile& tile, const Store& store, size_t row) {
  __m256i acc[kRows][2];
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    unroll<2>([&](auto j) __attribute__((always_inline)) {
      acc[i][j] = load(tile.bias + 8 * j);
      if constexpr (Route::kRowBias) acc[i][j] = _mm256_add_epi32(acc[i][j], _mm256_set1_epi32(tile.row_bias[i]));
    });
  });
  Route::template multiply<kRows>(tile, acc);
  unroll<kRows>([&](auto i) __attribute__((always_inline)) { store(row + i, acc[i]); });
}

// A Route says how many rows a tile has, how many bytes a code of x and a weight take in its form, how rows and panels
// get there, and how a tile multiplies.
template <typename Route>
class Gemm {
 public:
  static size_t scratch_bytes(const PackedWeights& weights, size_t rows) {
    return rows_bytes(weights, rows) + panel_bytes(weights) + rows * sizeof(int32_t);
  }

  static void run(const GemmArguments& arguments, Range rows, Range panels, void* scratch) {
    const PackedWeights& weights = *arguments.weights;
    const size_t stride = Route::kCodeBytes * weights.padded_k;
    const size_t count = rows.end - rows.begin;
    uint8_t* x = static_cast<uint8_t*>(scratch);
    uint8_t* unpacked = x + rows_bytes(weights, count);
    int32_t* row_bias = reinterpret_cast<int32_t*>(unpacked + panel_bytes(weights));
    for (size_t i = 0; i < count; ++i) {
      const int8_t* row = arguments.x + (rows.begin + i) * weights.k;
      row_bias[i] = Route::prepare_row(row, weights.k, weights.padded_k, x + i * stride);
    }
    with_store(arguments, [&](auto type) {
      using Store = typename decltype(type)::type;
      for (size_t panel = panels.begin; panel < panels.end; ++panel) {
        const Store store(arguments, panel * kPanel);
        Tile tile{x,
                  stride,
                  weights.padded_k,
                  row_bias,
                  Route::unpack(weights, panel, unpacked),
                  arguments.bias + panel * kPanel};
        size_t row = rows.begin;
        for (; row + Route::kRows <= rows.end; row += Route::kRows) {
          run_tile<Route::kRows, Route>(tile, store, row);
          tile.x += Route::kRows * stride;
          tile.row_bias += Route::kRows;
        }
        for (; row < rows.end; ++row) {
          run_tile<1, Route>(tile, store, row);
          tile.x += stride;
          tile.row_bias += 1;
        }
      }
    });
  }

 private:
  static size_t rows_bytes(const PackedWeights& weights, size_t rows) {
    return round_up(rows * Route::kCodeBytes * weights.padded_k, kAlignment);
  }
  static size_t panel_bytes(const PackedWeights& weights) {
    return round_up(kPanel * Route::kCodeBytes * weights.padded_k, kAlignment);
  }
};

// Adds what makes the requantiser's shift round.
inline void fold_rounding(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer,
                          int32_t* bias) {
  if (epilogue == Epilogue::kAccumulate) return;
  for (size_t c = 0; c < weights.n; ++c) bias[c] += rounding_of(requantizer, c);
}

// Nibbles of 32 bytes as int8: the low and the high ones.
struct Nibbles {
  __m256i low;
  __m256i high;

  explicit Nibbles(const void* bytes) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i code = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1,  //
                                          0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    const __m256i v = load(bytes);
    low = _mm256_shuffle_epi8(code, _mm256_and_si256(v, mask));
    high = _mm256_shuffle_epi8(code, _mm256_and_si256(_mm256_srli_epi16(v, 4), mask));
  }
};

// A nibble panel with kr = 4 as int8 [k / 4][16][4]; `odd_offset` is added to every second group.
inline const uint8_t* unpack_bytes(const PackedWeights& weights, size_t panel, int8_t odd_offset, uint8_t* out) {
  const uint8_t* in = weights.panel(panel);
  if (weights.bits == 8) return in;
  for (size_t k = 0; k < weights.padded_k; k += 8, in += 64, out += 128) {
    for (size_t j = 0; j < 64; j += 32) {
      const Nibbles nibbles(in + j);
      store(out + j, nibbles.low);
      store(out + 64 + j, _mm256_add_epi8(nibbles.high, _mm256_set1_epi8(odd_offset)));
    }
  }
  return out - 16 * weights.padded_k;
}

}  // namespace packqvit::PACKQVIT_ISA
