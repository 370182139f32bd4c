#include "src/row_chain.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

namespace packqvit {

using executorch::runtime::Error;

namespace {

// Rows are cut where this much of them, of all values together, shares a second-level cache with the weights; into
// parts of half of it, because a part's rows of the locals lie in scratch memory.
constexpr size_t kPartBytes = 256 * 1024;

bool is_in_arena(const Value& value) { return value.storage == plan::Storage::Arena; }

bool are_apart(const Value& a, const Value& b) {
  return a.location + a.bytes() <= b.location || b.location + b.bytes() <= a.location;
}

}  // namespace

RowChain::RowChain(const std::vector<const Step*>& steps, const CheckedPlan& plan, size_t threads,
                   const std::vector<Range>& lives, size_t first)
    : threads_(threads) {
  std::vector<const RowStep*> chain = candidates(steps);
  while (!chain.empty() && !take(chain, plan, lives, first)) chain.pop_back();
}

// The steps at the front that work on the same rows, whatever memory they use.
std::vector<const RowStep*> RowChain::candidates(const std::vector<const Step*>& steps) const {
  std::vector<const RowStep*> found;
  size_t multiple = 1;
  for (const Step* step : steps) {
    const RowStep* row_step = step->as_row_step();
    if (row_step == nullptr || (!found.empty() && row_step->rows() != found[0]->rows())) break;
    multiple = std::lcm(multiple, row_step->row_multiple());
    const size_t least = threads_ == 1 ? 1 : threads_ * row_step->least_parts_per_thread();
    if (divide_up(row_step->rows(), multiple) < least) break;
    if (!found.empty() && !row_step->scattered_operands().empty()) break;
    found.push_back(row_step);
    if (!row_step->scattered_results().empty()) break;
  }
  return found;
}

// Makes a chain of all of these steps, when nothing stands against it.
bool RowChain::take(const std::vector<const RowStep*>& steps, const CheckedPlan& plan, const std::vector<Range>& lives,
                    size_t first) {
  const size_t rows = steps[0]->rows();
  const auto is_local = [&](uint32_t value) {
    return value < lives.size() && lives[value].begin >= first && lives[value].end <= first + steps.size();
  };
  std::vector<Operand> operands;  // in the arena
  std::map<uint32_t, size_t> locals;
  multiple_ = 1;
  for (size_t step = 0; step < steps.size(); ++step) {
    const auto add = [&](const std::vector<uint32_t>& values, bool row_by_row) {
      for (const uint32_t value : values) {
        if (!is_in_arena(plan.value(value))) continue;
        if (row_by_row && is_local(value)) {
          locals[value] = plan.value(value).bytes() / rows;
        } else {
          operands.push_back({step, value, row_by_row});
        }
      }
    };
    add(steps[step]->operands(), true);
    add(steps[step]->scattered_operands(), false);
    add(steps[step]->scattered_results(), false);
    multiple_ = std::lcm(multiple_, steps[step]->row_multiple());
  }
  for (const Operand& a : operands) {
    for (const Operand& b : operands) {
      if (a.step >= b.step) continue;
      const Value& one = plan.value(a.value);
      const Value& other = plan.value(b.value);
      const bool same_rows =
          a.row_by_row && b.row_by_row && one.location == other.location && one.bytes() == other.bytes();
      if (!are_apart(one, other) && !same_rows) return false;
    }
  }
  steps_ = steps;
  values_ = plan.values().size();
  std::map<size_t, size_t> places;  // bytes by place: some are operands of several steps
  for (const Operand& operand : operands)
    places[plan.value(operand.value).location] = plan.value(operand.value).bytes();
  for (const auto& place : places) handed_bytes_ += place.second;
  for (const auto& local : locals) {
    handed_bytes_ += rows * local.second;
    locals_.push_back({local.first, local.second});
  }
  return true;
}

size_t RowChain::parts() const {
  if (steps_.empty()) return 1;
  const size_t tiles = divide_up(steps_[0]->rows(), multiple_);
  size_t weights = kPartBytes;
  for (const RowStep* step : steps_) weights = std::max(weights, step->weight_bytes());
  const size_t cut = handed_bytes_ / weights;
  return std::min(tiles, std::max(part_count(tiles, threads_), cut > 1 ? 2 * cut : cut));
}

// Of the largest part.
size_t RowChain::part_rows() const { return divide_up(divide_up(steps_[0]->rows(), multiple_), parts()) * multiple_; }

// Of a part's places of all values, and its rows of the locals.
size_t RowChain::local_bytes() const {
  if (locals_.empty()) return 0;
  size_t bytes = round_up(values_ * sizeof(void*), kAlignment);
  for (const Local& local : locals_) bytes += round_up(part_rows() * local.row_bytes, kAlignment);
  return bytes;
}

size_t RowChain::scratch_bytes() const {
  if (steps_.empty()) return 0;
  size_t bytes = 0;
  for (const RowStep* step : steps_) bytes = std::max(bytes, step->row_scratch_bytes(part_rows()));
  return local_bytes() + bytes;
}

// Writes the places of all values to the scratch memory. A step finds row r of a local where the whole value would have
// to begin for that.
void RowChain::place_locals(const Memory& memory, Range rows, uint8_t* scratch) const {
  void** values = reinterpret_cast<void**>(scratch);
  std::memcpy(values, memory.values, values_ * sizeof(void*));
  uintptr_t place = reinterpret_cast<uintptr_t>(scratch) + round_up(values_ * sizeof(void*), kAlignment);
  for (const Local& local : locals_) {
    values[local.value] = reinterpret_cast<void*>(place - rows.begin * local.row_bytes);
    place += round_up(part_rows() * local.row_bytes, kAlignment);
  }
}

Error RowChain::run(const Memory& memory) const {
  const size_t rows = steps_[0]->rows();
  const size_t tiles = divide_up(rows, multiple_);
  const size_t parts = this->parts();
  return parallel_tasks(parts, threads_, [&](size_t part) {
    const Range tile_range = part_of(tiles, parts, part);
    const Range range{tile_range.begin * multiple_, std::min(tile_range.end * multiple_, rows)};
    const ScratchPool::Lease lease(memory.scratch);
    uint8_t* scratch = static_cast<uint8_t*>(lease.data());
    Memory own = memory;
    if (!locals_.empty()) {
      place_locals(memory, range, scratch);
      own.values = reinterpret_cast<void**>(scratch);
    }
    for (const RowStep* step : steps_) step->run_rows(own, range, scratch + local_bytes());
  });
}

}  // namespace packqvit
