#pragma once

#include <executorch/runtime/core/named_data_map.h>
#include <executorch/runtime/core/result.h>

#include <vector>

#include "src/plan/constants.h"
#include "src/plan/value.h"

namespace packqvit {

// A plan of which everything was checked: what is built from it needs no further checks. Lives while a delegate loads.
class CheckedPlan {
 public:
  // Error::InvalidProgram or Error::DelegateInvalidCompatibility, with the reason in the log, for a plan that does not
  // keep to docs/numerics.md. `plan` must outlive the result.
  static executorch::runtime::Result<CheckedPlan> make(const plan::Plan& plan,
                                                       const executorch::runtime::NamedDataMap* data);

  const plan::Plan& plan() const { return *plan_; }
  const std::vector<Value>& values() const { return values_; }
  const Value& value(size_t index) const { return values_[index]; }
  const Constant& constant(int32_t index) const { return constants_[static_cast<size_t>(index)]; }

 private:
  explicit CheckedPlan(const plan::Plan& plan) : plan_(&plan) {}

  const plan::Plan* plan_;
  std::vector<Value> values_;
  ConstantStore constants_;
};

}  // namespace packqvit
