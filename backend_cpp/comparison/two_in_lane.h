// The packed 4-bit multiplier of PackQViT (NeurIPS 2023): two products in one lane. No tier uses it, because `mla` is
// faster on every core (docs/benchmarks.md); it is here to be measured beside the others, and tested like them.
#pragma once

#include "kernels/tier.h"

namespace packqvit::comparison {

const GemmRoute& two_in_lane_route();

}  // namespace packqvit::comparison
