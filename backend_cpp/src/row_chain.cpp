#include "src/row_chain.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace packqvit {

using executorch::runtime::Error;

namespace {

// Of all values of a part together: they share a second-level cache with the weights.
constexpr size_t kPartBytes = 256 * 1024;

}  // namespace

RowChain::RowChain(const std::vector<const Step*>& steps, const CheckedPlan& plan, size_t threads) : threads_(threads) {
  for (const Step* step : steps) {
    const RowStep* row_step = step->as_row_step();
    if (row_step == nullptr || !joins(*row_step, plan)) return;
    steps_.push_back(row_step);
  }
}

// Adds the step's operands when nothing stands against it.
bool RowChain::joins(const RowStep& step, const CheckedPlan& plan) {
  const size_t multiple = std::lcm(multiple_, step.row_multiple());
  if (divide_up(step.rows(), multiple) < threads_) return false;
  if (!steps_.empty() && step.rows() != steps_[0]->rows()) return false;
  const std::vector<uint32_t> scattered = step.scattered_operands();
  if (!steps_.empty() && !scattered.empty()) return false;
  std::vector<Operand> added;
  const auto add = [&](uint32_t index, bool row_by_row) {
    const Value& value = plan.value(index);
    if (value.storage != plan::Storage::Arena) return true;
    const Operand operand{value.location, value.bytes(), row_by_row ? value.bytes() / step.rows() : 0};
    for (const Operand& other : operands_) {
      const bool apart =
          operand.location + operand.bytes <= other.location || other.location + other.bytes <= operand.location;
      const bool same_rows =
          operand.location == other.location && operand.row_bytes == other.row_bytes && operand.row_bytes != 0;
      if (!apart && !same_rows) return false;
    }
    added.push_back(operand);
    return true;
  };
  for (const uint32_t index : step.operands()) {
    if (!add(index, true)) return false;
  }
  for (const uint32_t index : scattered) {
    if (!add(index, false)) return false;
  }
  operands_.insert(operands_.end(), added.begin(), added.end());
  multiple_ = multiple;
  return true;
}

size_t RowChain::parts() const {
  if (steps_.empty()) return 1;
  const size_t tiles = divide_up(steps_[0]->rows(), multiple_);
  size_t weights = kPartBytes;
  for (const RowStep* step : steps_) weights = std::max(weights, step->weight_bytes());
  std::map<size_t, size_t> values;  // bytes by place: some are operands of several steps
  for (const Operand& operand : operands_) values[operand.location] = operand.bytes;
  size_t bytes = 0;
  for (const auto& value : values) bytes += value.second;
  return std::min(tiles, std::max(part_count(tiles, threads_), bytes / weights));
}

size_t RowChain::scratch_bytes() const {
  if (steps_.empty()) return 0;
  const size_t rows = divide_up(divide_up(steps_[0]->rows(), multiple_), parts()) * multiple_;
  size_t bytes = 0;
  for (const RowStep* step : steps_) bytes = std::max(bytes, step->row_scratch_bytes(rows));
  return bytes;
}

Error RowChain::run(const Memory& memory) const {
  const size_t rows = steps_[0]->rows();
  const size_t tiles = divide_up(rows, multiple_);
  const size_t parts = this->parts();
  return parallel_tasks(parts, threads_, [&](size_t part) {
    const Range range = part_of(tiles, parts, part);
    const ScratchPool::Lease lease(memory.scratch);
    for (const RowStep* step : steps_) {
      step->run_rows(memory, {range.begin * multiple_, std::min(range.end * multiple_, rows)}, lease.data());
    }
  });
}

}  // namespace packqvit
