#include "src/steps/mapped_row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class LayerNormStep final : public MappedRowStep {
 public:
  LayerNormStep(const BuildContext& context, const plan::LayerNorm& op)
      : MappedRowStep(context, op.x(), op.output(), op.rows()), residual_(op.residual()) {
    const Value& output = context.plan.value(op.output());
    arguments_.wide = context.plan.value(op.x()).type == plan::DataType::Int16;
    arguments_.channels = output.last();
    arguments_.epsilon = op.epsilon();
    arguments_.output_shift = op.output_shift();
    arguments_.qmin = op.qmin();
    arguments_.qmax = op.qmax();
    arguments_.wide_output = output.type == plan::DataType::Int16;
    arguments_.fraction_bits = op.fraction_bits();
  }

  bool init(const CheckedPlan& plan, const plan::LayerNorm& op) {
    const size_t channels = arguments_.channels;
    if (op.channel_shift() != -1) {
      if (!plan.constant(op.channel_shift()).copy_to(channel_shift_, channels)) return false;
      arguments_.channel_shift = channel_shift_.data();
    }
    if (!plan.constant(op.weight()).copy_to(weight_, channels)) return false;
    if (!plan.constant(op.bias()).copy_to(bias_, channels)) return false;
    if (op.residual_multiplier() != -1) {
      if (!plan.constant(op.residual_multiplier()).copy_to(residual_multiplier_, channels)) return false;
      arguments_.residual_multiplier = residual_multiplier_.data();
    }
    arguments_.weight = weight_.data();
    arguments_.bias = bias_.data();
    return true;
  }

  std::vector<uint32_t> operands() const override {
    std::vector<uint32_t> operands = MappedRowStep::operands();
    if (residual_ >= 0) operands.push_back(static_cast<uint32_t>(residual_));
    return operands;
  }
  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    LayerNormArguments arguments = arguments_;
    const uint8_t* residual = residual_ >= 0 ? memory.value<const uint8_t>(static_cast<uint32_t>(residual_)) : nullptr;
    for_each_run(memory, rows, scratch, [&](size_t row, size_t count, const void* x, void* output) {
      arguments.x = x;
      arguments.output = output;
      if (residual != nullptr) arguments.residual = residual + row * output_row_bytes();
      tier_.layer_norm(arguments, {0, count});
    });
  }

 private:
  int32_t residual_;
  LayerNormArguments arguments_{};
  AlignedArray<uint8_t> channel_shift_;
  AlignedArray<int16_t> weight_;
  AlignedArray<int32_t> bias_;
  AlignedArray<int16_t> residual_multiplier_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::LayerNorm& op) {
  auto step = std::make_unique<LayerNormStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
