#include "src/steps/plain_row_step.h"
#include "src/steps/requantizer.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

Partners order_of(const std::vector<uint32_t>& partner) {
  const size_t half = partner.size() / 2;
  bool halves = partner.size() % 2 == 0, neighbours = halves;
  for (size_t c = 0; c < partner.size(); ++c) {
    halves &= partner[c] == (c < half ? c + half : c - half);
    neighbours &= partner[c] == (c ^ 1);
  }
  return halves ? Partners::kHalves : neighbours ? Partners::kNeighbours : Partners::kListed;
}

class RotateStep final : public PlainRowStep {
 public:
  RotateStep(const BuildContext& context, const plan::Rotate& op)
      : PlainRowStep(context, op.output()), x_(op.x()), partner_(op.partner()->begin(), op.partner()->end()) {
    const Value& x = context.plan.value(x_);
    arguments_.channels = x.last();
    arguments_.head_size = partner_.size();
    arguments_.tokens = x.dim(1);
    arguments_.order = order_of(partner_);
    arguments_.partner = partner_.data();
  }

  bool init(const CheckedPlan& plan, const plan::Rotate& op) {
    const Constant& cosine = plan.constant(op.cosine());
    if (!cosine.copy_to(cosine_, cosine.size()) || !plan.constant(op.sine()).copy_to(sine_, cosine.size()) ||
        !requantizer_.init(plan, *op.requantizer(), arguments_.channels)) {
      return false;
    }
    arguments_.factors = cosine.size() / arguments_.tokens;
    arguments_.cosine = cosine_.data();
    arguments_.sine = sine_.data();
    arguments_.requantizer = requantizer_.view();
    return true;
  }

  std::vector<uint32_t> operands() const override { return {output_, x_}; }
  void run_rows(const Memory& memory, Range rows, void*) const override {
    RotateArguments arguments = arguments_;
    arguments.x = memory.value<const int16_t>(x_);
    arguments.output = memory.value<int8_t>(output_);
    tier_.rotate(arguments, rows);
  }

 private:
  uint32_t x_;
  std::vector<uint32_t> partner_;
  AlignedArray<int16_t> cosine_;
  AlignedArray<int16_t> sine_;
  RotateArguments arguments_{};
  OwnedRequantizer requantizer_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::Rotate& op) {
  auto step = std::make_unique<RotateStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
