// 4-bit weights: VPMADDUBSW multiplies x + 128, unsigned, by the weights and adds pairs within int16. A pair is at most
// 2 * 255 * 7 = 3570 in magnitude, so that 9 of them fit; after 8 (32 of k) they are widened to int32.
#define PACKQVIT_ISA avx2
#include <algorithm>

#include "kernels/avx2/avx2.h"
#include "kernels/ymm/gemm.h"

namespace packqvit::avx2 {
namespace {

constexpr size_t kStepsOfWords = 8;

struct Bytes {
  static constexpr size_t kRows = 3;
  static constexpr size_t kCodeBytes = 1;
  static constexpr bool kRowBias = false;

  static int32_t prepare_row(const int8_t* x, size_t k, size_t padded_k, uint8_t* out) {
    for (size_t i = 0; i < k; ++i) out[i] = static_cast<uint8_t>(x[i] ^ INT8_MIN);
    std::memset(out + k, 0, padded_k - k);
    return 0;
  }

  static const uint8_t* unpack(const PackedWeights& weights, size_t panel, uint8_t* out) {
    return unpack_bytes(weights, panel, 0, out);
  }

  template <size_t kTileRows>
  __attribute__((always_inline)) static void multiply(const Tile& tile, __m256i (&acc)[kTileRows][2]) {
    const __m256i one = _mm256_set1_epi16(1);
    const size_t steps = tile.k / 4;
    for (size_t first = 0; first < steps; first += kStepsOfWords) {
      __m256i words[kTileRows][2];
      unroll<kTileRows>([&](auto i)
                            __attribute__((always_inline)) { words[i][0] = words[i][1] = _mm256_setzero_si256(); });
      const size_t last = std::min(steps, first + kStepsOfWords);
      for (size_t step = first; step < last; ++step) {
        const __m256i w0 = load(tile.panel + 64 * step);
        const __m256i w1 = load(tile.panel + 64 * step + 32);
        unroll<kTileRows>([&](auto i) __attribute__((always_inline)) {
          const __m256i x = broadcast(tile.x + i * tile.stride + 4 * step);
          words[i][0] = _mm256_add_epi16(words[i][0], _mm256_maddubs_epi16(x, w0));
          words[i][1] = _mm256_add_epi16(words[i][1], _mm256_maddubs_epi16(x, w1));
        });
      }
      unroll<kTileRows>([&](auto i) __attribute__((always_inline)) {
        acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(words[i][0], one));
        acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(words[i][1], one));
      });
    }
  }
};

void fold_bias(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer, int32_t* bias) {
  fold_rounding(weights, epilogue, requantizer, bias);
  add_column_sums(weights, -128, bias);
}

}  // namespace

const GemmRoute& bytes_route() {
  static constexpr GemmRoute kRoute = {
      "bytes",
      [](unsigned weight_bits, CodeRange) { return weight_bits == 4; },
      [] { return true; },
      {Bytes::kRows, kPanel, /*kr=*/4},
      fold_bias,
      Gemm<Bytes>::scratch_bytes,
      Gemm<Bytes>::run,
  };
  return kRoute;
}

}  // namespace packqvit::avx2
