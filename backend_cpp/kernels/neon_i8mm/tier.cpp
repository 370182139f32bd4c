#include "kernels/neon_i8mm/i8mm.h"

#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "kernels/neon/neon.h"

namespace packqvit::neon_i8mm {
namespace {

bool has_matrix_multiply() {
#if defined(__linux__)
  constexpr unsigned long kHwcap2I8mm = 1ul << 13;  // some C libraries' headers are older than the instruction
  return (getauxval(AT_HWCAP2) & kHwcap2I8mm) != 0;
#else
  return false;
#endif
}

KernelTier make_tier() {
  static const GemmRoute* const kRoutes[] = {&gemm_route()};
  KernelTier tier = neon::tier();
  tier.name = "neon_i8mm";
  tier.is_supported = has_matrix_multiply;
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

}  // namespace packqvit::neon_i8mm
