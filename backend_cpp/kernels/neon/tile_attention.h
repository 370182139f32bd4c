// The two products of fused attention (attention.h) with the microkernels of tile.h.
//
// Probabilities are bytes without a sign, and the microkernels multiply bytes with one:
//   log2     the weight 2^(14 - code) is minus a power of two in one of two planes: the upper one for codes 0 to 6,
//   times
//            2^8, the lower one for codes 7 to 14. Negative, because -2^7 is an int8 and 2^7 is not.
//   linear   p - 128; the sums begin with 128 times the sums of v.
#pragma once

#include "kernels/neon/tile.h"
#include "kernels/tier.h"

namespace packqvit::neon {
namespace {

// A packed right operand: panels of kTileColumns columns, and a last one of 4, 8 or 12, each
// [groups][columns][kGroup]; then what the sums of each column begin with.
struct Panels {
  size_t columns;  // a multiple of four
  size_t depth;    // codes of a column, a multiple of kGroup
  int8_t* codes;

  size_t width(size_t first) const { return std::min(kTileColumns, columns - first); }
  int8_t* panel(size_t first) const { return codes + first * depth; }
  int32_t* start() const { return reinterpret_cast<int32_t*>(codes + round_up(columns * depth, kAlignment)); }
  size_t bytes() const { return round_up(columns * depth, kAlignment) + columns * sizeof(int32_t); }
};

template <typename Instruction>
struct TileProducts {
  static constexpr size_t kGroup = Instruction::kGroup;
  static constexpr size_t kQueries = 2 * kTileRows;
  static constexpr size_t kKeys = 4;
  static constexpr size_t kChannels = 4;

  static size_t keys_bytes(const AttentionShape& shape) { return key_panels(shape, nullptr).bytes(); }
  static size_t values_bytes(const AttentionShape& shape, Probabilities) {
    return value_panels(shape, nullptr).bytes();
  }
  static size_t rows_bytes(const AttentionShape& shape, Probabilities format) {
    const Panels values = value_panels(shape, nullptr);
    const size_t log2_bytes = kQueries * (2 * values.depth + values.columns * sizeof(int32_t));
    return std::max(kQueries * key_panels(shape, nullptr).depth,
                    format == Probabilities::kLog2 ? log2_bytes : kQueries * values.depth);
  }

  static void pack_keys(const int8_t* k, size_t stride, const AttentionShape& shape, void* packed) {
    const Panels panels = key_panels(shape, packed);
    for (size_t key = 0; key < shape.keys; key += kTileColumns) {
      pack_strip<Instruction>(k + key * stride, stride, std::min(kTileColumns, shape.keys - key), shape.head_size,
                              panels.depth, panels.width(key), panels.panel(key));
    }
    std::fill(panels.start(), panels.start() + panels.columns, 0);
  }

  static void pack_values(const int8_t* v, size_t stride, const AttentionShape& shape, Probabilities format,
                          void* packed) {
    const Panels panels = value_panels(shape, packed);
    for (size_t key = 0; key < shape.keys; key += kGroup) {
      for (size_t channel = 0; channel < panels.columns; channel += 16) {
        pack_block(v, stride, shape, key, channel, panels);
      }
    }
    int32_t* start = panels.start();
    std::fill(start, start + panels.columns, 0);
    if (format == Probabilities::kLog2) return;
    for (size_t channel = 0; channel < shape.head_size; channel += 16) {
      for (size_t key = 0; key < shape.keys; key += kMostKeys) {
        add_sums(v + key * stride, stride, std::min(kMostKeys, shape.keys - key), channel, shape.head_size, start);
      }
    }
  }

  static void scores(const int8_t* q, size_t stride, size_t count, const AttentionShape& shape, void* packed_keys,
                     void* rows, int32_t* output, size_t output_stride) {
    const Panels panels = key_panels(shape, packed_keys);
    int8_t* packed = static_cast<int8_t*>(rows);
    pack_tiles(q, stride, count, shape.head_size, panels.depth, packed, [](int8x16_t codes) { return codes; });
    multiply(packed, count, panels, output, output_stride);
  }

  static void values(const uint8_t* codes, size_t stride, size_t count, const AttentionShape& shape,
                     Probabilities format, void* packed_values, void* rows, int32_t* output, size_t output_stride) {
    const Panels panels = value_panels(shape, packed_values);
    const int8_t* x = reinterpret_cast<const int8_t*>(codes);
    int8_t* packed = static_cast<int8_t*>(rows);
    if (format == Probabilities::kLinear) {
      pack_tiles(x, stride, count, stride, panels.depth, packed,
                 [](int8x16_t row) { return veorq_s8(row, vdupq_n_s8(INT8_MIN)); });
      multiply(packed, count, panels, output, output_stride);
      return;
    }
    static constexpr int8_t kUpper[16] = {-64, -32, -16, -8, -4, -2, -1};
    static constexpr int8_t kLower[16] = {0, 0, 0, 0, 0, 0, 0, -128, -64, -32, -16, -8, -4, -2, -1, 0};
    int32_t* upper = reinterpret_cast<int32_t*>(packed + 2 * kQueries * panels.depth);
    pack_powers(x, stride, count, panels.depth, kUpper, packed);
    multiply(packed, count, panels, upper, panels.columns);
    packed += kQueries * panels.depth;
    pack_powers(x, stride, count, panels.depth, kLower, packed);
    multiply(packed, count, panels, output, output_stride);
    for (size_t i = 0; i < count; ++i) {
      for (size_t j = 0; j < panels.columns; j += 4) {
        int32_t* sums = output + i * output_stride + j;
        vst1q_s32(sums, vmlaq_n_s32(vnegq_s32(vld1q_s32(sums)), vld1q_s32(upper + i * panels.columns + j), -256));
      }
    }
  }

 private:
  static Panels key_panels(const AttentionShape& shape, void* packed) {
    return {round_up(shape.keys, kKeys), round_up(shape.head_size, kGroup), static_cast<int8_t*>(packed)};
  }
  static Panels value_panels(const AttentionShape& shape, void* packed) {
    return {round_up(shape.head_size, kChannels), round_up(shape.keys, kGroup), static_cast<int8_t*>(packed)};
  }

  // start += 128 times the sums of at most kMostKeys values of sixteen channels: |sum| <= 2^7 * 255 is an int16.
  static constexpr size_t kMostKeys = 255;
  static void add_sums(const int8_t* v, size_t stride, size_t keys, size_t channel, size_t head_size, int32_t* start) {
    int16x8_t low = vdupq_n_s16(0);
    int16x8_t high = vdupq_n_s16(0);
    for (size_t key = 0; key < keys; ++key) {
      const int8x16_t codes = load_codes(v + key * stride, channel, head_size);
      low = vaddw_s8(low, vget_low_s8(codes));
      high = vaddw_high_s8(high, codes);
    }
    int16_t sums[16];
    vst1q_s16(sums, low);
    vst1q_s16(sums + 8, high);
    const size_t count = std::min<size_t>(16, head_size - channel);
    for (size_t i = 0; i < count; ++i) start[channel + i] += 128 * sums[i];
  }

  // kGroup keys by sixteen channels of v.
  static void pack_block(const int8_t* v, size_t stride, const AttentionShape& shape, size_t key, size_t channel,
                         const Panels& panels) {
    int8x16_t rows[kGroup];
    int8x16_t columns[kGroup];
    for (size_t i = 0; i < kGroup; ++i) {
      rows[i] = key + i < shape.keys ? load_codes(v + (key + i) * stride, channel, shape.head_size) : vdupq_n_s8(0);
    }
    Instruction::pack_columns(rows, columns);
    constexpr size_t kParts = kGroup / 4;  // vectors of four columns
    for (size_t i = 0; i < 4 && channel + 4 * i < panels.columns; ++i) {
      const size_t column = channel + 4 * i;
      const size_t first = column / kTileColumns * kTileColumns;
      int8_t* out = panels.panel(first) + key * panels.width(first) + (column - first) * kGroup;
      for (size_t part = 0; part < kParts; ++part) vst1q_s8(out + 16 * part, columns[i * kParts + part]);
    }
  }

  template <typename Map>
  static void pack_tiles(const int8_t* x, size_t stride, size_t count, size_t size, size_t depth, int8_t* packed,
                         const Map& map) {
    for (size_t row = 0; row < count; row += kTileRows) {
      pack_strip<Instruction>(x + row * stride, stride, std::min(kTileRows, count - row), size, depth, kTileRows,
                              packed + row * depth, map);
    }
  }

  // One plane of the weights of log2 codes. TBL gives zero for codes beyond its table.
  static void pack_powers(const int8_t* codes, size_t stride, size_t count, size_t depth, const int8_t (&powers)[16],
                          int8_t* packed) {
    const int8x16_t table = vld1q_s8(powers);
    pack_tiles(codes, stride, count, stride, depth, packed,
               [&](int8x16_t row) { return vqtbl1q_s8(table, vreinterpretq_u8_s8(row)); });
  }

  static void multiply(const int8_t* packed, size_t count, const Panels& panels, int32_t* output, size_t stride) {
    for (size_t column = 0; column < panels.columns; column += kTileColumns) {
      const TileKernel* kernels = Instruction::kernels[panels.width(column) / 4 - 1];
      for (size_t row = 0; row < count; row += kTileRows) {
        kernels[std::min(kTileRows, count - row) - 1](packed + row * panels.depth, panels.panel(column),
                                                      panels.depth / kGroup, panels.start() + column,
                                                      output + row * stride + column, stride);
      }
    }
  }
};

}  // namespace
}  // namespace packqvit::neon
