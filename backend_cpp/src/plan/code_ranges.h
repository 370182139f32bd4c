#pragma once

#include <vector>

#include "kernels/tier.h"
#include "src/plan/plan.h"

namespace packqvit {

// For each int8 value of the plan the codes that it can take: what its operator clamps to, or all of int8. Kernels
// choose narrower arithmetic by it, so that it has to follow from the operators, not from what the plan claims.
std::vector<CodeRange> code_ranges(const CheckedPlan& plan);

}  // namespace packqvit
