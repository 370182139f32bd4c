#include <immintrin.h>

#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx512_vnni/epilogue.h"
#include "kernels/pool_tokens.h"
#include "kernels/product_rows.h"
#include "kernels/requantize_rows.h"

namespace packqvit::avx512_vnni {
namespace {

template <typename Code>
void quantize_row(const QuantizeArguments& arguments, size_t row) {
  const size_t channel = row % arguments.channels;
  const __m512 inverse_scale = _mm512_set1_ps(arguments.inverse_scale[arguments.scale_per_channel ? channel : 0]);
  const __m512 offset = _mm512_set1_ps(arguments.offset[arguments.offset_per_channel ? channel : 0]);
  const __m512 low = _mm512_set1_ps(static_cast<float>(arguments.qmin));
  const __m512 high = _mm512_set1_ps(static_cast<float>(arguments.qmax));
  const float* x = arguments.x + row * arguments.inner;
  Code* output = static_cast<Code*>(arguments.output) + row * arguments.inner;
  for (size_t i = 0; i < arguments.inner; i += 16) {
    const __mmask16 mask = static_cast<__mmask16>(byte_mask(arguments.inner - i));
    const __m512 scaled = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), offset), inverse_scale);
    const __m512 number = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(scaled, scaled, _CMP_ORD_Q), scaled);
    // The limits are integers, so that clamping before rounding changes nothing but the range.
    const __m512i code = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(number, low), high));
    if constexpr (sizeof(Code) == 1) {
      _mm512_mask_cvtepi32_storeu_epi8(output + i, mask, code);
    } else {
      _mm512_mask_cvtepi32_storeu_epi16(output + i, mask, code);
    }
  }
}

}  // namespace

void lookup_table(const int8_t* x, const int8_t* table, int8_t* output, size_t size) {
  const CodeTable lookup(table);
  for (size_t i = 0; i < size; i += 64) {
    const __mmask64 mask = byte_mask(size - i);
    _mm512_mask_storeu_epi8(output + i, mask, lookup(_mm512_maskz_loadu_epi8(mask, x + i)));
  }
}

void quantize(const QuantizeArguments& arguments, Range rows) {
  for (size_t row = rows.begin; row < rows.end; ++row) {
    arguments.wide ? quantize_row<int16_t>(arguments, row) : quantize_row<int8_t>(arguments, row);
  }
}

void pool_tokens(const PoolTokensArguments& arguments, Range channels) { pool_channels(arguments, channels); }

void requantize(const RequantizeArguments& arguments, Range rows) { requantize_rows(arguments, rows); }

void multiply(const MultiplyArguments& arguments, Range rows) { multiply_rows(arguments, rows); }

void rotate(const RotateArguments& arguments, Range rows) { rotate_rows(arguments, rows); }

}  // namespace packqvit::avx512_vnni
