#include "src/steps/requantizer.h"
#include "src/steps/row_map.h"
#include "src/steps/row_step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class RequantizeStep final : public RowStep {
 public:
  RequantizeStep(const BuildContext& context, const plan::Requantize& op)
      : tier_(context.tier), threads_(context.threads), x_(op.x()), output_(op.output()) {
    const Value& x = context.plan.value(x_);
    const Value& output = context.plan.value(output_);
    rows_ = output.size() / output.last();
    output_row_bytes_ = output.last() * element_size(output.type);
    map_.init(context.plan, op.rows(), x.last() * element_size(x.type), x.size() / x.last(), rows_);
    arguments_.wide_input = x.type == plan::DataType::Int16;
    arguments_.channels = output.last();
    arguments_.wide_output = output.type == plan::DataType::Int16;
  }

  bool init(const CheckedPlan& plan, const plan::Requantize& op) {
    if (!requantizer_.init(plan, *op.requantizer(), arguments_.channels)) return false;
    arguments_.requantizer = requantizer_.view();
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
    return map_.moves() ? std::vector<uint32_t>{output_} : std::vector<uint32_t>{output_, x_};
  }
  std::vector<uint32_t> scattered_operands() const override {
    return map_.moves() ? std::vector<uint32_t>{x_} : std::vector<uint32_t>{};
  }
  size_t row_scratch_bytes(size_t) const override { return map_.tile_bytes(); }
  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    RequantizeArguments arguments = arguments_;
    uint8_t* output = memory.value<uint8_t>(output_);
    map_.for_each_run(memory.value<const void>(x_), rows.begin, rows.end, scratch,
                      [&](size_t row, size_t count, const void* x) {
                        arguments.x = x;
                        arguments.output = output + row * output_row_bytes_;
                        tier_.requantize(arguments, {0, count});
                      });
  }

 private:
  const KernelTier& tier_;
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  size_t rows_;
  size_t output_row_bytes_;
  RowMap map_;
  RequantizeArguments arguments_{};
  OwnedRequantizer requantizer_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::Requantize& op) {
  auto step = std::make_unique<RequantizeStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
