#include "kernels/avx2/avx2.h"
#include "kernels/reference/reference.h"
#include "kernels/x86/cpu.h"

namespace packqvit::avx2 {

const KernelTier& tier() {
  static const GemmRoute* const kRoutes[] = {&bytes_route(), &words_route()};
  static const KernelTier kTier = [] {
    KernelTier tier = reference::tier();
    tier.name = "avx2";
    tier.is_supported = [] { return x86::cpu().avx2; };
    tier.gemm_routes = kRoutes;
    tier.gemm_route_count = 2;
    tier.attention_scratch = attention_scratch;
    tier.attention = attention;
    tier.layer_norm = layer_norm;
    tier.quantize = quantize;
    tier.pool_tokens = pool_tokens;
    tier.requantize = requantize;
    tier.multiply = multiply;
    tier.rotate = rotate;
    return tier;
  }();
  return kTier;
}

}  // namespace packqvit::avx2
