#pragma once

#include "src/steps/row_map.h"
#include "src/steps/row_step.h"

namespace packqvit {

// A row step whose rows of x may stand anywhere: LayerNorm.rows and Requantize.rows of the plan.
class MappedRowStep : public RowStep {
 public:
  executorch::runtime::Error run(const Memory& memory) const final {
    const size_t parts = part_count(rows_, threads_);
    return parallel_tasks(parts, threads_, [&](size_t part) {
      const ScratchPool::Lease lease(memory.scratch);
      run_rows(memory, part_of(rows_, parts, part), lease.data());
    });
  }

  size_t scratch_bytes() const final { return map_.tile_bytes(); }
  size_t rows() const final { return rows_; }
  size_t row_scratch_bytes(size_t) const final { return map_.tile_bytes(); }

  std::vector<uint32_t> operands() const override {
    return map_.moves() ? std::vector<uint32_t>{output_} : std::vector<uint32_t>{output_, x_};
  }
  std::vector<uint32_t> scattered_operands() const final {
    return map_.moves() ? std::vector<uint32_t>{x_} : std::vector<uint32_t>{};
  }

 protected:
  // rows: the constant of the map, or -1.
  MappedRowStep(const BuildContext& context, uint32_t x, uint32_t output, int32_t rows)
      : tier_(context.tier), threads_(context.threads), x_(x), output_(output) {
    const Value& source = context.plan.value(x);
    const Value& result = context.plan.value(output);
    rows_ = result.size() / result.last();
    output_row_bytes_ = result.last() * element_size(result.type);
    map_.init(context.plan, rows, source.last() * element_size(source.type), source.size() / source.last(), rows_);
  }

  // Calls work(first row, rows, their x, their output) for rows that stand side by side.
  template <typename Work>
  void for_each_run(const Memory& memory, Range rows, void* scratch, const Work& work) const {
    uint8_t* output = memory.value<uint8_t>(output_);
    map_.for_each_run(memory.value<const void>(x_), rows.begin, rows.end, scratch,
                      [&](size_t row, size_t count, const void* x) {
                        work(row, count, x, static_cast<void*>(output + row * output_row_bytes_));
                      });
  }

  size_t output_row_bytes() const { return output_row_bytes_; }

  const KernelTier& tier_;

 private:
  size_t threads_;
  uint32_t x_;
  uint32_t output_;
  size_t rows_;
  size_t output_row_bytes_;
  RowMap map_;
};

}  // namespace packqvit
