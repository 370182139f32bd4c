#include <algorithm>

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
    heads_ = x.dim(1);
    arguments_.columns = x.last();
    arguments_.rows_per_head = x.dim(2);
  }

  bool init(const CheckedPlan& plan, const plan::Softmax& op) {
    return softmax_.init(plan, op, heads_, arguments_.rows_per_head, arguments_.columns);
  }

  size_t scratch_bytes() const override { return tier_scratch_bytes() + softmax_.scratch_bytes(); }

  Error run(const Memory& memory) const override {
    SoftmaxArguments arguments = arguments_;
    arguments.x = memory.value<const int32_t>(x_);
    arguments.softmax = softmax_.view();
    arguments.output = memory.value<uint8_t>(output_);
    const size_t parts = part_count(rows_, threads_);
    return parallel_tasks(parts, threads_, [&](size_t part) {
      const ScratchPool::Lease lease(memory.scratch);
      const Range rows = part_of(rows_, parts, part);
      if (softmax_.is_per_head()) {
        run_heads(arguments, rows, static_cast<uint8_t*>(lease.data()));
      } else {
        tier_.softmax(arguments, rows, lease.data());
      }
    });
  }

 private:
  size_t tier_scratch_bytes() const { return round_up(tier_.softmax_scratch(arguments_.columns), kAlignment); }

  // One head at a time: it has a bias of its own, and the masks of its window.
  void run_heads(SoftmaxArguments arguments, Range rows, uint8_t* scratch) const {
    const size_t size = arguments.rows_per_head;
    for (size_t begin = rows.begin; begin < rows.end;) {
      const size_t head = begin / size;
      const size_t end = std::min(rows.end, (head + 1) * size);
      const Range queries{begin - head * size, end - head * size};
      uint8_t* own = scratch + tier_scratch_bytes();
      arguments.softmax = softmax_.for_window(head, softmax_.head_bias(head, queries, own), queries, own);
      tier_.softmax(arguments, {begin, end}, scratch);
      begin = end;
    }
  }

  const KernelTier& tier_;
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  size_t rows_;
  size_t heads_;
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
