// 256-bit building blocks. The headers of this folder are compiled once for each tier that uses 256-bit registers, in
// the namespace that the tier names by PACKQVIT_ISA: code for different ISAs must not share symbols.
#pragma once

#include <immintrin.h>

#include <cstring>
#include <type_traits>

#include "kernels/tier.h"
#include "kernels/unroll.h"

namespace packqvit::PACKQVIT_ISA {

inline __m256i load(const void* x) { return _mm256_loadu_si256(static_cast<const __m256i*>(x)); }
inline void store(void* x, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(x), v); }

// The same 4 bytes in every lane.
inline __m256i broadcast(const void* bytes) {
  int32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return _mm256_set1_epi32(word);
}

// The first `count` of up to 16 elements, zero beyond, touching no others.
inline __m256i load_words(const int16_t* x, size_t count) {
  if (count >= 16) return load(x);
  int16_t all[16] = {};
  std::memcpy(all, x, count * sizeof(int16_t));
  return load(all);
}
inline __m128i load_bytes(const int8_t* x, size_t count) {
  if (count >= 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  int8_t all[16] = {};
  std::memcpy(all, x, count);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(all));
}
inline void store_words(int16_t* x, size_t count, __m256i v) {
  if (count >= 16) return store(x, v);
  int16_t all[16];
  store(all, v);
  std::memcpy(x, all, count * sizeof(int16_t));
}
inline void store_bytes(int8_t* x, size_t count, __m128i v) {
  if (count >= 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(x), v);
  int8_t all[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(all), v);
  std::memcpy(x, all, count);
}

// 16 int32 as int16, saturated, in their order.
inline __m256i to_words(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
}
// 16 int16 as int8, saturated.
inline __m128i to_bytes(__m256i v) {
  return _mm_packs_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

inline int32_t sum_of(__m256i v) {
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xB1)));
}

}  // namespace packqvit::PACKQVIT_ISA
