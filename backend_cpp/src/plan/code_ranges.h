#pragma once

#include <vector>

#include "kernels/tier.h"
#include "src/plan/plan.h"

namespace packqvit {

// Of the int8 value that a checked node writes, the codes that it can take: what the operator clamps to, or all of
// int8. Kernels choose narrower arithmetic by it, so that it has to follow from the operators, not from what the plan
// claims. ranges: of all values, in the order of the plan; those that the node reads are known.
void set_range(const CheckedPlan& plan, const plan::Node& node, std::vector<CodeRange>& ranges);

}  // namespace packqvit
