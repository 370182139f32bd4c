// What the GEMM routes of this tier share: panels outside, tiles of rows inside; rows that a route cannot read as they
// are copied into scratch first.
#pragma once

#include <algorithm>

#include "kernels/avx512_vnni/epilogue.h"
#include "kernels/avx512_vnni/panel.h"
#include "kernels/avx512_vnni/products.h"

namespace packqvit::avx512_vnni {

// Brings the next panel from memory into L2, some lines with each part of a tile: many at once would keep what the tile
// itself loads from L1 waiting. Behind the last panel is what the next matrix begins with (kernels/weight_memory.h).
class NextPanel {
 public:
  // `parts` calls fetch the whole panel, or what they can where they are few.
  NextPanel(const PackedWeights& weights, size_t panel, size_t parts)
      : line_(weights.panel(panel + 1)),
        end_(line_ + weights.panel_bytes()),
        lines_(std::min(divide_up(weights.panel_bytes(), kAlignment * parts), kMostLines)) {}

  void fetch_part() {
    for (size_t i = 0; i < lines_ && line_ < end_; ++i, line_ += kAlignment) _mm_prefetch(line_, _MM_HINT_T1);
  }

 private:
  static constexpr size_t kMostLines = 8;

  const uint8_t* line_;
  const uint8_t* end_;
  size_t lines_;
};

// 5 x 4 accumulators, 4 or 8 registers of weights and 1 or 2 of x. A sixth row, where it fits, gains nothing.
inline constexpr size_t kTileRows = 5;
inline constexpr size_t kTilePart = 64;  // of k

struct Tile {
  const int8_t* x;          // rows with a distance of `stride`
  size_t stride;            // the padded k
  const int32_t* row_bias;  // one number a row, or nullptr
  const int8_t* panel;      // int8 [stride / 4][64][4]
  const int32_t* bias;      // of the panel's channels
  NextPanel* next;
};

// Calls step(k, ahead) for every kStep of k, where `ahead` is what the same step of the next part will read of the
// panel: L2 is too far away for the rate at which a tile reads it.
template <size_t kStep, typename Step>
__attribute__((always_inline)) inline void for_each_step(const Tile& tile, const Step& step) {
  for (size_t part = 0; part < tile.stride; part += kTilePart) {
    const size_t end = std::min(part + kTilePart, tile.stride);
    const int8_t* ahead = tile.panel + kPanel * (end < tile.stride ? end : 0);
    tile.next->fetch_part();
    for (size_t k = part; k < end; k += kStep, ahead += kStep * kPanel) step(k, ahead);
  }
}

// kUsed: registers of a panel that have channels; the last panel of a matrix may be half empty.
template <size_t kRows, size_t kUsed, typename Route, typename Store>
__attribute__((noinline)) void run_tile(const Tile& tile, const Store& store, size_t row) {
  __m512i acc[kRows][kUsed];
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    unroll<kUsed>([&](auto j) __attribute__((always_inline)) {
      acc[i][j] = _mm512_loadu_si512(tile.bias + 16 * j);
      if constexpr (Route::kRowBias) acc[i][j] = _mm512_add_epi32(acc[i][j], _mm512_set1_epi32(tile.row_bias[i]));
    });
  });
  Route::multiply(tile, acc);
  unroll<kRows>([&](auto i) __attribute__((always_inline)) {
    // Whatever the compiler does with this copy, the accumulators themselves stay in registers.
    __m512i sums[kVectors];
    unroll<kVectors>([&](auto j) __attribute__((always_inline)) {
      if constexpr (j < kUsed) {
        sums[j] = acc[i][j];
      } else {
        sums[j] = _mm512_setzero_si512();
      }
    });
    store.template store<kUsed>(row + i, sums);
  });
}

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
        Tile tile{x,
                  stride,
                  row_bias,
                  reinterpret_cast<const int8_t*>(weights.panel(panel)),
                  arguments.bias + panel * kPanel,
                  nullptr};
        if (weights.bits == 4) {
          unpack_nibbles(weights.panel(panel), stride, Route::kOddOffset, unpacked);
          tile.panel = unpacked;
        }
        NextPanel next(weights, panel, divide_up(count, kTileRows) * divide_up(stride, kTilePart));
        tile.next = &next;
        if (weights.n - panel * kPanel > kPanel / 2) {
          run_panel<kVectors>(tile, store, rows, stride);
        } else {
          run_panel<kVectors / 2>(tile, store, rows, stride);
        }
      }
    });
  }

 private:
  template <size_t kUsed, typename Store>
  static void run_panel(Tile& tile, const Store& store, Range rows, size_t stride) {
    size_t row = rows.begin;
    const auto run_rows = [&](auto height) __attribute__((always_inline)) {
      run_tile<height, kUsed, Route>(tile, store, row);
      tile.x += height * stride;
      tile.row_bias += height;
      row += height;
    };
    while (row + kTileRows <= rows.end) {
      run_rows(std::integral_constant<size_t, kTileRows>{});
    }
    unroll<kTileRows - 1>([&](auto missing) {
      constexpr size_t kRows = kTileRows - 1 - decltype(missing)::value;
      if (rows.end - row == kRows) run_rows(std::integral_constant<size_t, kRows>{});
    });
  }

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
