// What becomes of a row of 16 accumulators. docs/numerics.md, "Requantise".
#pragma once

#include <algorithm>

#include "kernels/ymm/vector.h"

namespace packqvit::PACKQVIT_ISA {

inline constexpr size_t kPanel = 16;

// What makes `acc >> (shift - left_shift)` round: added to the accumulators' start.
inline int32_t rounding_of(const Requantizer& requantizer, size_t channel) {
  const unsigned shift = requantizer.shift[channel];
  return shift > requantizer.left_shift ? 1 << (shift - requantizer.left_shift - 1) : 0;
}

// Whether one of 16 numbers is an end of int16, beyond which it may have been.
inline bool may_be_saturated(__m256i words) {
  const __m256i beyond = _mm256_subs_epu16(_mm256_abs_epi16(words), _mm256_set1_epi16(INT16_MAX - 1));
  return _mm256_testz_si256(beyond, beyond) == 0;
}

// rshr(t * multiplier, 15) of 8 int32, by the upper and the lower part of t.
inline __m256i scale_wide(__m256i t, __m256i multiplier) {
  const __m256i lower = _mm256_mullo_epi32(_mm256_and_si256(t, _mm256_set1_epi32((1 << 15) - 1)), multiplier);
  const __m256i rounded = _mm256_srai_epi32(_mm256_add_epi32(lower, _mm256_set1_epi32(1 << 14)), 15);
  return _mm256_add_epi32(_mm256_mullo_epi32(_mm256_srai_epi32(t, 15), multiplier), rounded);
}

// Output steps with the requantiser's fraction bits of 16 channels, whose accumulators include the rounding constant.
class Scale {
 public:
  Scale(const Requantizer& requantizer, size_t column, size_t columns)
      : multiplier_(load_words(requantizer.multiplier + column, columns)) {
    const __m128i bytes = load_bytes(reinterpret_cast<const int8_t*>(requantizer.shift) + column, columns);
    const __m256i common = _mm256_set1_epi32(static_cast<int>(requantizer.left_shift));
    const __m256i net[2] = {_mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), common),
                            _mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), common)};
    for (size_t j = 0; j < 2; ++j) {
      right_[j] = _mm256_max_epi32(net[j], _mm256_setzero_si256());
      left_[j] = _mm256_max_epi32(_mm256_sub_epi32(_mm256_setzero_si256(), net[j]), _mm256_setzero_si256());
    }
  }

  __m256i operator()(const __m256i* acc) const { return _mm256_mulhrs_epi16(words(acc), multiplier_); }

  // acc << left >> right: saturated to 16 bits, which codes on an affine grid do not show (docs/numerics.md, "In 16
  // bits"), and as it is.
  __m256i words(const __m256i* acc) const { return to_words(shifted(acc, 0), shifted(acc, 1)); }
  __m256i shifted(const __m256i* acc, size_t j) const {
    return _mm256_srav_epi32(_mm256_sllv_epi32(acc[j], left_[j]), right_[j]);
  }
  __m256i multiplier() const { return multiplier_; }

 private:
  __m256i multiplier_;
  __m256i right_[2];
  __m256i left_[2];
};

// 16 accumulators, rounding included, to int8 codes.
class Requantize {
 public:
  Requantize(const Requantizer& requantizer, size_t column, size_t columns)
      : scale_(requantizer, column, columns),
        offset_(_mm256_set1_epi16(
            static_cast<int16_t>(requantizer.zero_point * (1 << requantizer.fraction_bits) + requantizer.half()))),
        fraction_bits_(_mm_cvtsi32_si128(static_cast<int>(requantizer.fraction_bits))),
        low_(_mm_set1_epi8(static_cast<int8_t>(requantizer.qmin))),
        high_(_mm_set1_epi8(static_cast<int8_t>(requantizer.qmax))) {}

  __m128i operator()(const __m256i* acc) const {
    const __m256i v = _mm256_sra_epi16(_mm256_adds_epi16(scale_(acc), offset_), fraction_bits_);
    return _mm_min_epi8(_mm_max_epi8(to_bytes(v), low_), high_);
  }

 private:
  Scale scale_;
  __m256i offset_;
  __m128i fraction_bits_;
  __m128i low_;
  __m128i high_;
};

// Writes rows of a panel: sums with the residual or the position, or with nothing where there is no position.
template <Epilogue kEpilogue, typename Code>
class PanelStore {
 public:
  PanelStore(const GemmArguments& arguments, size_t column)
      : arguments_(arguments),
        column_(column),
        columns_(std::min(kPanel, arguments.weights->n - column)),
        scale_(arguments.requantizer, column, columns_),
        half_(_mm256_set1_epi16(static_cast<int16_t>(arguments.requantizer.half()))),
        fraction_bits_(_mm_cvtsi32_si128(static_cast<int>(arguments.requantizer.fraction_bits))) {
    if (kEpilogue == Epilogue::kAddResidual) {
      const __m256i multiplier = load_words(arguments.residual_multiplier + column, columns_);
      const __m256i is_unit = _mm256_cmpeq_epi16(multiplier, _mm256_set1_epi16(kUnitResidual));
      residual_change_ = _mm256_andnot_si256(is_unit, _mm256_xor_si256(multiplier, _mm256_set1_epi16(INT16_MIN)));
    }
  }

  void operator()(size_t row, const __m256i* acc) const {
    const size_t index = row * arguments_.weights->n + column_;
    const __m256i t = scale_.words(acc);
    if (__builtin_expect(may_be_saturated(t), false)) return store_wide(index, acc);
    const __m256i sum = _mm256_adds_epi16(load_addend(index), _mm256_mulhrs_epi16(t, scale_.multiplier()));
    store(index, _mm256_sra_epi16(_mm256_adds_epi16(sum, half_), fraction_bits_));
  }

 private:
  // The residual or the position, in the requantiser's steps.
  __m256i load_addend(size_t index) const {
    if (kEpilogue == Epilogue::kAddPosition && sizeof(Code) == 2 && arguments_.addend == nullptr) {
      return _mm256_setzero_si256();
    }
    __m256i addend;
    if constexpr (kEpilogue == Epilogue::kAddResidual && sizeof(Code) == 1) {
      const __m128i codes = load_bytes(static_cast<const int8_t*>(arguments_.addend) + index, columns_);
      addend = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 8);
    } else {
      addend = load_words(static_cast<const int16_t*>(arguments_.addend) + index, columns_);
    }
    if constexpr (kEpilogue == Epilogue::kAddResidual) {
      addend = _mm256_add_epi16(addend, _mm256_mulhrs_epi16(addend, residual_change_));
    }
    return addend;
  }

  void store(size_t index, __m256i code) const {
    if constexpr (sizeof(Code) == 1) {
      store_bytes(static_cast<int8_t*>(arguments_.output) + index, columns_, to_bytes(code));
    } else {
      store_words(static_cast<int16_t*>(arguments_.output) + index, columns_, code);
    }
  }

  // The whole row once more, in 32 bits.
  __attribute__((noinline, cold)) void store_wide(size_t index, const __m256i* acc) const {
    const __m256i addend = load_addend(index);
    const auto finish = [&](auto part) {
      constexpr int j = decltype(part)::value;
      const auto widen = [](__m256i words) { return _mm256_cvtepi16_epi32(_mm256_extracti128_si256(words, j)); };
      const __m256i scaled = scale_wide(scale_.shifted(acc, j), widen(scale_.multiplier()));
      const __m256i sum = _mm256_add_epi32(scaled, widen(addend));
      return _mm256_sra_epi32(_mm256_add_epi32(sum, widen(half_)), fraction_bits_);
    };
    store(index, to_words(finish(std::integral_constant<int, 0>{}), finish(std::integral_constant<int, 1>{})));
  }

  const GemmArguments& arguments_;
  size_t column_;
  size_t columns_;
  Scale scale_;
  __m256i half_;
  __m128i fraction_bits_;
  __m256i residual_change_;  // the multiplier less 1: x * m is x + x * (m - 1) to the bit, and m = 1 is exact
};

// Codes, through the table where there is one.
template <>
class PanelStore<Epilogue::kRequantize, int8_t> {
 public:
  PanelStore(const GemmArguments& arguments, size_t column)
      : arguments_(arguments),
        column_(column),
        columns_(std::min(kPanel, arguments.weights->n - column)),
        requantize_(arguments.requantizer, column, columns_) {}

  void operator()(size_t row, const __m256i* acc) const {
    int8_t* output = static_cast<int8_t*>(arguments_.output) + row * arguments_.weights->n + column_;
    const __m128i code = requantize_(acc);
    if (arguments_.table == nullptr) return store_bytes(output, columns_, code);
    int8_t codes[kPanel];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), code);
    for (size_t i = 0; i < columns_; ++i) output[i] = arguments_.table[codes[i] + 128];
  }

 private:
  const GemmArguments& arguments_;
  size_t column_;
  size_t columns_;
  Requantize requantize_;
};

// The accumulators themselves.
template <>
class PanelStore<Epilogue::kAccumulate, int32_t> {
 public:
  PanelStore(const GemmArguments& arguments, size_t column)
      : output_(static_cast<int32_t*>(arguments.output) + column),
        stride_(arguments.weights->n),
        columns_(std::min(kPanel, arguments.weights->n - column)) {}

  void operator()(size_t row, const __m256i* acc) const {
    int32_t all[kPanel];
    store(all, acc[0]);
    store(all + 8, acc[1]);
    std::memcpy(output_ + row * stride_, all, columns_ * sizeof(int32_t));
  }

 private:
  int32_t* output_;
  size_t stride_;
  size_t columns_;
};

template <typename T>
struct Type {
  using type = T;
};

// Calls visit(Type<PanelStore>) for the arguments' epilogue.
template <typename Visit>
void with_store(const GemmArguments& arguments, const Visit& visit) {
  switch (arguments.epilogue) {
    case Epilogue::kRequantize:  // as wide codes, the sum with no position
      return arguments.wide ? visit(Type<PanelStore<Epilogue::kAddPosition, int16_t>>{})
                            : visit(Type<PanelStore<Epilogue::kRequantize, int8_t>>{});
    case Epilogue::kAddResidual:
      return arguments.wide ? visit(Type<PanelStore<Epilogue::kAddResidual, int16_t>>{})
                            : visit(Type<PanelStore<Epilogue::kAddResidual, int8_t>>{});
    case Epilogue::kAddPosition:
      return arguments.wide ? visit(Type<PanelStore<Epilogue::kAddPosition, int16_t>>{})
                            : visit(Type<PanelStore<Epilogue::kAddPosition, int8_t>>{});
    case Epilogue::kAccumulate:
      return visit(Type<PanelStore<Epilogue::kAccumulate, int32_t>>{});
  }
}

}  // namespace packqvit::PACKQVIT_ISA
