#include "kernels/tier.h"

#include <algorithm>
#include <cstring>

#include "kernels/reference/reference.h"
#if defined(__x86_64__)
#include "kernels/avx2/avx2.h"
#include "kernels/avx512_vnni/avx512_vnni.h"
#include "kernels/avx_vnni/avx_vnni.h"
#endif
#if defined(__aarch64__)
#include "kernels/neon/neon.h"
#include "kernels/neon_dotprod/dotprod.h"
#include "kernels/neon_i8mm/i8mm.h"
#endif

namespace packqvit {

TierList all_tiers() {
  static const KernelTier* const tiers[] = {
#if defined(__aarch64__)
      &neon_i8mm::tier(),
      &neon_dotprod::tier(),
      &neon::tier(),
#elif defined(__x86_64__)
      &avx512_vnni::tier(),
      &avx_vnni::tier(),
      &avx2::tier(),
#endif
      &reference::tier(),
  };
  return {tiers, sizeof(tiers) / sizeof(tiers[0])};
}

const GemmRoute& choose_gemm_route(const KernelTier& tier, unsigned weight_bits, CodeRange x) {
  const GemmRoute* const* last = tier.gemm_routes + tier.gemm_route_count - 1;
  return **std::find_if(tier.gemm_routes, last,
                        [&](const GemmRoute* route) { return route->accepts(weight_bits, x) && route->pays(); });
}

const KernelTier& best_tier() {
  for (const KernelTier* tier : all_tiers()) {
    if (tier->is_supported()) return *tier;
  }
  return reference::tier();
}

const KernelTier* find_tier(const char* name) {
  for (const KernelTier* tier : all_tiers()) {
    if (std::strcmp(tier->name, name) == 0) return tier->is_supported() ? tier : nullptr;
  }
  return nullptr;
}

}  // namespace packqvit
