// The parts of checking a plan. src/plan/plan.h runs them in order; each logs what it refuses.
#pragma once

#include <executorch/runtime/core/error.h>

#include <limits>
#include <vector>

#include "src/plan/constants.h"
#include "src/plan/value.h"

namespace packqvit {

// Stands in SelectTokens.index for a token of `fill`, and in LayerNorm.rows for a row of zeros.
inline constexpr uint32_t kNoToken = UINT32_MAX;

// Stands for q of an attention whose queries are a constant.
inline constexpr uint32_t kNoValue = UINT32_MAX;

// Indices of the values that a node reads and the one that it writes.
struct NodeUse {
  static constexpr size_t kNone = std::numeric_limits<size_t>::max();

  std::vector<size_t> reads;
  size_t write = 0;
  // Of the reads: the operand, of the output's size, of which nothing is read that the output was written to before.
  // The residual of a sum, or what a layer norm takes row by row.
  size_t replaceable = kNone;
};

// Names are logged, and not every log sink takes arbitrary bytes (ExecuTorch's Python runtime ends the process):
// refuses what is not printable ASCII, before anything else is said about the plan.
executorch::runtime::Error check_names(const plan::Plan& plan);

// Types, shapes, storages and arena placement of the values; inputs and outputs.
executorch::runtime::Error check_tables(const plan::Plan& plan, std::vector<Value>& values);

// A node's operands, constants and parameters against docs/numerics.md. Its constants are loaded then; its use of
// values is appended to `uses`, and it stands in `writers` for the value that it writes.
executorch::runtime::Error check_node(const plan::Node& node, size_t index, ConstantStore& constants,
                                      const std::vector<Value>& values, std::vector<NodeUse>& uses,
                                      std::vector<const plan::Node*>& writers);

// Each value is written once and before it is read, and no live values share bytes of the arena. An output may take
// the place of a replaceable operand that is no other operand of the node and that no later node reads.
executorch::runtime::Error check_memory(const std::vector<Value>& values, const std::vector<NodeUse>& uses);

}  // namespace packqvit
