#pragma once

#include "src/steps/row_step.h"

namespace packqvit {

// A row step whose rows stay where they are and need no scratch memory.
class PlainRowStep : public RowStep {
 public:
  executorch::runtime::Error run(const Memory& memory) const final {
    const size_t parts = part_count(rows_, threads_);
    return parallel_tasks(parts, threads_,
                          [&](size_t part) { run_rows(memory, part_of(rows_, parts, part), nullptr); });
  }

  size_t rows() const final { return rows_; }

 protected:
  PlainRowStep(const BuildContext& context, uint32_t output)
      : tier_(context.tier), output_(output), threads_(context.threads) {
    const Value& result = context.plan.value(output);
    rows_ = result.size() / result.last();
  }

  const KernelTier& tier_;
  uint32_t output_;

 private:
  size_t threads_;
  size_t rows_;
};

}  // namespace packqvit
