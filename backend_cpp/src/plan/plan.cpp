#include "src/plan/plan.h"

#include <utility>

#include "src/plan/check.h"

namespace packqvit {

using executorch::runtime::Error;
using executorch::runtime::NamedDataMap;
using executorch::runtime::Result;

Result<CheckedPlan> CheckedPlan::make(const plan::Plan& plan, const NamedDataMap* data) {
  CheckedPlan checked(plan);
  std::vector<NodeUse> uses;
  Error error = check_names(plan);
  if (error == Error::Ok) error = check_tables(plan, checked.values_);
  if (error == Error::Ok) error = checked.constants_.load(plan, data);
  if (error == Error::Ok) error = check_nodes(plan, checked.constants_, checked.values_, uses);
  if (error == Error::Ok) error = check_memory(checked.values_, uses);
  if (error != Error::Ok) return error;
  return checked;
}

}  // namespace packqvit
