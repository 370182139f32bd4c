#pragma once

#include <vector>

#include "kernels/tier.h"
#include "src/plan/plan.h"
#include "src/steps/index_runs.h"

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

  // Whether each head has parameters of its own, in scratch memory: for_window() is needed then.
  bool is_per_head() const { return visible_.size() != 0 || runs_; }

  // Whether head_bias() is another one for each image.
  bool differs_by_image() const { return view_.bias_heads != 0 && heads_ % view_.bias_heads != 0; }

  // Of all heads, where they have none of their own.
  SoftmaxParameters view() const {
    SoftmaxParameters view = view_;
    view.bias = bias();
    return view;
  }

  // Scratch memory of head_bias() and for_window().
  size_t scratch_bytes() const { return mask_bytes() + (runs_ ? runs_.written() * bias_size() : 0); }

  // The bias [queries, keys] of head b * heads + h, of which these queries are looked at. Where it has an index, it is
  // written to `scratch`.
  ScoreBias head_bias(size_t head, Range queries, uint8_t* scratch) const;

  // Of head b * heads + h alone, with its head_bias(). Where the head's window has several groups, that is written to
  // `scratch` with their masks.
  SoftmaxParameters for_window(size_t head, ScoreBias bias, Range queries, uint8_t* scratch) const;

 private:
  [[nodiscard]] bool init_bias(const CheckedPlan& plan, int32_t bias, unsigned shift, int32_t index);
  template <typename T>
  [[nodiscard]] bool init_bias(const CheckedPlan& plan, const Constant& bias, int32_t index, AlignedArray<T>& out);
  [[nodiscard]] bool init_groups(const CheckedPlan& plan, int32_t groups);
  template <typename Added>
  void write_bias(const int32_t* rows, const Added& added, Range queries, int32_t* output) const;

  size_t mask_bytes() const {
    return visible_.size() != 0 ? round_up(queries_ * keys_ * sizeof(int32_t), kAlignment) : 0;
  }
  bool is_narrow() const { return narrow_bias_.size() != 0; }
  size_t bias_size() const { return is_narrow() ? sizeof(int16_t) : sizeof(int32_t); }

  ScoreBias bias() const {
    if (is_narrow()) return {narrow_bias_.data(), bias_shift_};
    return bias_.data();
  }

  SoftmaxParameters view_{};
  size_t heads_ = 0;
  size_t queries_ = 0;
  size_t keys_ = 0;
  // One of them, or none: as wide as the plan has it. Of all pairs, or as the runs read it.
  AlignedArray<int32_t> bias_;
  AlignedArray<int16_t> narrow_bias_;
  unsigned bias_shift_ = 0;
  IndexRuns runs_;  // empty: of all pairs
  // Which keys the tokens of a group see, -1 or 0, one row for each group of the windows that have several; and which
  // row each query of a window has, nothing for windows of one group.
  AlignedArray<int32_t> visible_;
  std::vector<std::vector<int32_t>> windows_;
};

}  // namespace packqvit
