#include "src/tier_choice.h"

#include <executorch/runtime/platform/log.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "packqvit/backend.h"

namespace packqvit {

using executorch::runtime::Error;
using executorch::runtime::Result;

namespace {

std::atomic<const KernelTier*> option{nullptr};

bool is_given(const char* name) { return name != nullptr && name[0] != '\0'; }

Result<const KernelTier*> find_or_refuse(const char* name) {
  if (const KernelTier* tier = find_tier(name)) return tier;
  std::string available;
  for (const KernelTier* tier : all_tiers()) {
    if (tier->is_supported()) available += std::string(available.empty() ? "" : ", ") + tier->name;
  }
  ET_LOG(Error, "packqvit: tier '%.64s' is unknown or not supported by this CPU; available: %s", name,
         available.c_str());
  return Error::InvalidArgument;
}

}  // namespace

Result<const KernelTier*> choose_tier(const char* load_option) {
  if (is_given(load_option)) return find_or_refuse(load_option);
  if (const KernelTier* tier = option.load()) return tier;
  if (const char* name = std::getenv(kTierEnvironment); is_given(name)) return find_or_refuse(name);
  return &best_tier();
}

Error set_tier_option(const char* name) {
  if (!is_given(name)) {
    option.store(nullptr);
    return Error::Ok;
  }
  const Result<const KernelTier*> tier = find_or_refuse(name);
  if (!tier.ok()) return tier.error();
  option.store(*tier);
  return Error::Ok;
}

}  // namespace packqvit
