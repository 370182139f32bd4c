// What the GEMM routes of this tier share: rows copied into scratch once a call, panels outside, tiles of rows inside.
#pragma once

#include <algorithm>

#include "kernels/avx512_vnni/epilogue.h"
#include "kernels/avx512_vnni/panel.h"
#include "kernels/avx512_vnni/products.h"

namespace packqvit::avx512_vnni {

// 5 x 4 accumulators, 4 registers of weights and one of x: more rows spill, fewer wait for loads.
inline constexpr size_t kTileRows = 5;

struct Tile {
  const int8_t* x;          // kTileRows rows with a distance of `stride`
  size_t stride;            // the padded k
  const int32_t* row_bias;  // one number a row, or nullptr
  const int8_t* panel;      // int8 [stride / 4][64][4]
  const int32_t* bias;      // of the panel's channels
};

template <size_t kRows, typename Route, typename Store>
__attribute__((noinline)) void run_tile(const Tile& tile, const Store& store, size_t row) {
  __m512i acc[kRows][kVectors];
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    unroll<kVectors>([&](auto j) __attribute__((always_inline)) {
      acc[i][j] = _mm512_loadu_si512(tile.bias + 16 * j);
      if constexpr (Route::kRowBias) acc[i][j] = _mm512_add_epi32(acc[i][j], _mm512_set1_epi32(tile.row_bias[i]));
    });
  });
  Route::template multiply<kRows>(tile, acc);
  unroll<kRows>([&](auto i) __attribute__((always_inline)) { store(row + i, acc[i]); });
}

// Brings the next panel closer while this one is worked on, a slice with each tile. Behind the last panel is what the
// next matrix begins with (kernels/weight_memory.h).
class Prefetch {
 public:
  Prefetch(const PackedWeights& weights, size_t panel, size_t slices)
      : panel_(weights.panel(panel + 1)),
        bytes_(weights.panel_bytes()),
        slice_(round_up(divide_up(bytes_, slices), kAlignment)) {}

  void operator()(size_t slice) const {
    const size_t end = std::min(bytes_, (slice + 1) * slice_);
    for (size_t i = slice * slice_; i < end; i += kAlignment) _mm_prefetch(panel_ + i, _MM_HINT_T1);
  }

 private:
  const uint8_t* panel_;
  size_t bytes_;
  size_t slice_;
};

// Scratch: the rows where they have to be copied, an unpacked panel, a number for each row.
template <typename Route>
class Gemm {
 public:
  static size_t scratch_bytes(const PackedWeights& weights, size_t rows) {
    return copy_bytes(weights, rows) + panel_bytes(weights) + rows * sizeof(int32_t);
  }

  static void run(const GemmArguments& arguments, Range rows, Range panels, void* scratch) {
    const PackedWeights& weights = *arguments.weights;
    const size_t stride = weights.padded_k;
    const size_t count = rows.end - rows.begin;
    int8_t* copy = static_cast<int8_t*>(scratch);
    int8_t* unpacked = copy + copy_bytes(weights, count);
    int32_t* row_bias = reinterpret_cast<int32_t*>(unpacked + panel_bytes(weights));
    const int8_t* x = arguments.x + rows.begin * weights.k;
    if (copies(weights)) {
      for (size_t i = 0; i < count; ++i) Route::copy_row(x + i * weights.k, weights.k, stride, copy + i * stride);
      x = copy;
    }
    if constexpr (Route::kRowBias) Route::bias_rows(x, stride, count, row_bias);
    with_store(arguments, [&](auto type) {
      using Store = typename decltype(type)::type;
      for (size_t panel = panels.begin; panel < panels.end; ++panel) {
        const Store store(arguments, panel * kPanel);
        Tile tile{x, stride, row_bias, reinterpret_cast<const int8_t*>(weights.panel(panel)),
                  arguments.bias + panel * kPanel};
        if (weights.bits == 4) {
          unpack_nibbles(weights.panel(panel), stride, Route::kOddOffset, unpacked);
          tile.panel = unpacked;
        }
        const Prefetch prefetch(weights, panel, divide_up(count, kTileRows));
        size_t row = rows.begin;
        const auto run_rows = [&](auto height) __attribute__((always_inline)) {
          run_tile<height, Route>(tile, store, row);
          tile.x += height * stride;
          tile.row_bias += height;
          row += height;
        };
        while (row + kTileRows <= rows.end) {
          prefetch((row - rows.begin) / kTileRows);
          run_rows(std::integral_constant<size_t, kTileRows>{});
        }
        while (row + 2 <= rows.end) run_rows(std::integral_constant<size_t, 2>{});
        if (row < rows.end) run_rows(std::integral_constant<size_t, 1>{});
      }
    });
  }

 private:
  static bool copies(const PackedWeights& weights) { return Route::kCopies || weights.k != weights.padded_k; }
  static size_t copy_bytes(const PackedWeights& weights, size_t rows) {
    return copies(weights) ? round_up(rows * weights.padded_k, kAlignment) : 0;
  }
  static size_t panel_bytes(const PackedWeights& weights) { return weights.bits == 4 ? kPanel * weights.padded_k : 0; }
};

// Adds what makes the requantiser's shift round.
inline void fold_rounding(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer,
                          int32_t* bias) {
  if (epilogue == Epilogue::kAccumulate) return;
  for (size_t c = 0; c < weights.n; ++c) bias[c] += rounding_of(requantizer, c);
}

}  // namespace packqvit::avx512_vnni
