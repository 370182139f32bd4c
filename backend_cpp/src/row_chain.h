#pragma once

#include <vector>

#include "src/plan/plan.h"
#include "src/steps/row_step.h"

namespace packqvit {

// Steps one behind the other that work on the same rows: a transformer block from behind its attention to the next
// one's queries, or from a LayerNorm to the attention in windows. Each thread takes a part of the rows through all of
// them, so that they meet once, not after each step; and what only these steps use is there for the rows of a part
// alone, in scratch memory, not in the arena.
class RowChain {
 public:
  // The longest chain at the front of `steps`; empty when the first one is no row step or has too few rows to share.
  // A step joins only if no thread can touch memory that another one still needs: where values share memory, their
  // rows have to coincide. A step that reads other rows than its own can only be the first, one that writes others only
  // the last, and those operands share none.
  //
  // lives: of each value the nodes of the plan that use it, [first, last + 1); empty: nothing is known of them.
  // first: the node of the first step.
  RowChain(const std::vector<const Step*>& steps, const CheckedPlan& plan, size_t threads,
           const std::vector<Range>& lives = {}, size_t first = 0);

  size_t length() const { return steps_.size(); }

  // How many parts the rows are cut into: some for each thread, and as many as keep what the steps hand on in cache,
  // where that is more than the weights, which each part reads again. 1: to run step after step is as well.
  size_t parts() const;

  size_t scratch_bytes() const;
  executorch::runtime::Error run(const Memory& memory) const;

 private:
  // A value of a step.
  struct Operand {
    size_t step;
    uint32_t value;
    bool row_by_row;
  };

  // A value that is in scratch memory while the chain runs.
  struct Local {
    uint32_t value;
    size_t row_bytes;
  };

  std::vector<const RowStep*> candidates(const std::vector<const Step*>& steps) const;
  bool take(const std::vector<const RowStep*>& steps, const CheckedPlan& plan, const std::vector<Range>& lives,
            size_t first);
  size_t part_rows() const;
  size_t local_bytes() const;
  void place_locals(const Memory& memory, Range rows, uint8_t* scratch) const;

  std::vector<const RowStep*> steps_;
  std::vector<Local> locals_;
  size_t values_ = 0;        // of the plan
  size_t handed_bytes_ = 0;  // of all values that the steps read and write
  size_t threads_;
  size_t multiple_ = 1;
};

}  // namespace packqvit
