#pragma once

#include <vector>

#include "tests/support/delegate.h"

namespace packqvit {

// Runs a plan operator by operator on 64-bit integers, straight from docs/numerics.md. Fills in the outputs.
void interpret(PlanBuilder& builder, std::vector<Argument>& arguments);

}  // namespace packqvit
