#pragma once

#include <vector>

#include "src/plan/plan.h"
#include "src/steps/row_step.h"

namespace packqvit {

// Steps one behind the other that work on the same rows: a transformer block from behind its attention to the next
// one's queries. Each thread takes a part of the rows through all of them, so that they meet once, not after each step.
class RowChain {
 public:
  // The longest chain at the front of `steps`; empty when the first one is no row step or has too few rows to share.
  // A step joins only if no thread can touch memory that another one still needs: where values share memory, their
  // rows have to coincide. A step that reads other rows than its own can only be the first, and its operand shares
  // none.
  RowChain(const std::vector<const Step*>& steps, const CheckedPlan& plan, size_t threads);

  size_t length() const { return steps_.size(); }

  // How many parts the rows are cut into: some for each thread, and as many as keep what the steps hand on in cache,
  // where that is more than the weights, which each part reads again. 1: to run step after step is as well.
  size_t parts() const;

  size_t scratch_bytes() const;
  executorch::runtime::Error run(const Memory& memory) const;

 private:
  struct Operand {
    size_t location;
    size_t bytes;
    size_t row_bytes;  // 0: whose rows coincide with no others
  };

  bool joins(const RowStep& step, const CheckedPlan& plan);

  std::vector<const RowStep*> steps_;
  std::vector<Operand> operands_;  // in the arena
  size_t threads_;
  size_t multiple_ = 1;
};

}  // namespace packqvit
