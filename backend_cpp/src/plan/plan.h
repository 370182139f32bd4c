#pragma once

#include <executorch/runtime/core/function_ref.h>
#include <executorch/runtime/core/named_data_map.h>
#include <executorch/runtime/core/result.h>

#include <vector>

#include "src/plan/check.h"
#include "src/plan/constants.h"
#include "src/plan/value.h"

namespace packqvit {

// A plan that is checked while a delegate is built from it: first its tables, then each node right before it is built,
// so that weights are in memory one after the other. What is built from it needs no further checks.
class CheckedPlan {
 public:
  // Error::InvalidProgram or Error::DelegateInvalidCompatibility, with the reason in the log, for a plan whose tables
  // do not keep to docs/numerics.md. `plan` and `data` must outlive the result.
  static executorch::runtime::Result<CheckedPlan> make(const plan::Plan& plan,
                                                       const executorch::runtime::NamedDataMap* data);

  // visit(node) for every node in their order: it and the data of its constants have been checked, and are there until
  // `visit` returns. Then checks what the nodes do to the memory. Error as of make(), of `data`, or of `visit`: what
  // was built must not run then.
  executorch::runtime::Error visit_nodes(
      executorch::runtime::FunctionRef<executorch::runtime::Error(const plan::Node&)> visit);

  const plan::Plan& plan() const { return *plan_; }
  const std::vector<Value>& values() const { return values_; }
  const Value& value(size_t index) const { return values_[index]; }

  // Of the nodes that were visited.
  const std::vector<NodeUse>& uses() const { return uses_; }

  const Constant& constant(int32_t index) const { return constants_[static_cast<size_t>(index)]; }

 private:
  explicit CheckedPlan(const plan::Plan& plan) : plan_(&plan) {}

  const plan::Plan* plan_;
  std::vector<Value> values_;
  std::vector<NodeUse> uses_;
  ConstantStore constants_;
};

}  // namespace packqvit
