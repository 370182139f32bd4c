#include "src/steps/row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class LayerNormStep final : public RowStep {
 public:
  LayerNormStep(const BuildContext& context, const plan::LayerNorm& op)
      : tier_(context.tier), threads_(context.threads), x_(op.x()), output_(op.output()), residual_(op.residual()) {
    const Value& x = context.plan.value(x_);
    rows_ = x.size() / x.last();
    arguments_.wide = x.type == plan::DataType::Int16;
    arguments_.channels = x.last();
    arguments_.epsilon = op.epsilon();
    arguments_.output_shift = op.output_shift();
    arguments_.qmin = op.qmin();
    arguments_.qmax = op.qmax();
    arguments_.wide_output = context.plan.value(output_).type == plan::DataType::Int16;
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

  Error run(const Memory& memory) const override {
    const size_t parts = part_count(rows_, threads_);
    return parallel_tasks(parts, threads_,
                          [&](size_t part) { run_rows(memory, part_of(rows_, parts, part), nullptr); });
  }

  size_t rows() const override { return rows_; }
  std::vector<uint32_t> operands() const override {
    if (residual_ < 0) return {x_, output_};
    return {x_, static_cast<uint32_t>(residual_), output_};
  }
  void run_rows(const Memory& memory, Range rows, void*) const override {
    LayerNormArguments arguments = arguments_;
    arguments.x = memory.value<const void>(x_);
    arguments.output = memory.value<void>(output_);
    if (residual_ >= 0) arguments.residual = memory.value<const void>(static_cast<uint32_t>(residual_));
    tier_.layer_norm(arguments, rows);
  }

 private:
  const KernelTier& tier_;
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  int32_t residual_;
  size_t rows_;
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
