#include "src/steps/owned_softmax.h"
#include "src/steps/step.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

class SoftmaxStep final : public Step {
 public:
  SoftmaxStep(const BuildContext& context, const plan::Softmax& op)
      : tier_(context.tier), threads_(context.threads), x_(op.x()), output_(op.output()) {
    const Value& x = context.plan.value(x_);
    rows_ = x.size() / x.last();
    arguments_.columns = x.last();
    arguments_.rows_per_head = x.dim(2);
  }

  bool init(const CheckedPlan& plan, const plan::Softmax& op) { return softmax_.init(plan, op); }

  size_t scratch_bytes() const override { return tier_.softmax_scratch(arguments_.columns); }

  Error run(const Memory& memory) const override {
    SoftmaxArguments arguments = arguments_;
    arguments.x = memory.value<const int32_t>(x_);
    arguments.softmax = softmax_.view();
    arguments.output = memory.value<uint8_t>(output_);
    const size_t parts = part_count(rows_, threads_);
    return parallel_tasks(parts, threads_, [&](size_t part) {
      const ScratchPool::Lease lease(memory.scratch);
      tier_.softmax(arguments, part_of(rows_, parts, part), lease.data());
    });
  }

 private:
  const KernelTier& tier_;
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  size_t rows_;
  SoftmaxArguments arguments_{};
  OwnedSoftmax softmax_;
};

}  // namespace

StepResult make_step(const BuildContext& context, const plan::Softmax& op) {
  auto step = std::make_unique<SoftmaxStep>(context, op);
  if (!step->init(context.plan, op)) return Error::MemoryAllocationFailed;
  return std::unique_ptr<Step>(std::move(step));
}

}  // namespace packqvit
