#include "src/steps/plain_row_step.h"
#include "src/steps/requantizer.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class MultiplyStep final : public PlainRowStep {
 public:
  MultiplyStep(const BuildContext& context, const plan::Multiply& op)
      : PlainRowStep(context, op.output()), x_(op.x()), y_(op.y()) {
    const Value& output = context.plan.value(output_);
    const auto is_wide = [&](uint32_t value) { return context.plan.value(value).type == plan::DataType::Int16; };
    arguments_.wide_x = is_wide(x_);
    arguments_.wide_y = is_wide(y_);
    arguments_.x_zero_point = op.x_zero_point();
    arguments_.y_zero_point = op.y_zero_point();
    arguments_.product_shift = op.product_shift();
    arguments_.channels = output.last();
    arguments_.wide_output = is_wide(output_);
  }

  bool init(const CheckedPlan& plan, const plan::Multiply& op) {
    if (!requantizer_.init(plan, *op.requantizer(), arguments_.channels)) return false;
    arguments_.requantizer = requantizer_.view();
    return true;
  }

  std::vector<uint32_t> operands() const override { return {output_, x_, y_}; }
  void run_rows(const Memory& memory, Range rows, void*) const override {
    MultiplyArguments arguments = arguments_;
    arguments.x = memory.value<const uint8_t>(x_);
    arguments.y = memory.value<const uint8_t>(y_);
    arguments.output = memory.value<uint8_t>(output_);
    tier_.multiply(arguments, rows);
  }

 private:
  uint32_t x_;
  uint32_t y_;
  MultiplyArguments arguments_{};
  OwnedRequantizer requantizer_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::Multiply& op) {
  auto step = std::make_unique<MultiplyStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
