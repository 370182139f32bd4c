#include "src/steps/row_map.h"
#include "src/steps/row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class LayerNormStep final : public RowStep {
 public:
  LayerNormStep(const BuildContext& context, const plan::LayerNorm& op)
      : tier_(context.tier), threads_(context.threads), x_(op.x()), output_(op.output()), residual_(op.residual()) {
    const Value& x = context.plan.value(x_);
    const Value& output = context.plan.value(output_);
    rows_ = output.size() / output.last();
    output_row_bytes_ = output.last() * element_size(output.type);
    map_.init(context.plan, op.rows(), x.last() * element_size(x.type), x.size() / x.last(), rows_);
    arguments_.wide = x.type == plan::DataType::Int16;
    arguments_.channels = output.last();
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
    return parallel_tasks(parts, threads_, [&](size_t part) {
      const ScratchPool::Lease lease(memory.scratch);
      run_rows(memory, part_of(rows_, parts, part), lease.data());
    });
  }

  size_t scratch_bytes() const override { return map_.tile_bytes(); }

  size_t rows() const override { return rows_; }
  std::vector<uint32_t> operands() const override {
    std::vector<uint32_t> operands{output_};
    if (!map_.moves()) operands.push_back(x_);
    if (residual_ >= 0) operands.push_back(static_cast<uint32_t>(residual_));
    return operands;
  }
  std::vector<uint32_t> scattered_operands() const override {
    return map_.moves() ? std::vector<uint32_t>{x_} : std::vector<uint32_t>{};
  }
  size_t row_scratch_bytes(size_t) const override { return map_.tile_bytes(); }
  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    LayerNormArguments arguments = arguments_;
    uint8_t* output = memory.value<uint8_t>(output_);
    const uint8_t* residual = residual_ >= 0 ? memory.value<const uint8_t>(static_cast<uint32_t>(residual_)) : nullptr;
    map_.for_each_run(memory.value<const void>(x_), rows.begin, rows.end, scratch,
                      [&](size_t row, size_t count, const void* x) {
                        arguments.x = x;
                        arguments.output = output + row * output_row_bytes_;
                        if (residual != nullptr) arguments.residual = residual + row * output_row_bytes_;
                        tier_.layer_norm(arguments, {0, count});
                      });
  }

 private:
  const KernelTier& tier_;
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  int32_t residual_;
  size_t rows_;
  size_t output_row_bytes_;
  RowMap map_;
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
