#pragma once

#include <vector>

#include "src/steps/step.h"

namespace packqvit {

// A step whose output rows depend on the same rows of its operands, so that several of them can run one behind the
// other on a part of the rows (src/row_chain.h).
class RowStep : public Step {
 public:
  const RowStep* as_row_step() const override { return this; }

  virtual size_t rows() const = 0;

  // A part of the rows begins at a multiple of this.
  virtual size_t row_multiple() const { return 1; }

  // How many such multiples there have to be for each of several threads, so that none has to wait long for the others.
  virtual size_t least_parts_per_thread() const { return 1; }

  // Values that it reads or writes row by row.
  virtual std::vector<uint32_t> operands() const = 0;

  // Values of which it reads any rows: nothing may be written over them as long as a thread is at this step.
  virtual std::vector<uint32_t> scattered_operands() const { return {}; }

  // Values of which it writes other rows than its own: no step behind it can go on with them.
  virtual std::vector<uint32_t> scattered_results() const { return {}; }

  // Bytes of weights that run_rows() reads, however few the rows are.
  virtual size_t weight_bytes() const { return 0; }

  // Scratch memory of run_rows() on up to `rows` rows.
  virtual size_t row_scratch_bytes(size_t) const { return 0; }

  virtual void run_rows(const Memory& memory, Range rows, void* scratch) const = 0;
};

}  // namespace packqvit
