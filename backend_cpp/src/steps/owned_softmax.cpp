#include "src/steps/owned_softmax.h"

#include <algorithm>

namespace packqvit {
namespace {

// Below all scores, with any bias: docs/numerics.md, softmax.
constexpr int32_t kMask = -(1 << 29);

}  // namespace

bool OwnedSoftmax::init_bias(const CheckedPlan& plan, int32_t constant, unsigned shift, int32_t index) {
  if (constant == -1) return true;
  const Constant& bias = plan.constant(constant);
  const auto code = [&](size_t i) {
    return bias.type == plan::DataType::Int32 ? bias.get<int32_t>(i) : bias.get<int16_t>(i) * (1 << shift);
  };
  view_.bias_heads = bias.shape[0];
  const size_t pairs = queries_ * keys_;
  if (!bias_.allocate(view_.bias_heads * pairs)) return false;
  if (index == -1) {
    for (size_t i = 0; i < bias.size(); ++i) bias_.data()[i] = code(i);
    return true;
  }
  const Constant& columns = plan.constant(index);
  for (size_t pair = 0; pair < pairs; ++pair) {
    const size_t column = columns.type == plan::DataType::UInt8 ? columns.get<uint8_t>(pair)
                                                                : static_cast<size_t>(columns.get<int16_t>(pair));
    for (size_t head = 0; head < view_.bias_heads; ++head) {
      bias_.data()[head * pairs + pair] = code(head * bias.shape[1] + column);
    }
  }
  return true;
}

bool OwnedSoftmax::init_groups(const CheckedPlan& plan, int32_t index) {
  if (index == -1) return true;
  const Constant& groups = plan.constant(index);
  if (!groups.copy_to(groups_, groups.size())) return false;
  for (size_t window = 0; window < groups.shape[0]; ++window) {
    const uint8_t* row = groups_.data() + window * keys_;
    has_several_groups_.push_back(std::any_of(row, row + keys_, [&](uint8_t group) { return group != row[0]; }));
  }
  masked_ = std::find(has_several_groups_.begin(), has_several_groups_.end(), 1) != has_several_groups_.end();
  return true;
}

SoftmaxParameters OwnedSoftmax::for_head(size_t head, Range queries, void* scratch) const {
  SoftmaxParameters parameters = view_;
  const int32_t* bias = bias_.data() != nullptr ? bias_.data() + head % view_.bias_heads * queries_ * keys_ : nullptr;
  parameters.bias = bias;
  parameters.bias_heads = 1;
  if (!masked_) return parameters;
  const size_t window = head / heads_ % has_several_groups_.size();
  if (has_several_groups_[window] == 0) return parameters;
  int32_t* output = static_cast<int32_t*>(scratch);
  write_bias(groups_.data() + window * keys_, bias, queries, output);
  parameters.bias = output;
  return parameters;
}

void OwnedSoftmax::write_bias(const uint8_t* groups, const int32_t* bias, Range queries, int32_t* output) const {
  for (size_t i = queries.begin; i < queries.end; ++i) {
    int32_t* row = output + i * keys_;
    if (bias == nullptr) {
      for (size_t j = 0; j < keys_; ++j) row[j] = groups[j] == groups[i] ? 0 : kMask;
    } else {
      const int32_t* added = bias + i * keys_;
      for (size_t j = 0; j < keys_; ++j) row[j] = groups[j] == groups[i] ? added[j] : kMask;
    }
  }
}

}  // namespace packqvit
