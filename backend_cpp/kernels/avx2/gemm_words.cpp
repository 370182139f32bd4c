// Both operands widened to int16: VPMADDWD and VPADDD take any codes.
#define PACKQVIT_ISA avx2
#include "kernels/avx2/avx2.h"
#include "kernels/ymm/gemm.h"
#include "kernels/ymm/words.h"

namespace packqvit::avx2 {
namespace {

struct Words {
  static constexpr size_t kRows = 5;
  static constexpr size_t kCodeBytes = 2;
  static constexpr bool kRowBias = false;

  static int32_t prepare_row(const int8_t* x, size_t k, size_t padded_k, uint8_t* out) {
    widen(x, k, padded_k, reinterpret_cast<int16_t*>(out));
    return 0;
  }

  // int16 [k / 2][16][2].
  static const uint8_t* unpack(const PackedWeights& weights, size_t panel, uint8_t* out) {
    const uint8_t* in = weights.panel(panel);
    uint8_t* to = out;
    if (weights.bits == 8) {
      for (size_t k = 0; k < weights.padded_k; k += 2, in += 32, to += 64) {
        store(to, _mm256_cvtepi8_epi16(load_bytes(reinterpret_cast<const int8_t*>(in), 16)));
        store(to + 32, _mm256_cvtepi8_epi16(load_bytes(reinterpret_cast<const int8_t*>(in) + 16, 16)));
      }
      return out;
    }
    for (size_t k = 0; k < weights.padded_k; k += 4, in += 32, to += 128) {
      const Nibbles nibbles(in);
      store(to, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(nibbles.low)));
      store(to + 32, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(nibbles.low, 1)));
      store(to + 64, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(nibbles.high)));
      store(to + 96, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(nibbles.high, 1)));
    }
    return out;
  }

  template <size_t kTileRows>
  __attribute__((always_inline)) static void multiply(const Tile& tile, __m256i (&acc)[kTileRows][2]) {
    multiply_words<kTileRows, 2>(reinterpret_cast<const int16_t*>(tile.x), tile.stride / 2,
                                 reinterpret_cast<const int16_t*>(tile.panel), 16, 32, tile.k / 2, acc);
  }
};

}  // namespace

const GemmRoute& words_route() {
  static constexpr GemmRoute kRoute = {
      "words",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {Words::kRows, kPanel, /*kr=*/2},
      fold_rounding,
      Gemm<Words>::scratch_bytes,
      Gemm<Words>::run,
  };
  return kRoute;
}

}  // namespace packqvit::avx2
