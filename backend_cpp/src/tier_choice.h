#pragma once

#include <executorch/runtime/core/result.h>

#include "kernels/tier.h"

namespace packqvit {

// The tier for a delegate that loads now: its load-time option, else the backend option, else the environment variable,
// else the best of this CPU. nullptr or an empty name leaves the choice to the next in line.
// Error::InvalidArgument, with what is available in the log, for a name that is unknown or unsupported here.
executorch::runtime::Result<const KernelTier*> choose_tier(const char* load_option = nullptr);

// Sets the backend option. Error::InvalidArgument, and no change, for a name that choose_tier() would refuse.
executorch::runtime::Error set_tier_option(const char* name);

}  // namespace packqvit
