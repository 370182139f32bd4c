// The instructions that everything here is about.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels/unroll.h"

namespace packqvit::avx512_vnni {

// The same 4 bytes in every lane.
inline __m512i broadcast(const void* bytes) {
  int32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return _mm512_set1_epi32(word);
}

// acc += sums of 4 products of unsigned by signed bytes. GCC copies the accumulator of its intrinsic to another
// register and back; the instruction itself is all that is wanted.
inline void multiply_add(__m512i& acc, __m512i u, __m512i s) {
  __asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s));
}

// acc += sums of 2 products of int16.
inline void multiply_add_words(__m512i& acc, __m512i a, __m512i b) {
  __asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
}

}  // namespace packqvit::avx512_vnni
