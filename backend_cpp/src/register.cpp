#include "packqvit/backend.h"
#include "src/backend.h"
#include "src/tier_choice.h"

namespace packqvit {
namespace {

executorch::runtime::Error register_with_executorch() {
  static PackQViTBackend backend;
  return executorch::runtime::register_backend({kBackendName, &backend});
}

const executorch::runtime::Error registered = register_with_executorch();

}  // namespace
}  // namespace packqvit

const char* packqvit_version() { return PACKQVIT_VERSION; }

int packqvit_backend_registered() { return packqvit::registered == executorch::runtime::Error::Ok ? 1 : 0; }

const char* packqvit_selected_tier() {
  const auto tier = packqvit::choose_tier();
  return tier.ok() ? (*tier)->name : nullptr;
}

const char* packqvit_supported_tier(unsigned index) {
  for (const packqvit::KernelTier* tier : packqvit::all_tiers()) {
    if (tier->is_supported() && index-- == 0) return tier->name;
  }
  return nullptr;
}
