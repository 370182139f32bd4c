// What moves tokens between windows and a map, and keeps the regions of a window apart.
#pragma once

#include "src/plan/check_node.h"

namespace packqvit {

// The groups of the tokens in each window, for scores [batch, heads, queries, keys].
bool check_groups(const NodeChecker& checker, int32_t index, const Shape& scores);

// Where each row of a group goes: every row to a place of its own. `count` rows are whole groups.
bool check_permutation(const NodeChecker& checker, int32_t index, size_t count);

// The rows of x that each of `count` rows of `channels` is made of.
bool check_sources(const NodeChecker& checker, int32_t index, const Value& x, size_t count, size_t channels);

}  // namespace packqvit
