#include "kernels/tier.h"

#include <cstring>

#include "kernels/reference/reference.h"

namespace packqvit {

TierList all_tiers() {
  static const KernelTier* const tiers[] = {&reference::tier()};
  return {tiers, sizeof(tiers) / sizeof(tiers[0])};
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
