#pragma once

#include "tests/support/plan_builder.h"

namespace packqvit {

// Attention of the tokens of maps, with relative positions.
struct RelativeCase {
  size_t batch;
  size_t heads;
  size_t head_size;
  uint32_t rows;
  uint32_t columns;
  bool by_head;    // numbers of each head
  bool with_bias;  // a constant one besides
  bool moves;      // tokens go to other places
  bool log2;
};

// `fused`: one node. Else its operators by themselves, with a SelectTokens where tokens move. The same random numbers
// give the same function.
PlanBuilder relative_plan(Random& random, const RelativeCase& c, bool fused);

}  // namespace packqvit
