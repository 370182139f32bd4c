// Weight panels as the tiles read them: int8 [k / 4][64][4], 4 registers for each group of 4.
#pragma once

#include <immintrin.h>

#include "kernels/packed_weights.h"

namespace packqvit::avx512_vnni {

// Unpacks a nibble panel: the low nibbles of a byte belong to the even group of 4, the high ones to the odd group.
// `odd_offset` is added to the odd groups' codes.
inline void unpack_nibbles(const uint8_t* panel, size_t padded_k, int8_t odd_offset, int8_t* out) {
  // vpermb looks at six bits: with every code four times in the table, the two above the nibble need no mask.
  const __m512i code = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
  const __m512i odd_code = _mm512_add_epi8(code, _mm512_set1_epi8(odd_offset));
  for (size_t k = 0; k < padded_k; k += 8, panel += 256, out += 512) {
    for (size_t j = 0; j < 4; ++j) {
      const __m512i v = _mm512_load_si512(panel + 64 * j);
      _mm512_store_si512(out + 64 * j, _mm512_permutexvar_epi8(v, code));
      _mm512_store_si512(out + 256 + 64 * j, _mm512_permutexvar_epi8(_mm512_srli_epi16(v, 4), odd_code));
    }
  }
}

}  // namespace packqvit::avx512_vnni
