#pragma once

#include "src/plan/check_node.h"

namespace packqvit {

// Relative positions, which there have to be, of queries with heads of `head_size` channels, for scores
// [batch, heads, queries, keys].
bool check_relative(const NodeChecker& checker, const plan::RelativeBias* op, const Shape& scores, size_t head_size);

}  // namespace packqvit
