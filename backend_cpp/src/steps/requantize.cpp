#include "src/steps/mapped_row_step.h"
#include "src/steps/requantizer.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class RequantizeStep final : public MappedRowStep {
 public:
  RequantizeStep(const BuildContext& context, const plan::Requantize& op)
      : MappedRowStep(context, op.x(), op.output(), op.rows()) {
    const Value& output = context.plan.value(op.output());
    arguments_.wide_input = context.plan.value(op.x()).type == plan::DataType::Int16;
    arguments_.channels = output.last();
    arguments_.wide_output = output.type == plan::DataType::Int16;
  }

  bool init(const CheckedPlan& plan, const plan::Requantize& op) {
    if (!requantizer_.init(plan, *op.requantizer(), arguments_.channels)) return false;
    arguments_.requantizer = requantizer_.view();
    return true;
  }

  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    RequantizeArguments arguments = arguments_;
    for_each_run(memory, rows, scratch, [&](size_t, size_t count, const void* x, void* output) {
      arguments.x = x;
      arguments.output = output;
      tier_.requantize(arguments, {0, count});
    });
  }

 private:
  RequantizeArguments arguments_{};
  OwnedRequantizer requantizer_;
};

class RequantizeAddStep final : public MappedRowStep {
 public:
  RequantizeAddStep(const BuildContext& context, const plan::RequantizeAdd& op)
      : MappedRowStep(context, op.x(), op.output(), /*rows=*/-1), residual_(op.residual()) {
    const Value& output = context.plan.value(op.output());
    arguments_.wide_input = context.plan.value(op.x()).type == plan::DataType::Int16;
    arguments_.channels = output.last();
    arguments_.wide_output = output.type == plan::DataType::Int16;
  }

  bool init(const CheckedPlan& plan, const plan::RequantizeAdd& op) {
    const size_t channels = arguments_.channels;
    if (!requantizer_.init(plan, *op.requantizer(), channels) ||
        !plan.constant(op.residual_multiplier()).copy_to(residual_multiplier_, channels)) {
      return false;
    }
    arguments_.requantizer = requantizer_.view();
    arguments_.residual_multiplier = residual_multiplier_.data();
    return true;
  }

  std::vector<uint32_t> operands() const override {
    std::vector<uint32_t> operands = MappedRowStep::operands();
    operands.push_back(residual_);
    return operands;
  }

  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    RequantizeArguments arguments = arguments_;
    const uint8_t* residual = memory.value<const uint8_t>(residual_);
    for_each_run(memory, rows, scratch, [&](size_t row, size_t count, const void* x, void* output) {
      arguments.x = x;
      arguments.output = output;
      arguments.residual = residual + row * output_row_bytes();
      tier_.requantize(arguments, {0, count});
    });
  }

 private:
  uint32_t residual_;
  RequantizeArguments arguments_{};
  OwnedRequantizer requantizer_;
  AlignedArray<int16_t> residual_multiplier_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::Requantize& op) {
  auto step = std::make_unique<RequantizeStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

StepResult make_step(const BuildContext& context, const plan::RequantizeAdd& op) {
  auto step = std::make_unique<RequantizeAddStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
