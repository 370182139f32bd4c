#include "tests/support/tiers.h"

#if defined(__x86_64__)
#include "kernels/avx2/avx2.h"
#include "kernels/x86/cpu.h"
#include "tests/support/avx_vnni_evex.h"

namespace packqvit::avx_vnni_evex {

const KernelTier& tier() {
  static const GemmRoute* const kRoutes[] = {&inner_product_route(), &direct_route()};
  static const KernelTier kTier = [] {
    KernelTier tier = avx2::tier();
    tier.name = "avx_vnni_evex";
    tier.is_supported = [] { return x86::cpu().avx512_vnni; };
    tier.gemm_routes = kRoutes;
    tier.gemm_route_count = 2;
    return tier;
  }();
  return kTier;
}

}  // namespace packqvit::avx_vnni_evex
#elif defined(__aarch64__)
#include "comparison/two_in_lane.h"
#include "kernels/neon/neon.h"

namespace packqvit::comparison {

const KernelTier& tier() {
  static const GemmRoute* const kRoutes[] = {&two_in_lane_route(), &neon::smull_route()};
  static const KernelTier kTier = [] {
    KernelTier tier = neon::tier();
    tier.name = "two_in_lane";
    tier.gemm_routes = kRoutes;
    tier.gemm_route_count = 2;
    return tier;
  }();
  return kTier;
}

}  // namespace packqvit::comparison
#endif

namespace packqvit {

std::vector<const KernelTier*> kernel_tiers() {
  std::vector<const KernelTier*> tiers(all_tiers().begin(), all_tiers().end());
#if defined(__x86_64__)
  tiers.push_back(&avx_vnni_evex::tier());
#elif defined(__aarch64__)
  tiers.push_back(&comparison::tier());
#endif
  return tiers;
}

}  // namespace packqvit
