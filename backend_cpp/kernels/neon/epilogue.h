// What happens to a tile of int32 accumulators, for every Epilogue, in ARMv8.0 instructions.
//
// Tiers include this from files that are compiled for different ISA levels: the anonymous namespace gives each file its
// own copy, so that the linker cannot pick one that a CPU does not have the instructions for.
//
// rshr(acc << left_shift, shift) is one SRSHL by left_shift - shift: it shifts to the left where that is positive, and
// rounds as if its sum had no end where it is negative. mulhrs is SQRDMULH. For codes of 8 bits, adding the half and
// shifting is SRSHL once more. What saturates at 16 bits on the way lies beyond int8: docs/numerics.md, "In 16 bits".
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "kernels/tier.h"

namespace packqvit::neon {
namespace {

// Clamped: to a range narrower than int8.
enum class Store {
  kCodes,
  kClampedCodes,
  kTable,
  kClampedTable,
  kCodes16,
  kResidual8,
  kResidual16,
  kPosition8,
  kPosition16
};

inline constexpr bool is_wide(Store store) {
  return store == Store::kCodes16 || store == Store::kResidual16 || store == Store::kPosition16;
}
inline constexpr bool is_clamped(Store store) { return store == Store::kClampedCodes || store == Store::kClampedTable; }
inline constexpr bool has_table(Store store) { return store == Store::kTable || store == Store::kClampedTable; }
inline constexpr bool has_addend(Store store) { return store >= Store::kResidual8; }
inline constexpr size_t code_bytes(Store store) { return is_wide(store) ? 2 : 1; }
inline constexpr size_t addend_bytes(Store store) { return store == Store::kResidual8 ? 1 : 2; }

// Where the codes of a tile lie; rows are `stride` elements apart.
struct CodeTile {
  const uint8_t* addend;
  uint8_t* output;
  size_t stride;
};

// Two runs of four elements at arbitrary addresses.
template <typename T>
inline T load_bytes(const void* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}
inline int8x8_t load_fours(const uint8_t* first, const uint8_t* second) {
  const uint32x2_t low = vdup_n_u32(load_bytes<uint32_t>(first));
  return vreinterpret_s8_u32(vset_lane_u32(load_bytes<uint32_t>(second), low, 1));
}
inline void store_fours(int8x8_t codes, uint8_t* first, uint8_t* second) {
  const uint32_t values[2] = {vget_lane_u32(vreinterpret_u32_s8(codes), 0),
                              vget_lane_u32(vreinterpret_u32_s8(codes), 1)};
  std::memcpy(first, &values[0], 4);
  std::memcpy(second, &values[1], 4);
}
inline int16x8_t load_shorts(const uint8_t* address) { return vreinterpretq_s16_u8(vld1q_u8(address)); }
inline int16x4_t load_four_shorts(const uint8_t* address) { return vreinterpret_s16_u8(vld1_u8(address)); }

// The vectors of eight channels, or of four channels twice: a row's four beside the next row's.
struct Channels {
  int32x4_t bias[2];
  int32x4_t shift[2];
  int16x8_t multiplier;
  int32x4_t wide_multiplier[2];  // in the upper halves
  int16x8_t residual_multiplier;
  uint16x8_t residual_stays;  // where it is kUnitResidual

  template <bool kFour, bool kBias>
  void load(const GemmArguments& arguments, size_t channel) {
    const Requantizer& requantizer = arguments.requantizer;
    const uint8_t* shifts = requantizer.shift + channel;
    const int8x8_t right = kFour ? load_fours(shifts, shifts) : vreinterpret_s8_u8(vld1_u8(shifts));
    const int16x8_t left = vmovl_s8(vsub_s8(vdup_n_s8(static_cast<int8_t>(requantizer.left_shift)), right));
    shift[0] = vmovl_s16(vget_low_s16(left));
    shift[1] = vmovl_s16(vget_high_s16(left));
    multiplier = load_int16<kFour>(requantizer.multiplier + channel);
    wide_multiplier[0] = vreinterpretq_s32_s16(vzip1q_s16(vdupq_n_s16(0), multiplier));
    wide_multiplier[1] = vreinterpretq_s32_s16(vzip2q_s16(vdupq_n_s16(0), multiplier));
    if (arguments.residual_multiplier != nullptr) {
      residual_multiplier = load_int16<kFour>(arguments.residual_multiplier + channel);
    } else {
      residual_multiplier = vdupq_n_s16(0);
    }
    residual_stays = vceqq_s16(residual_multiplier, vdupq_n_s16(kUnitResidual));
    if constexpr (kBias) {
      bias[0] = vld1q_s32(arguments.bias + channel);
      bias[1] = kFour ? bias[0] : vld1q_s32(arguments.bias + channel + 4);
    }
  }

  // Output steps of eight sums, for codes on an affine grid.
  template <bool kBias>
  int16x8_t scale(int32x4_t low, int32x4_t high) const {
    const int32x4x2_t t = shifted<kBias>(low, high);
    return vqrdmulhq_s16(vqmovn_high_s32(vqmovn_s32(t.val[0]), t.val[1]), multiplier);
  }

  // sat16(addend + output steps of eight sums): nothing saturates before the sum, which 32 bits hold.
  template <bool kBias>
  int16x8_t scale_and_add(int32x4_t low, int32x4_t high, int16x8_t addend) const {
    const int32x4x2_t t = shifted<kBias>(low, high);
    low = vaddw_s16(vqrdmulhq_s32(t.val[0], wide_multiplier[0]), vget_low_s16(addend));
    high = vaddw_high_s16(vqrdmulhq_s32(t.val[1], wide_multiplier[1]), addend);
    return vqmovn_high_s32(vqmovn_s32(low), high);
  }

  int16x8_t scale_residual(int16x8_t lifted) const {
    return vbslq_s16(residual_stays, lifted, vqrdmulhq_s16(lifted, residual_multiplier));
  }

 private:
  // rshr(acc << left_shift, shift)
  template <bool kBias>
  int32x4x2_t shifted(int32x4_t low, int32x4_t high) const {
    if constexpr (kBias) {
      low = vaddq_s32(low, bias[0]);
      high = vaddq_s32(high, bias[1]);
    }
    return {{vrshlq_s32(low, shift[0]), vrshlq_s32(high, shift[1])}};
  }

  template <bool kFour>
  static int16x8_t load_int16(const int16_t* values) {
    if constexpr (kFour) {
      const int16x4_t four = vld1_s16(values);
      return vcombine_s16(four, four);
    } else {
      return vld1q_s16(values);
    }
  }
};

// A table of 256 codes in 16 registers, indexed by code + 128.
struct CodeTable {
  uint8x16x4_t quarters[4];

  void load(const int8_t* table) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(table);
    for (size_t i = 0; i < 4; ++i) {
      for (size_t j = 0; j < 4; ++j) quarters[i].val[j] = vld1q_u8(bytes + 64 * i + 16 * j);
    }
  }
  // TBL gives 0 and TBX keeps what it finds for an index beyond its 64 bytes: toggling the upper bits makes each
  // quarter's indices the only ones below 64.
  uint8x16_t operator()(uint8x16_t codes) const {
    uint8x16_t found = vqtbl4q_u8(quarters[0], veorq_u8(codes, vdupq_n_u8(0x80)));
    found = vqtbx4q_u8(found, quarters[1], veorq_u8(codes, vdupq_n_u8(0xC0)));
    found = vqtbx4q_u8(found, quarters[2], codes);
    return vqtbx4q_u8(found, quarters[3], veorq_u8(codes, vdupq_n_u8(0x40)));
  }
  uint8x8_t operator()(uint8x8_t codes) const {
    uint8x8_t found = vqtbl4_u8(quarters[0], veor_u8(codes, vdup_n_u8(0x80)));
    found = vqtbx4_u8(found, quarters[1], veor_u8(codes, vdup_n_u8(0xC0)));
    found = vqtbx4_u8(found, quarters[2], codes);
    return vqtbx4_u8(found, quarters[3], veor_u8(codes, vdup_n_u8(0x40)));
  }
};

// What is the same for all channels.
struct Output {
  int16x8_t zero_point;  // with the fraction bits
  int16x8_t fraction;    // SRSHL's shift
  int8x8_t qmin;
  int8x8_t qmax;

  explicit Output(const Requantizer& requantizer)
      : zero_point(vdupq_n_s16(static_cast<int16_t>(requantizer.zero_point * (1 << requantizer.fraction_bits)))),
        fraction(vdupq_n_s16(static_cast<int16_t>(-static_cast<int32_t>(requantizer.fraction_bits)))),
        qmin(vdup_n_s8(static_cast<int8_t>(requantizer.qmin))),
        qmax(vdup_n_s8(static_cast<int8_t>(requantizer.qmax))) {}

  int8x8_t round(int16x8_t value) const { return vqmovn_s16(vrshlq_s16(value, fraction)); }
  template <bool kClamp>
  int8x8_t requantize(int16x8_t value) const {
    const int8x8_t codes = round(vqaddq_s16(value, zero_point));
    return kClamp ? vmin_s8(vmax_s8(codes, qmin), qmax) : codes;
  }
};

// The addend of eight elements in fraction steps: lifted and scaled residual codes, or positions.
template <Store kStore, bool kFour>
inline int16x8_t load_addend(const Channels& channels, const uint8_t* first, const uint8_t* second) {
  if constexpr (kStore == Store::kResidual8) {
    const int8x8_t codes = kFour ? load_fours(first, second) : vreinterpret_s8_u8(vld1_u8(first));
    return channels.scale_residual(vshll_n_s8(codes, 8));
  } else {
    const int16x8_t values =
        kFour ? vcombine_s16(load_four_shorts(first), load_four_shorts(second)) : load_shorts(first);
    return kStore == Store::kResidual16 ? channels.scale_residual(values) : values;
  }
}

// Eight sums in output steps, with the addend where there is one.
template <Store kStore, bool kBias, bool kFour>
inline int16x8_t scale_sums(const Channels& channels, int32x4_t low, int32x4_t high, const uint8_t* first,
                            const uint8_t* second) {
  if constexpr (has_addend(kStore)) {
    return channels.scale_and_add<kBias>(low, high, load_addend<kStore, kFour>(channels, first, second));
  } else if constexpr (is_wide(kStore)) {
    return channels.scale_and_add<kBias>(low, high, vdupq_n_s16(0));
  } else {
    return channels.scale<kBias>(low, high);
  }
}

template <Store kStore, bool kFour>
inline void store_codes(const Output& output, int16x8_t value, uint8_t* first, uint8_t* second) {
  if constexpr (is_wide(kStore)) {
    if constexpr (kFour) {
      vst1_u8(first, vreinterpret_u8_s16(vget_low_s16(value)));
      vst1_u8(second, vreinterpret_u8_s16(vget_high_s16(value)));
    } else {
      vst1q_u8(first, vreinterpretq_u8_s16(value));  // int16 codes have no fraction bits
    }
  } else {
    const int8x8_t codes = has_addend(kStore) ? output.round(value) : output.requantize<is_clamped(kStore)>(value);
    if constexpr (kFour) {
      store_fours(codes, first, second);
    } else {
      vst1_u8(first, vreinterpret_u8_s8(codes));
    }
  }
}

// Four columns of two rows, which share a vector.
template <Store kStore, bool kBias>
__attribute__((always_inline)) inline void store_four(const Channels& channels, const Output& output,
                                                      const CodeTable& table, const int32_t* const (&acc)[2],
                                                      const uint8_t* const (&addend)[2], uint8_t* const (&out)[2]) {
  const int16x8_t value =
      scale_sums<kStore, kBias, true>(channels, vld1q_s32(acc[0]), vld1q_s32(acc[1]), addend[0], addend[1]);
  if constexpr (has_table(kStore)) {
    const uint8x8_t codes = table(vreinterpret_u8_s8(output.requantize<is_clamped(kStore)>(value)));
    store_fours(vreinterpret_s8_u8(codes), out[0], out[1]);
  } else {
    store_codes<kStore, true>(output, value, out[0], out[1]);
  }
}

// Eight columns of two rows.
template <Store kStore, bool kBias>
__attribute__((always_inline)) inline void store_eight(const Channels& channels, const Output& output,
                                                       const CodeTable& table, const int32_t* const (&acc)[2],
                                                       const uint8_t* const (&addend)[2], uint8_t* const (&out)[2]) {
  int16x8_t values[2];
  for (size_t i = 0; i < 2; ++i) {
    values[i] =
        scale_sums<kStore, kBias, false>(channels, vld1q_s32(acc[i]), vld1q_s32(acc[i] + 4), addend[i], nullptr);
  }
  if constexpr (has_table(kStore)) {
    const int8x16_t codes =
        vcombine_s8(output.requantize<is_clamped(kStore)>(values[0]), output.requantize<is_clamped(kStore)>(values[1]));
    const uint8x16_t found = table(vreinterpretq_u8_s8(codes));
    vst1_u8(out[0], vget_low_u8(found));
    vst1_u8(out[1], vget_high_u8(found));
  } else {
    for (size_t i = 0; i < 2; ++i) store_codes<kStore, false>(output, values[i], out[i], nullptr);
  }
}

// All columns of some rows.
template <Store kStore, bool kBias, size_t kColumns>
inline void store_full_tile(const GemmArguments& arguments, const CodeTile& tile, size_t rows, size_t channel,
                            const int32_t* acc) {
  static_assert(kColumns % 4 == 0, "columns come in vectors of four accumulators");
  constexpr size_t kEights = kColumns / 8;
  Channels channels[kEights + 1];
  for (size_t i = 0; i < kEights; ++i) channels[i].template load<false, kBias>(arguments, channel + 8 * i);
  if constexpr (kColumns % 8 != 0) channels[kEights].template load<true, kBias>(arguments, channel + 8 * kEights);
  const Output output(arguments.requantizer);
  CodeTable table;
  if constexpr (has_table(kStore)) table.load(arguments.table);

  const auto store_rows = [&](size_t first, size_t second) __attribute__((always_inline)) {
    const size_t rows_of_pair[2] = {first, second};
    for (size_t block = 0; block < divide_up(kColumns, size_t{8}); ++block) {
      const int32_t* sums[2];
      const uint8_t* addend[2] = {nullptr, nullptr};
      uint8_t* out[2];
      for (size_t i = 0; i < 2; ++i) {
        const size_t element = rows_of_pair[i] * tile.stride + 8 * block;
        sums[i] = acc + rows_of_pair[i] * kColumns + 8 * block;
        out[i] = tile.output + element * code_bytes(kStore);
        if constexpr (has_addend(kStore)) addend[i] = tile.addend + element * addend_bytes(kStore);
      }
      if (block < kEights) {
        store_eight<kStore, kBias>(channels[block], output, table, sums, addend, out);
      } else {
        store_four<kStore, kBias>(channels[block], output, table, sums, addend, out);
      }
    }
  };
  size_t row = 0;
  for (; row + 2 <= rows; row += 2) store_rows(row, row + 1);
  if (row < rows) store_rows(row, row);
}

// A tile at the matrix's right edge passes through a full one, two rows at a time.
template <Store kStore, bool kBias, size_t kColumns>
void store_edge_tile(const GemmArguments& arguments, const CodeTile& tile, size_t rows, size_t columns, size_t channel,
                     const int32_t* acc) {
  uint8_t addend[2 * kColumns * addend_bytes(kStore)] = {};
  uint8_t codes[2 * kColumns * code_bytes(kStore)];
  for (size_t row = 0; row < rows; row += 2) {
    const size_t count = rows - row < 2 ? 1 : 2;
    if constexpr (has_addend(kStore)) {
      for (size_t i = 0; i < count; ++i) {
        std::memcpy(addend + i * kColumns * addend_bytes(kStore),
                    tile.addend + (row + i) * tile.stride * addend_bytes(kStore), columns * addend_bytes(kStore));
      }
    }
    store_full_tile<kStore, kBias, kColumns>(arguments, {addend, codes, kColumns}, count, channel,
                                             acc + row * kColumns);
    for (size_t i = 0; i < count; ++i) {
      std::memcpy(tile.output + (row + i) * tile.stride * code_bytes(kStore), codes + i * kColumns * code_bytes(kStore),
                  columns * code_bytes(kStore));
    }
  }
}

template <Store kStore, bool kBias, size_t kColumns>
void store_codes_tile(const GemmArguments& arguments, size_t row, size_t rows, size_t column, const int32_t* acc) {
  const size_t n = arguments.weights->n;
  const size_t first = row * n + column;
  CodeTile tile = {nullptr, static_cast<uint8_t*>(arguments.output) + first * code_bytes(kStore), n};
  if constexpr (has_addend(kStore)) {
    tile.addend = static_cast<const uint8_t*>(arguments.addend) + first * addend_bytes(kStore);
  }
  if (n - column >= kColumns) {
    store_full_tile<kStore, kBias, kColumns>(arguments, tile, rows, column, acc);
  } else {
    store_edge_tile<kStore, kBias, kColumns>(arguments, tile, rows, n - column, column, acc);
  }
}

template <bool kBias, size_t kColumns>
void store_sums_tile(const GemmArguments& arguments, size_t row, size_t rows, size_t column, const int32_t* acc) {
  const size_t n = arguments.weights->n;
  const size_t columns = n - column < kColumns ? n - column : kColumns;
  for (size_t i = 0; i < rows; ++i) {
    int32_t* output = static_cast<int32_t*>(arguments.output) + (row + i) * n + column;
    for (size_t j = 0; j < columns; ++j) output[j] = acc[i * kColumns + j] + (kBias ? arguments.bias[column + j] : 0);
  }
}

// Stores a tile of `rows` by kColumns (a panel's nr) sums, acc[rows][kColumns], whose first element is (row, column) of
// the output. kBias: adds the bias first. Columns beyond the matrix are left out.
using StoreTile = void (*)(const GemmArguments& arguments, size_t row, size_t rows, size_t column, const int32_t* acc);

template <size_t kColumns, bool kBias>
StoreTile choose_store(const GemmArguments& arguments) {
  const bool wide = arguments.wide;
  switch (arguments.epilogue) {
    case Epilogue::kAccumulate:
      return store_sums_tile<kBias, kColumns>;
    case Epilogue::kAddResidual:
      return wide ? store_codes_tile<Store::kResidual16, kBias, kColumns>
                  : store_codes_tile<Store::kResidual8, kBias, kColumns>;
    case Epilogue::kAddPosition:
      return wide ? store_codes_tile<Store::kPosition16, kBias, kColumns>
                  : store_codes_tile<Store::kPosition8, kBias, kColumns>;
    case Epilogue::kRequantize:
      if (wide) return store_codes_tile<Store::kCodes16, kBias, kColumns>;
      break;
  }
  const bool clamped = arguments.requantizer.qmin > INT8_MIN || arguments.requantizer.qmax < INT8_MAX;
  if (arguments.table != nullptr) {
    return clamped ? store_codes_tile<Store::kClampedTable, kBias, kColumns>
                   : store_codes_tile<Store::kTable, kBias, kColumns>;
  }
  return clamped ? store_codes_tile<Store::kClampedCodes, kBias, kColumns>
                 : store_codes_tile<Store::kCodes, kBias, kColumns>;
}

}  // namespace
}  // namespace packqvit::neon
