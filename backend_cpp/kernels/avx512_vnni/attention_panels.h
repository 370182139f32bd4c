// Keys and values of one head as vpdpbusd reads them: registers of 16 outputs by groups of 4 inputs,
// [outputs / 16][inputs / 4][16][4], zero beyond.
#pragma once

#include <immintrin.h>

#include "kernels/avx512_vnni/epilogue.h"

namespace packqvit::avx512_vnni {

// Rows and columns of 16 x 16 int32, exchanged.
inline void transpose_words(__m512i (&x)[16]) {
  __m512i t[16];
  for (size_t i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (size_t i = 0; i < 16; i += 4) {  // x[i + j]: column j of each 128-bit lane, rows i ... i + 3
    x[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (size_t j = 0; j < 4; ++j) {
    const __m512i even_low = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88);        // lanes 0, 2 of rows 0-3, 4-7
    const __m512i odd_low = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xDD);         // lanes 1, 3
    const __m512i even_high = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);  // of rows 8-11, 12-15
    const __m512i odd_high = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xDD);
    t[j] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(even_low, even_high, 0xDD);
    t[12 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xDD);
  }
  for (size_t i = 0; i < 16; ++i) x[i] = t[i];
}

// k: rows of head_size with a distance of `stride`. start[key] is -128 times the row's sum: what the products of
// q + 128 have too much.
inline void pack_keys(const int8_t* k, size_t stride, size_t keys, size_t head_size, int8_t* out, int32_t* start) {
  const size_t steps = divide_up(head_size, 4);
  for (size_t first = 0; first < keys; first += 16, out += 64 * steps) {
    const size_t count = std::min<size_t>(16, keys - first);
    __m512i sums = _mm512_setzero_si512();
    for (size_t d = 0; d < head_size; d += 64) {
      __m512i rows[16];
      for (size_t i = 0; i < 16; ++i) {
        rows[i] = i < count ? _mm512_maskz_loadu_epi8(byte_mask(head_size - d), k + (first + i) * stride + d)
                            : _mm512_setzero_si512();
      }
      transpose_words(rows);
      for (size_t i = 0; i < std::min<size_t>(16, steps - d / 4); ++i) {
        _mm512_store_si512(out + 64 * (d / 4 + i), rows[i]);
        sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), rows[i]);
      }
    }
    _mm512_store_si512(start + first, _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sums, 7)));
  }
}

// v: rows of head_size with a distance of `stride`; the inputs are the keys, the outputs the channels.
inline void pack_values(const int8_t* v, size_t stride, size_t keys, size_t head_size, int8_t* out) {
  const size_t steps = divide_up(keys, 4);
  for (size_t c = 0; c < head_size; c += 64) {
    const __mmask64 mask = byte_mask(head_size - c);
    const size_t registers = std::min<size_t>(4, divide_up(head_size - c, 16));
    for (size_t step = 0; step < steps; ++step) {
      __m512i r[4];
      for (size_t i = 0; i < 4; ++i) {
        const size_t key = 4 * step + i;
        r[i] = key < keys ? _mm512_maskz_loadu_epi8(mask, v + key * stride + c) : _mm512_setzero_si512();
      }
      const __m512i low01 = _mm512_unpacklo_epi8(r[0], r[1]);
      const __m512i high01 = _mm512_unpackhi_epi8(r[0], r[1]);
      const __m512i low23 = _mm512_unpacklo_epi8(r[2], r[3]);
      const __m512i high23 = _mm512_unpackhi_epi8(r[2], r[3]);
      const __m512i t0 = _mm512_unpacklo_epi16(low01, low23);  // channels 0-3 of each 128-bit lane
      const __m512i t1 = _mm512_unpackhi_epi16(low01, low23);
      const __m512i t2 = _mm512_unpacklo_epi16(high01, high23);
      const __m512i t3 = _mm512_unpackhi_epi16(high01, high23);
      const __m512i a0 = _mm512_shuffle_i32x4(t0, t1, 0x44);
      const __m512i a1 = _mm512_shuffle_i32x4(t2, t3, 0x44);
      const __m512i b0 = _mm512_shuffle_i32x4(t0, t1, 0xEE);
      const __m512i b1 = _mm512_shuffle_i32x4(t2, t3, 0xEE);
      const __m512i lanes[4] = {_mm512_shuffle_i32x4(a0, a1, 0x88), _mm512_shuffle_i32x4(a0, a1, 0xDD),
                                _mm512_shuffle_i32x4(b0, b1, 0x88), _mm512_shuffle_i32x4(b0, b1, 0xDD)};
      for (size_t i = 0; i < registers; ++i) _mm512_store_si512(out + 64 * (i * steps + step), lanes[i]);
    }
    out += 64 * steps * registers;
  }
}

}  // namespace packqvit::avx512_vnni
