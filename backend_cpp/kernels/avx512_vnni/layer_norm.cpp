#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx512_vnni/epilogue.h"

namespace packqvit::avx512_vnni {
namespace {

// 32 channels as int16: X of docs/numerics.md; zero beyond the row.
template <typename Code>
__m512i load(const LayerNormArguments& arguments, const Code* x, size_t c) {
  const __mmask32 mask = word_mask(arguments.channels - c);
  if constexpr (sizeof(Code) == 2) {
    return _mm512_maskz_loadu_epi16(mask, x + c);
  } else {
    const __m512i codes = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, x + c));
    if (arguments.channel_shift == nullptr) return codes;
    const __m256i shift = _mm256_maskz_loadu_epi8(mask, arguments.channel_shift + c);
    return _mm512_sllv_epi16(codes, _mm512_cvtepu8_epi16(shift));
  }
}

struct Moments {
  int64_t sum;
  int64_t squares;
};

template <typename Code>
Moments moments_of(const LayerNormArguments& arguments, const Code* x) {
  __m512i sum = _mm512_setzero_si512();
  __m512i squares = _mm512_setzero_si512();
  for (size_t c = 0; c < arguments.channels; c += 32) {
    const __m512i codes = load(arguments, x, c);
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(codes, _mm512_set1_epi16(1)));
    // A pair of squares reaches 2^31: unsigned from here on.
    const __m512i pairs = _mm512_madd_epi16(codes, codes);
    squares = _mm512_add_epi64(squares, _mm512_and_si512(pairs, _mm512_set1_epi64(0xFFFFFFFF)));
    squares = _mm512_add_epi64(squares, _mm512_srli_epi64(pairs, 32));
  }
  return {_mm512_reduce_add_epi32(sum), _mm512_reduce_add_epi64(squares)};
}

// (x - mean) / sigma of 16 channels, times weight, plus bias, as codes.
class Normalise {
 public:
  Normalise(const LayerNormArguments& arguments, int32_t mean, const InverseDeviation& inverse)
      : arguments_(arguments),
        // rshr(X 2^12 - M, s) = (X 2^12 - M + 2^(s-1)) >> s: within int32, because |X 2^12 - M| < 2^29 and s <= 30.
        start_(_mm512_set1_epi32((inverse.shift > 0 ? 1 << (inverse.shift - 1) : 0) - mean)),
        shift_(_mm_cvtsi32_si128(static_cast<int>(inverse.shift))),
        reciprocal_(_mm256_set1_epi16(static_cast<int16_t>(inverse.reciprocal))),
        output_shift_(_mm_cvtsi32_si128(static_cast<int>(arguments.output_shift))),
        low_(_mm512_set1_epi32(arguments.qmin)),
        high_(_mm512_set1_epi32(arguments.qmax)) {}

  void operator()(__m256i x, size_t c, int8_t* output) const {
    const __mmask16 mask = static_cast<__mmask16>(byte_mask(arguments_.channels - c));
    const __m512i deviation = _mm512_add_epi32(_mm512_slli_epi32(_mm512_cvtepi16_epi32(x), 12), start_);
    const __m256i t = _mm512_cvtsepi32_epi16(_mm512_sra_epi32(deviation, shift_));
    const __m512i normalised = _mm512_cvtepi16_epi32(_mm256_mulhrs_epi16(t, reciprocal_));
    const __m512i weight = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, arguments_.weight + c));
    const __m512i bias = _mm512_maskz_loadu_epi32(mask, arguments_.bias + c);
    const __m512i y = _mm512_sra_epi32(_mm512_add_epi32(_mm512_mullo_epi32(normalised, weight), bias), output_shift_);
    const __m512i code = _mm512_min_epi32(_mm512_max_epi32(y, low_), high_);
    _mm512_mask_cvtepi32_storeu_epi8(output + c, mask, code);
  }

 private:
  const LayerNormArguments& arguments_;
  __m512i start_;
  __m128i shift_;
  __m256i reciprocal_;
  __m128i output_shift_;
  __m512i low_;
  __m512i high_;
};

// The mean of X with 12 fraction bits and 1 / sigma.
struct Statistics {
  int32_t mean;
  InverseDeviation inverse;

  Statistics() = default;
  Statistics(const Moments& moments, const LayerNormArguments& arguments) {
    const int64_t count = static_cast<int64_t>(arguments.channels);
    mean = static_cast<int32_t>(floor_divide(moments.sum * 8192 + count, 2 * count));
    const int64_t variance = count * moments.squares - moments.sum * moments.sum + arguments.epsilon;
    inverse = inverse_deviation(static_cast<uint64_t>(std::max<int64_t>(variance, 1)), arguments.channels);
  }
};

template <typename Code>
void normalise_row(const LayerNormArguments& arguments, const Statistics& statistics, const Code* x, int8_t* output) {
  const Normalise normalise(arguments, statistics.mean, statistics.inverse);
  for (size_t c = 0; c < arguments.channels; c += 32) {
    const __m512i codes = load(arguments, x, c);
    normalise(_mm512_castsi512_si256(codes), c, output);
    if (c + 16 < arguments.channels) normalise(_mm512_extracti64x4_epi64(codes, 1), c + 16, output);
  }
}

// Some rows at a time: the divisions and the square root of one row wait for each other, those of several do not.
template <typename Code>
void normalise_rows(const LayerNormArguments& arguments, Range rows) {
  constexpr size_t kRows = 8;
  const size_t channels = arguments.channels;
  const Code* x = static_cast<const Code*>(arguments.x);
  for (size_t first = rows.begin; first < rows.end; first += kRows) {
    const size_t count = std::min(kRows, rows.end - first);
    Moments moments[kRows];
    Statistics statistics[kRows];
    for (size_t i = 0; i < count; ++i) moments[i] = moments_of(arguments, x + (first + i) * channels);
    for (size_t i = 0; i < count; ++i) statistics[i] = Statistics(moments[i], arguments);
    for (size_t i = 0; i < count; ++i) {
      const size_t offset = (first + i) * channels;
      normalise_row(arguments, statistics[i], x + offset, arguments.output + offset);
    }
  }
}

}  // namespace

void layer_norm(const LayerNormArguments& arguments, Range rows) {
  arguments.wide ? normalise_rows<int16_t>(arguments, rows) : normalise_rows<int8_t>(arguments, rows);
}

}  // namespace packqvit::avx512_vnni
