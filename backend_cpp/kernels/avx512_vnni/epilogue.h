// What becomes of a row of 64 accumulators. docs/numerics.md, "Requantise".
//
// Two registers of 16 int32 are packed into one of 32 int16, whose 64-bit quarters alternate between the two; channel
// vectors are brought into the same order once per panel.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "kernels/tier.h"

namespace packqvit::avx512_vnni {

inline constexpr size_t kPanel = 64;
inline constexpr size_t kVectors = 4;  // registers of int32 across a panel

// The order of a vpackssdw result, and back. Quarters of 64 bits are 4 channels.
inline __m512i to_packed_order(__m512i x) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), x);
}
inline __m512i from_packed_order(__m512i x) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), x);
}

// The int32 of both registers that a vpackssdw result was packed from, where they fit.
inline __m512i widen_first(__m512i x) { return _mm512_unpacklo_epi16(x, _mm512_srai_epi16(x, 15)); }
inline __m512i widen_second(__m512i x) { return _mm512_unpackhi_epi16(x, _mm512_srai_epi16(x, 15)); }

inline __mmask64 byte_mask(size_t count) { return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1; }
inline __mmask32 word_mask(size_t count) {
  return count >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << count) - 1);
}

// int32 channels of a panel requantise to t * multiplier with t = acc << left >> right. The rounding constant is in the
// bias already: rounding_of(). words() saturates t to 16 bits, which codes on an affine grid do not show; sums look
// whether it did: docs/numerics.md, "In 16 bits".
struct PanelScale {
  __m512i right[kVectors];
  __m512i left[kVectors];
  __m512i multiplier[kVectors / 2];  // in packed order
  bool shifts_left;

  // Of `columns` channels from `column` on; the vectors need not be padded.
  PanelScale(const Requantizer& requantizer, size_t column, size_t columns) {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i common = _mm512_set1_epi32(static_cast<int>(requantizer.left_shift));
    const __mmask64 mask = byte_mask(columns);
    __mmask16 any_left = 0;
    for (size_t j = 0; j < kVectors; ++j) {
      const __m128i bytes =
          _mm_maskz_loadu_epi8(static_cast<__mmask16>(mask >> 16 * j), requantizer.shift + column + 16 * j);
      const __m512i net = _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), common);
      right[j] = _mm512_max_epi32(net, zero);
      left[j] = _mm512_max_epi32(_mm512_sub_epi32(zero, net), zero);
      any_left |= _mm512_test_epi32_mask(left[j], left[j]);
    }
    for (size_t j = 0; j < kVectors / 2; ++j) {
      const __mmask32 half = static_cast<__mmask32>(mask >> 32 * j);
      multiplier[j] = to_packed_order(_mm512_maskz_loadu_epi16(half, requantizer.multiplier + column + 32 * j));
    }
    shifts_left = any_left != 0;
  }

  // rounding_of() of channels 16 * j and up.
  __m512i rounding(size_t j) const { return _mm512_srli_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(1), right[j]), 1); }

  // Output steps with the requantiser's fraction bits: channels 32 * half and up, in packed order.
  __attribute__((always_inline)) __m512i scale(const __m512i* acc, size_t half) const {
    return _mm512_mulhrs_epi16(words(acc, half), multiplier[half]);
  }

  // t of 32 channels, in packed order, and of 16.
  __attribute__((always_inline)) __m512i words(const __m512i* acc, size_t half) const {
    return _mm512_packs_epi32(shifted(acc[2 * half], 2 * half), shifted(acc[2 * half + 1], 2 * half + 1));
  }
  __attribute__((always_inline)) __m512i shifted(__m512i acc, size_t j) const {
    if (__builtin_expect(shifts_left, false)) acc = _mm512_sllv_epi32(acc, left[j]);
    return _mm512_srav_epi32(acc, right[j]);
  }
};

// Whether a number is an end of int16, beyond which it may have been.
inline bool may_be_saturated(__m512i a, __m512i b) {
  const __m512i largest = _mm512_max_epu16(_mm512_abs_epi16(a), _mm512_abs_epi16(b));
  return _mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(INT16_MAX)) != 0;
}

// rshr(t * multiplier, 15) of 16 int32, by the upper and the lower part of t.
inline __m512i scale_wide(__m512i t, __m512i multiplier) {
  const __m512i lower = _mm512_mullo_epi32(_mm512_and_si512(t, _mm512_set1_epi32((1 << 15) - 1)), multiplier);
  const __m512i rounded = _mm512_srai_epi32(_mm512_add_epi32(lower, _mm512_set1_epi32(1 << 14)), 15);
  return _mm512_add_epi32(_mm512_mullo_epi32(_mm512_srai_epi32(t, 15), multiplier), rounded);
}

// What makes `acc >> (shift - left_shift)` round: added to the accumulators' start.
inline int32_t rounding_of(const Requantizer& requantizer, size_t channel) {
  const unsigned shift = requantizer.shift[channel];
  return shift > requantizer.left_shift ? 1 << (shift - requantizer.left_shift - 1) : 0;
}

// table[x + 128] for 64 codes. Two lookups of 128 entries; the sign bit chooses.
class CodeTable {
 public:
  CodeTable() = default;
  explicit CodeTable(const int8_t* table) {
    for (size_t i = 0; i < 4; ++i) part_[i] = _mm512_loadu_si512(table + 64 * i);
  }
  __m512i operator()(__m512i x) const {
    const __m512i negative = _mm512_permutex2var_epi8(part_[0], x, part_[1]);
    const __m512i positive = _mm512_permutex2var_epi8(part_[2], x, part_[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), positive, negative);
  }

 private:
  __m512i part_[4];
};

// int32 of 64 channels, as 4 registers of int16 packed in pairs, to 64 bytes in the channels' order.
inline __m512i to_bytes(__m512i low, __m512i high) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
}

// 64 accumulators, rounding included, to int8 codes.
class Requantize {
 public:
  Requantize(const Requantizer& requantizer, size_t column, size_t columns)
      : scale_(requantizer, column, columns),
        offset_(_mm512_set1_epi16(
            static_cast<int16_t>(requantizer.zero_point * (1 << requantizer.fraction_bits) + requantizer.half()))),
        fraction_bits_(_mm_cvtsi32_si128(static_cast<int>(requantizer.fraction_bits))),
        low_(_mm512_set1_epi8(static_cast<int8_t>(requantizer.qmin))),
        high_(_mm512_set1_epi8(static_cast<int8_t>(requantizer.qmax))) {}

  // What makes the accumulators of channels 16 * j and up round.
  __m512i rounding(size_t j) const { return scale_.rounding(j); }

  // kUsed: registers that have channels; the others are not read.
  template <size_t kUsed>
  __attribute__((always_inline)) __m512i codes(const __m512i* acc) const {
    const __m512i low = finish(scale_.scale(acc, 0));
    const __m512i code = to_bytes(low, kUsed > kVectors / 2 ? finish(scale_.scale(acc, 1)) : low);
    return _mm512_min_epi8(_mm512_max_epi8(code, low_), high_);
  }

 private:
  __m512i finish(__m512i v) const { return _mm512_sra_epi16(_mm512_adds_epi16(v, offset_), fraction_bits_); }

  PanelScale scale_;
  __m512i offset_;
  __m128i fraction_bits_;
  __m512i low_;
  __m512i high_;
};

// Stores have store<kUsed>(row, accumulators): kUsed registers of the panel have channels, the others are zero.

// Writes rows of a panel: sums with the residual or the position, or with nothing where there is no position.
template <Epilogue kEpilogue, typename Code>
class PanelStore {
 public:
  PanelStore(const GemmArguments& arguments, size_t column)
      : arguments_(arguments),
        column_(column),
        columns_(std::min(kPanel, arguments.weights->n - column)),
        scale_(arguments.requantizer, column, columns_),
        half_(_mm512_set1_epi16(static_cast<int16_t>(arguments.requantizer.half()))),
        fraction_bits_(_mm_cvtsi32_si128(static_cast<int>(arguments.requantizer.fraction_bits))) {
    if constexpr (kEpilogue == Epilogue::kAddResidual) {
      for (size_t j = 0; j < 2; ++j) {
        residual_multiplier_[j] = _mm512_loadu_si512(arguments.residual_multiplier + column + 32 * j);
        is_scaled_[j] = _mm512_cmpneq_epi16_mask(residual_multiplier_[j], _mm512_set1_epi16(kUnitResidual));
      }
    }
  }

  template <size_t kUsed>
  __attribute__((always_inline)) void store(size_t row, const __m512i* acc) const {
    constexpr bool kWhole = kUsed > kVectors / 2;
    const size_t index = row * arguments_.weights->n + column_;
    const __m512i low = scale_.words(acc, 0);
    const __m512i high = kWhole ? scale_.words(acc, 1) : low;
    if (__builtin_expect(may_be_saturated(low, high), false)) return store_wide(index, acc);
    const __m512i sum = add(low, 0, index);
    write<kWhole>(index, sum, kWhole ? add(high, 1, index) : sum);
  }

 private:
  __mmask32 half_mask(size_t half) const { return word_mask(columns_ > 32 * half ? columns_ - 32 * half : 0); }

  // 32 channels of the residual or the position, in the requantiser's steps.
  __m512i load_addend(size_t half, size_t index) const {
    if (kEpilogue == Epilogue::kAddPosition && sizeof(Code) == 2 && arguments_.addend == nullptr) {
      return _mm512_setzero_si512();
    }
    const __mmask32 mask = half_mask(half);
    const size_t first = index + 32 * half;
    __m512i addend;
    if constexpr (kEpilogue == Epilogue::kAddResidual && sizeof(Code) == 1) {
      const __m256i codes = _mm256_maskz_loadu_epi8(mask, static_cast<const int8_t*>(arguments_.addend) + first);
      addend = _mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 8);
    } else {
      addend = _mm512_maskz_loadu_epi16(mask, static_cast<const int16_t*>(arguments_.addend) + first);
    }
    if constexpr (kEpilogue == Epilogue::kAddResidual) {
      addend = _mm512_mask_mulhrs_epi16(addend, is_scaled_[half], addend, residual_multiplier_[half]);
    }
    return addend;
  }

  // Sums of 32 channels, in their order.
  __m512i add(__m512i t, size_t half, size_t index) const {
    const __m512i scaled = from_packed_order(_mm512_mulhrs_epi16(t, scale_.multiplier[half]));
    const __m512i sum = _mm512_adds_epi16(load_addend(half, index), scaled);
    return _mm512_sra_epi16(_mm512_adds_epi16(sum, half_), fraction_bits_);
  }

  template <bool kWhole>
  void write(size_t index, __m512i low, __m512i high) const {
    if constexpr (sizeof(Code) == 1) {
      const __m512i code = to_bytes(to_packed_order(low), to_packed_order(high));
      _mm512_mask_storeu_epi8(static_cast<int8_t*>(arguments_.output) + index, byte_mask(columns_), code);
    } else {
      int16_t* output = static_cast<int16_t*>(arguments_.output) + index;
      _mm512_mask_storeu_epi16(output, half_mask(0), low);
      if constexpr (kWhole) _mm512_mask_storeu_epi16(output + 32, half_mask(1), high);
    }
  }

  // The whole row once more, in 32 bits.
  __attribute__((noinline, cold)) void store_wide(size_t index, const __m512i* acc) const {
    const auto finish = [&](size_t j, __m512i multiplier, __m512i addend, __m512i rounding) {
      const __m512i sum = _mm512_add_epi32(scale_wide(scale_.shifted(acc[j], j), multiplier), addend);
      return _mm512_sra_epi32(_mm512_add_epi32(sum, rounding), fraction_bits_);
    };
    __m512i codes[2];
    for (size_t half = 0; half < 2; ++half) {
      const __m512i multiplier = scale_.multiplier[half];
      const __m512i addend = to_packed_order(load_addend(half, index));
      codes[half] = from_packed_order(_mm512_packs_epi32(
          finish(2 * half, widen_first(multiplier), widen_first(addend), widen_first(half_)),
          finish(2 * half + 1, widen_second(multiplier), widen_second(addend), widen_second(half_))));
    }
    write<true>(index, codes[0], codes[1]);
  }

  const GemmArguments& arguments_;
  size_t column_;
  size_t columns_;
  PanelScale scale_;
  __m512i half_;
  __m128i fraction_bits_;
  __m512i residual_multiplier_[2];
  __mmask32 is_scaled_[2];
};

// Codes, through the table where there is one.
template <bool kTable>
class CodeStore {
 public:
  CodeStore(const GemmArguments& arguments, size_t column)
      : output_(static_cast<int8_t*>(arguments.output) + column),
        stride_(arguments.weights->n),
        mask_(byte_mask(std::min(kPanel, arguments.weights->n - column))),
        requantize_(arguments.requantizer, column, std::min(kPanel, arguments.weights->n - column)) {
    if constexpr (kTable) table_ = CodeTable(arguments.table);
  }

  template <size_t kUsed>
  __attribute__((always_inline)) void store(size_t row, const __m512i* acc) const {
    __m512i code = requantize_.codes<kUsed>(acc);
    if constexpr (kTable) code = table_(code);
    _mm512_mask_storeu_epi8(output_ + row * stride_, mask_, code);
  }

 private:
  int8_t* output_;
  size_t stride_;
  __mmask64 mask_;
  Requantize requantize_;
  CodeTable table_;
};

// The accumulators themselves.
class SumStore {
 public:
  SumStore(const GemmArguments& arguments, size_t column)
      : output_(static_cast<int32_t*>(arguments.output) + column),
        stride_(arguments.weights->n),
        mask_(byte_mask(std::min(kPanel, arguments.weights->n - column))) {}

  template <size_t kUsed>
  __attribute__((always_inline)) void store(size_t row, const __m512i* acc) const {
    for (size_t j = 0; j < kUsed; ++j) {
      _mm512_mask_storeu_epi32(output_ + row * stride_ + 16 * j, static_cast<__mmask16>(mask_ >> 16 * j), acc[j]);
    }
  }

 private:
  int32_t* output_;
  size_t stride_;
  __mmask64 mask_;
};

template <typename T>
struct Type {
  using type = T;
};

// Calls visit(Type<Store>) for the arguments' epilogue.
template <typename Visit>
void with_store(const GemmArguments& arguments, const Visit& visit) {
  switch (arguments.epilogue) {
    case Epilogue::kRequantize:  // as wide codes, the sum with no position
      if (arguments.wide) return visit(Type<PanelStore<Epilogue::kAddPosition, int16_t>>{});
      return arguments.table != nullptr ? visit(Type<CodeStore<true>>{}) : visit(Type<CodeStore<false>>{});
    case Epilogue::kAddResidual:
      return arguments.wide ? visit(Type<PanelStore<Epilogue::kAddResidual, int16_t>>{})
                            : visit(Type<PanelStore<Epilogue::kAddResidual, int8_t>>{});
    case Epilogue::kAddPosition:
      return arguments.wide ? visit(Type<PanelStore<Epilogue::kAddPosition, int16_t>>{})
                            : visit(Type<PanelStore<Epilogue::kAddPosition, int8_t>>{});
    case Epilogue::kAccumulate:
      return visit(Type<SumStore>{});
  }
}

}  // namespace packqvit::avx512_vnni
