#include "kernels/neon_dotprod/dotprod.h"

#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "kernels/neon/neon.h"

namespace packqvit::neon_dotprod {
namespace {

bool has_dot_product() {
#if defined(__linux__)
  constexpr unsigned long kHwcapAsimdDp = 1ul << 20;  // some C libraries' headers are older than the instruction
  return (getauxval(AT_HWCAP) & kHwcapAsimdDp) != 0;
#else
  return false;
#endif
}

KernelTier make_tier() {
  static const GemmRoute* const kRoutes[] = {&sdot_in_order_route(), &sdot_route()};
  KernelTier tier = neon::tier();
  tier.name = "neon_dotprod";
  tier.is_supported = has_dot_product;
  tier.gemm_routes = kRoutes;
  tier.gemm_route_count = sizeof(kRoutes) / sizeof(kRoutes[0]);
  tier.attention_scratch = attention_scratch;
  tier.attention = attention;
  tier.attention_part_scratch = attention_part_scratch;
  tier.attention_scores = attention_scores;
  tier.attention_values = attention_values;
  return tier;
}

}  // namespace

const KernelTier& tier() {
  static const KernelTier kTier = make_tier();
  return kTier;
}

}  // namespace packqvit::neon_dotprod
