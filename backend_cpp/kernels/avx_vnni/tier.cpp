#include "kernels/avx2/avx2.h"
#include "kernels/avx_vnni/avx_vnni.h"
#include "kernels/x86/cpu.h"

namespace packqvit::avx_vnni {

const KernelTier& tier() {
  static const GemmRoute* const kRoutes[] = {&inner_product_route(), &direct_route()};
  static const KernelTier kTier = [] {
    KernelTier tier = avx2::tier();
    tier.name = "avx_vnni";
    tier.is_supported = [] { return x86::cpu().avx_vnni; };
    tier.gemm_routes = kRoutes;
    tier.gemm_route_count = 2;
    return tier;
  }();
  return kTier;
}

}  // namespace packqvit::avx_vnni
