#pragma once

#include <vector>

#include "kernels/tier.h"
#include "src/plan/plan.h"

namespace packqvit {

// The parameters of a softmax with the bias and the groups that they stand for.
class OwnedSoftmax {
 public:
  // From a plan's Softmax or Attention over scores [batch, heads, queries, keys]. False when there is no memory.
  template <typename Op>
  [[nodiscard]] bool init(const CheckedPlan& plan, const Op& op, size_t heads, size_t queries, size_t keys) {
    view_.multiplier = op.multiplier();
    view_.shift = op.shift();
    view_.format = op.format() == plan::ProbabilityFormat::Log2 ? Probabilities::kLog2 : Probabilities::kLinear;
    heads_ = heads;
    queries_ = queries;
    keys_ = keys;
    return init_bias(plan, op.bias(), op.bias_shift(), op.bias_index()) && init_groups(plan, op.groups());
  }

  Probabilities format() const { return view_.format; }

  // Whether some windows have several groups: for_head() is needed then.
  bool has_masks() const { return visible_.size() != 0; }

  // Of all heads, where there are no masks.
  SoftmaxParameters view() const {
    SoftmaxParameters view = view_;
    view.bias = bias();
    return view;
  }

  // Scratch memory of for_head().
  size_t scratch_bytes() const { return has_masks() ? queries_ * keys_ * sizeof(int32_t) : 0; }

  // Of head b * heads + h alone: a bias with one head. Where the head's window has several groups, that is written to
  // `scratch`, for these queries.
  SoftmaxParameters for_head(size_t head, Range queries, void* scratch) const;

 private:
  [[nodiscard]] bool init_bias(const CheckedPlan& plan, int32_t bias, unsigned shift, int32_t index);
  [[nodiscard]] bool init_groups(const CheckedPlan& plan, int32_t groups);
  template <typename Added>
  void write_bias(const int32_t* rows, const Added& added, Range queries, int32_t* output) const;

  ScoreBias bias() const {
    if (narrow_bias_.size() != 0) return {narrow_bias_.data(), bias_shift_};
    return bias_.data();
  }

  SoftmaxParameters view_{};
  size_t heads_ = 0;
  size_t queries_ = 0;
  size_t keys_ = 0;
  // One of them, or none: as wide as the plan has it.
  AlignedArray<int32_t> bias_;
  AlignedArray<int16_t> narrow_bias_;
  unsigned bias_shift_ = 0;
  // Which keys the tokens of a group see, -1 or 0, one row for each group of the windows that have several; and which
  // row each query of a window has, nothing for windows of one group.
  AlignedArray<int32_t> visible_;
  std::vector<std::vector<int32_t>> windows_;
};

}  // namespace packqvit
