#include <executorch/runtime/platform/log.h>

#include <algorithm>
#include <limits>
#include <map>

#include "src/plan/check.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

constexpr size_t kNever = std::numeric_limits<size_t>::max();

// The values that are alive between two nodes, by their place in the arena. None overlap.
class LiveRanges {
 public:
  explicit LiveRanges(const std::vector<Value>& values) : values_(values) {}

  // The live value that shares bytes with value `index`, or kNever after adding it.
  size_t add(size_t index) {
    const size_t begin = values_[index].location;
    const size_t end = begin + values_[index].bytes();
    auto next = live_.lower_bound(begin);
    if (next != live_.end() && next->first < end) return next->second;
    if (next != live_.begin()) {
      const size_t previous = std::prev(next)->second;
      if (values_[previous].location + values_[previous].bytes() > begin) return previous;
    }
    live_.emplace_hint(next, begin, index);
    return kNever;
  }

  void remove(size_t index) { live_.erase(values_[index].location); }

 private:
  const std::vector<Value>& values_;
  std::map<size_t, size_t> live_;
};

bool is_in_arena(const Value& value) { return value.storage == plan::Storage::Arena; }

// Whether a node writes its output over an operand, whose last use this is.
bool writes_in_place(const std::vector<Value>& values, const NodeUse& use, bool is_last_use) {
  if (use.replaceable == NodeUse::kNone || !is_last_use) return false;
  const Value& operand = values[use.replaceable];
  const Value& output = values[use.write];
  return is_in_arena(operand) && is_in_arena(output) && operand.location == output.location &&
         std::count(use.reads.begin(), use.reads.end(), use.replaceable) == 1;
}

}  // namespace

Error check_memory(const std::vector<Value>& values, const std::vector<NodeUse>& uses) {
  std::vector<size_t> written(values.size(), kNever);
  std::vector<size_t> last_use(values.size(), 0);
  for (size_t node = 0; node < uses.size(); ++node) {
    for (const size_t value : uses[node].reads) {
      if (values[value].storage != plan::Storage::Input && written[value] == kNever) {
        ET_LOG(Error, "packqvit: node %zu reads value %zu '%.64s' before anything is written to it", node, value,
               values[value].name);
        return Error::InvalidProgram;
      }
      last_use[value] = node;
    }
    const size_t value = uses[node].write;
    if (values[value].storage == plan::Storage::Input || written[value] != kNever) {
      ET_LOG(Error, "packqvit: node %zu writes value %zu '%.64s', which is an input or was written before", node, value,
             values[value].name);
      return Error::InvalidProgram;
    }
    written[value] = node;
    last_use[value] = node;
  }
  for (size_t value = 0; value < values.size(); ++value) {
    if (values[value].storage == plan::Storage::Output && written[value] == kNever) {
      ET_LOG(Error, "packqvit: no node writes the output value %zu '%.64s'", value, values[value].name);
      return Error::InvalidProgram;
    }
  }

  LiveRanges live(values);
  for (size_t node = 0; node < uses.size(); ++node) {
    const size_t output = uses[node].write;
    const size_t replaced = uses[node].replaceable;
    const bool in_place = writes_in_place(values, uses[node], replaced != NodeUse::kNone && last_use[replaced] == node);
    if (in_place) live.remove(replaced);
    if (is_in_arena(values[output])) {
      const size_t other = live.add(output);
      if (other != kNever) {
        ET_LOG(Error, "packqvit: node %zu writes value %zu '%.48s' over value %zu '%.48s', which is still needed", node,
               output, values[output].name, other, values[other].name);
        return Error::InvalidProgram;
      }
      if (last_use[output] == node) live.remove(output);
    }
    std::vector<size_t> reads = uses[node].reads;
    std::sort(reads.begin(), reads.end());
    reads.erase(std::unique(reads.begin(), reads.end()), reads.end());
    for (const size_t value : reads) {
      if (in_place && value == replaced) continue;
      if (is_in_arena(values[value]) && last_use[value] == node) live.remove(value);
    }
  }
  return Error::Ok;
}

}  // namespace packqvit
