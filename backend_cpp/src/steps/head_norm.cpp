#include "src/steps/plain_row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class HeadNormStep final : public PlainRowStep {
 public:
  HeadNormStep(const BuildContext& context, const plan::HeadNorm& op)
      : PlainRowStep(context, op.output()), x_(op.x()), heads_(op.heads()) {
    const Value& x = context.plan.value(x_);
    code_bytes_ = element_size(x.type);
    result_bytes_ = element_size(context.plan.value(output_).type);
    arguments_.wide = x.type == plan::DataType::Int16;
    arguments_.wide_output = context.plan.value(output_).type == plan::DataType::Int16;
    arguments_.row_stride = x.last();
    arguments_.channels = x.last() / heads_;
    arguments_.centred = op.centred();
    arguments_.epsilon = op.epsilon();
    arguments_.output_shift = op.output_shift();
    arguments_.qmin = op.qmin();
    arguments_.qmax = op.qmax();
  }

  bool init(const CheckedPlan& plan, const plan::HeadNorm& op) {
    return plan.constant(op.weight()).copy_to(weight_, arguments_.row_stride) &&
           plan.constant(op.bias()).copy_to(bias_, arguments_.row_stride);
  }

  std::vector<uint32_t> operands() const override { return {output_, x_}; }
  void run_rows(const Memory& memory, Range rows, void*) const override {
    for (size_t first = rows.begin; first < rows.end; first += kTileRows) {
      const Range tile{first, std::min(first + kTileRows, rows.end)};
      for (size_t head = 0; head < heads_; ++head) run_head(memory, head, tile);
    }
  }

 private:
  static constexpr size_t kTileRows = 32;  // they stay in L1 from one head to the next

  void run_head(const Memory& memory, size_t head, Range rows) const {
    LayerNormArguments arguments = arguments_;
    const size_t first = head * arguments.channels;
    arguments.x = memory.value<const uint8_t>(x_) + first * code_bytes_;
    arguments.output = memory.value<uint8_t>(output_) + first * result_bytes_;
    arguments.weight = weight_.data() + first;
    arguments.bias = bias_.data() + first;
    tier_.layer_norm(arguments, rows);
  }

  uint32_t x_;
  size_t heads_;
  size_t code_bytes_;
  size_t result_bytes_;
  LayerNormArguments arguments_{};
  AlignedArray<int16_t> weight_;
  AlignedArray<int32_t> bias_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::HeadNorm& op) {
  auto step = std::make_unique<HeadNormStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
