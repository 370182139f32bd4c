// The GEMM routes of the tier, in the namespace PACKQVIT_ISA with the instruction PACKQVIT_VPDPBUSD: the tests compile
// them once more for AVX-512 CPUs, which have the same instruction in another encoding.
#pragma once

#include "kernels/ymm/gemm.h"

namespace packqvit::PACKQVIT_ISA {
namespace {

// acc += sums of 4 products of unsigned by signed bytes.
inline void multiply_add(__m256i& acc, __m256i u, __m256i s) {
  __asm(PACKQVIT_VPDPBUSD " %2, %1, %0" : "+x"(acc) : "x"(u), "x"(s));
}

// As in kernels/avx512_vnni/gemm_direct.cpp.
struct Direct {
  static constexpr size_t kRows = 6;
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
    const uint8_t* panel = tile.panel;
    for (size_t k = 0; k < tile.k; k += 4, panel += 64) {
      const __m256i w0 = load(panel);
      const __m256i w1 = load(panel + 32);
      unroll<kTileRows>([&](auto i) __attribute__((always_inline)) {
        const __m256i x = broadcast(tile.x + i * tile.stride + k);
        multiply_add(acc[i][0], x, w0);
        multiply_add(acc[i][1], x, w1);
      });
    }
  }
};

// As in kernels/avx512_vnni/gemm_inner_product.cpp.
struct InnerProduct {
  static constexpr size_t kRows = 4;
  static constexpr size_t kCodeBytes = 1;
  static constexpr bool kRowBias = true;
  static constexpr int kOffset = 128;

  static int32_t prepare_row(const int8_t* x, size_t k, size_t padded_k, uint8_t* out) {
    std::memcpy(out, x, k);
    std::memset(out + k, 0, padded_k - k);
    int32_t sum = 0;
    const int8_t* codes = reinterpret_cast<const int8_t*>(out);
    for (size_t i = 0; i < padded_k; i += 8) {
      for (size_t j = i; j < i + 4; ++j) sum += codes[j + 4] * (codes[j] + kOffset);
    }
    return -sum;
  }

  static const uint8_t* unpack(const PackedWeights& weights, size_t panel, uint8_t* out) {
    return unpack_bytes(weights, panel, static_cast<int8_t>(kOffset), out);
  }

  template <size_t kTileRows>
  __attribute__((always_inline)) static void multiply(const Tile& tile, __m256i (&acc)[kTileRows][2]) {
    const uint8_t* panel = tile.panel;
    for (size_t k = 0; k < tile.k; k += 8, panel += 128) {
      unroll<2>([&](auto j) __attribute__((always_inline)) {
        const __m256i w1 = load(panel + 32 * j);
        const __m256i w2 = load(panel + 64 + 32 * j);
        unroll<kTileRows>([&](auto i) __attribute__((always_inline)) {
          const __m256i x1 = broadcast(tile.x + i * tile.stride + k);
          const __m256i x2 = broadcast(tile.x + i * tile.stride + k + 4);
          multiply_add(acc[i][j], _mm256_add_epi8(x1, w2), _mm256_add_epi8(x2, w1));
        });
      });
    }
  }
};

void fold_direct(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer, int32_t* bias) {
  fold_rounding(weights, epilogue, requantizer, bias);
  add_column_sums(weights, -128, bias);
}

void fold_inner_product(const PackedWeights& weights, Epilogue epilogue, const Requantizer& requantizer,
                        int32_t* bias) {
  fold_rounding(weights, epilogue, requantizer, bias);
  add_column_products(weights, InnerProduct::kOffset, -1, bias);
}

}  // namespace

const GemmRoute& direct_route() {
  static constexpr GemmRoute kRoute = {
      "direct",
      [](unsigned, CodeRange) { return true; },
      [] { return true; },
      {Direct::kRows, kPanel, /*kr=*/4},
      fold_direct,
      Gemm<Direct>::scratch_bytes,
      Gemm<Direct>::run,
  };
  return kRoute;
}

const GemmRoute& inner_product_route() {
  static constexpr GemmRoute kRoute = {
      "inner_product",
      // x2 + w1 within int8 and x1 + w2 + 128 within uint8, for weights in [-7, 7].
      [](unsigned weight_bits, CodeRange x) { return weight_bits == 4 && x.low >= -121 && x.high <= 120; },
      [] { return x86::cpu().adds_beside_products; },
      {InnerProduct::kRows, kPanel, /*kr=*/4},
      fold_inner_product,
      Gemm<InnerProduct>::scratch_bytes,
      Gemm<InnerProduct>::run,
  };
  return kRoute;
}

}  // namespace packqvit::PACKQVIT_ISA
