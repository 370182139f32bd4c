#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/reference/reference.h"
#include "kernels/x86/cpu.h"

namespace packqvit::avx512_vnni {

const KernelTier& tier() {
  static const GemmRoute* const kRoutes[] = {&inner_product_route(), &direct_in_place_route(), &direct_route()};
  static const KernelTier kTier = [] {
    KernelTier tier = reference::tier();
    tier.name = "avx512_vnni";
    tier.is_supported = [] { return x86::cpu().avx512_vnni; };
    tier.gemm_routes = kRoutes;
    tier.gemm_route_count = 3;
    tier.attention_scratch = attention_scratch;
    tier.attention = attention;
    tier.layer_norm = layer_norm;
    tier.lookup_table = lookup_table;
    tier.quantize = quantize;
    tier.pool_tokens = pool_tokens;
    tier.requantize = requantize;
    tier.multiply = multiply;
    tier.rotate = rotate;
    return tier;
  }();
  return kTier;
}

}  // namespace packqvit::avx512_vnni
