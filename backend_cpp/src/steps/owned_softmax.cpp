#include "src/steps/owned_softmax.h"

#include <algorithm>

namespace packqvit {
namespace {

// Below all scores, with any bias: docs/numerics.md, softmax.
constexpr int32_t kMask = -(1 << 29);

}  // namespace

bool OwnedSoftmax::init_bias(const CheckedPlan& plan, int32_t index, unsigned shift) {
  if (index == -1) return true;
  const Constant& bias = plan.constant(index);
  view_.bias_heads = bias.shape[0];
  if (bias.type == plan::DataType::Int32) return bias.copy_to(bias_, bias.size());
  if (!bias_.allocate(bias.size())) return false;
  for (size_t i = 0; i < bias.size(); ++i) bias_.data()[i] = bias.get<int16_t>(i) * (1 << shift);
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
