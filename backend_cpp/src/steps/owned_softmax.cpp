#include "src/steps/owned_softmax.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace packqvit {
namespace {

// Below all scores, with any bias: docs/numerics.md, softmax.
constexpr int32_t kMask = -(1 << 29);

// A bias of so few bytes is kept for all pairs: in the first stages of Swin, few heads are written out for many
// windows.
constexpr size_t kSmallBias = 32 * 1024;

}  // namespace

bool OwnedSoftmax::init_bias(const CheckedPlan& plan, int32_t constant, unsigned shift, int32_t index) {
  if (constant == -1) return true;
  const Constant& bias = plan.constant(constant);
  view_.bias_heads = bias.shape[0];
  bias_shift_ = shift;
  return bias.type == plan::DataType::Int32 ? init_bias(plan, bias, index, bias_)
                                            : init_bias(plan, bias, index, narrow_bias_);
}

template <typename T>
bool OwnedSoftmax::init_bias(const CheckedPlan& plan, const Constant& bias, int32_t index, AlignedArray<T>& out) {
  if (index == -1) return bias.copy_to(out, bias.size());
  const size_t heads = view_.bias_heads;
  const size_t pairs = queries_ * keys_;
  const size_t count = bias.shape[1];
  IndexRuns runs;
  runs.init(plan.constant(index), queries_, keys_, count);
  AlignedArray<T> numbers;
  if (!numbers.allocate(heads * runs.stored())) return false;
  for (size_t head = 0; head < heads; ++head) {
    for (size_t u = 0; u < count; ++u) numbers[head * runs.stored() + u] = bias.get<T>(head * count + u);
  }
  if (runs.pays() && heads * pairs * sizeof(T) > kSmallBias) {
    runs_ = std::move(runs);
    out = std::move(numbers);
    return true;
  }
  if (!out.allocate((heads - 1) * pairs + runs.written())) return false;
  for (size_t head = 0; head < heads; ++head) {
    runs.write(numbers.data() + head * runs.stored(), {0, queries_}, out.data() + head * pairs);
  }
  return true;
}

bool OwnedSoftmax::init_groups(const CheckedPlan& plan, int32_t index) {
  if (index == -1) return true;
  const Constant& groups = plan.constant(index);
  std::vector<int32_t> rows;
  for (size_t first = 0; first < groups.size(); first += keys_) {  // a window
    const auto group = [&](size_t token) { return groups.get<uint8_t>(first + token); };
    size_t token = 1;
    while (token < keys_ && group(token) == group(0)) ++token;
    windows_.emplace_back();
    if (token == keys_) continue;
    int32_t row_of[256];  // by group
    std::fill(std::begin(row_of), std::end(row_of), -1);
    for (size_t i = 0; i < queries_; ++i) {
      int32_t& row = row_of[group(i)];
      if (row == -1) {
        row = static_cast<int32_t>(rows.size() / keys_);
        for (size_t j = 0; j < keys_; ++j) rows.push_back(group(j) == group(i) ? -1 : 0);
      }
      windows_.back().push_back(row);
    }
  }
  if (rows.empty()) return true;
  if (!visible_.allocate(rows.size())) return false;
  std::copy(rows.begin(), rows.end(), visible_.data());
  return true;
}

ScoreBias OwnedSoftmax::head_bias(size_t head, Range queries, uint8_t* scratch) const {
  const ScoreBias all = bias();
  if (!all) return all;
  const size_t own = head % view_.bias_heads;
  if (!runs_) return all.from(own * queries_ * keys_);
  const ScoreBias stored = all.from(own * runs_.stored());
  if (is_narrow()) {
    int16_t* rows = reinterpret_cast<int16_t*>(scratch + mask_bytes());
    runs_.write(stored.narrow, queries, rows);
    return {rows, bias_shift_};
  }
  int32_t* rows = reinterpret_cast<int32_t*>(scratch + mask_bytes());
  runs_.write(stored.wide, queries, rows);
  return rows;
}

SoftmaxParameters OwnedSoftmax::for_window(size_t head, ScoreBias bias, Range queries, uint8_t* scratch) const {
  SoftmaxParameters parameters = view_;
  parameters.bias = bias;
  parameters.bias_heads = 1;
  if (visible_.size() == 0) return parameters;
  const std::vector<int32_t>& rows = windows_[head / heads_ % windows_.size()];
  if (rows.empty()) return parameters;
  int32_t* output = reinterpret_cast<int32_t*>(scratch);
  if (bias.narrow != nullptr) {
    write_bias(
        rows.data(), [narrow = bias.narrow, power = 1 << bias.shift](size_t i) { return narrow[i] * power; }, queries,
        output);
  } else if (bias.wide != nullptr) {
    write_bias(rows.data(), [wide = bias.wide](size_t i) { return wide[i]; }, queries, output);
  } else {
    write_bias(rows.data(), [](size_t) { return 0; }, queries, output);
  }
  parameters.bias = output;
  return parameters;
}

// added(pair) is the bias.
template <typename Added>
void OwnedSoftmax::write_bias(const int32_t* rows, const Added& added, Range queries, int32_t* output) const {
  for (size_t i = queries.begin; i < queries.end; ++i) {
    const int32_t* visible = visible_.data() + static_cast<size_t>(rows[i]) * keys_;
    int32_t* row = output + i * keys_;
    const size_t first = i * keys_;
    for (size_t j = 0; j < keys_; ++j) row[j] = (added(first + j) & visible[j]) | (kMask & ~visible[j]);
  }
}

}  // namespace packqvit
