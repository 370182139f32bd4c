// Products of int16 pairs, which every AVX2 CPU has: any int8 by any int8, and the probabilities of attention.
#pragma once

#include "kernels/ymm/vector.h"

namespace packqvit::PACKQVIT_ISA {

// acc += sums of 2 products of int16.
inline void multiply_add_words(__m256i& acc, __m256i x, __m256i w) {
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x, w));
}

// acc[i][j] += rows of int16 times registers of 8 outputs by groups of 2 inputs, [kRegisters][steps][8][2] with a
// distance of `register_stride` int16 between registers and `step_stride` between steps.
template <size_t kRows, size_t kRegisters>
__attribute__((always_inline)) inline void multiply_words(const int16_t* rows, size_t row_stride, const int16_t* panel,
                                                          size_t register_stride, size_t step_stride, size_t steps,
                                                          __m256i (&acc)[kRows][2]) {
  for (size_t step = 0; step < steps; ++step) {
    __m256i w[kRegisters];
    unroll<kRegisters>(
        [&](auto j) __attribute__((always_inline)) { w[j] = load(panel + j * register_stride + step * step_stride); });
    unroll<kRows>([&](auto i) __attribute__((always_inline)) {
      const __m256i x = broadcast(rows + i * row_stride + 2 * step);
      unroll<kRegisters>([&](auto j) __attribute__((always_inline)) { multiply_add_words(acc[i][j], x, w[j]); });
    });
  }
}

inline void widen(const int8_t* in, size_t count, size_t padded, int16_t* out) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) store(out + i, _mm256_cvtepi8_epi16(load_bytes(in + i, 16)));
  for (; i < padded; ++i) out[i] = i < count ? in[i] : int16_t{0};
}

}  // namespace packqvit::PACKQVIT_ISA
