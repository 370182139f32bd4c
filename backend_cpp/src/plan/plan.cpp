#include "src/plan/plan.h"

#include <utility>

#include "src/plan/check.h"

namespace packqvit {

using executorch::runtime::Error;
using executorch::runtime::FunctionRef;
using executorch::runtime::NamedDataMap;
using executorch::runtime::Result;

Result<CheckedPlan> CheckedPlan::make(const plan::Plan& plan, const NamedDataMap* data) {
  CheckedPlan checked(plan);
  Error error = check_names(plan);
  if (error == Error::Ok) error = check_tables(plan, checked.values_);
  if (error == Error::Ok) error = checked.constants_.open(plan, data);
  if (error != Error::Ok) return error;
  return checked;
}

Error CheckedPlan::visit_nodes(FunctionRef<Error(const plan::Node&)> visit) {
  uses_.clear();
  std::vector<const plan::Node*> writers(values_.size());
  const size_t count = plan_->nodes() != nullptr ? plan_->nodes()->size() : 0;
  for (size_t i = 0; i < count; ++i) {
    const plan::Node& node = *plan_->nodes()->Get(static_cast<uint32_t>(i));
    Error error = check_node(node, i, constants_, values_, uses_, writers);
    if (error == Error::Ok) error = visit(node);
    if (error != Error::Ok) return error;
    constants_.free_large();
  }
  return check_memory(values_, uses_);
}

}  // namespace packqvit
