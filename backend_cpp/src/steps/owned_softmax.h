#pragma once

#include "kernels/tier.h"
#include "src/plan/plan.h"

namespace packqvit {

// The parameters of a softmax with the bias that they point to.
class OwnedSoftmax {
 public:
  // From a plan's Softmax or Attention. False when there is no memory.
  template <typename Op>
  [[nodiscard]] bool init(const CheckedPlan& plan, const Op& op) {
    view_.multiplier = op.multiplier();
    view_.shift = op.shift();
    view_.format = op.format() == plan::ProbabilityFormat::Log2 ? Probabilities::kLog2 : Probabilities::kLinear;
    if (op.bias() == -1) return true;
    const Constant& bias = plan.constant(op.bias());
    view_.bias_heads = bias.shape[0];
    return bias.copy_to(bias_, bias.size());
  }

  SoftmaxParameters view() const {
    SoftmaxParameters view = view_;
    view.bias = bias_.data();
    return view;
  }

 private:
  SoftmaxParameters view_{};
  AlignedArray<int32_t> bias_;
};

}  // namespace packqvit
