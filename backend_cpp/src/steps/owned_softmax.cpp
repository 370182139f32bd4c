#include "src/steps/owned_softmax.h"

#include <algorithm>
#include <iterator>

namespace packqvit {
namespace {

// Below all scores, with any bias: docs/numerics.md, softmax.
constexpr int32_t kMask = -(1 << 29);

}  // namespace

bool OwnedSoftmax::init_bias(const CheckedPlan& plan, int32_t constant, unsigned shift, int32_t index) {
  if (constant == -1) return true;
  const Constant& bias = plan.constant(constant);
  const auto code = [&](size_t i) {
    return bias.type == plan::DataType::Int32 ? bias.get<int32_t>(i) : bias.get<int16_t>(i) * (1 << shift);
  };
  view_.bias_heads = bias.shape[0];
  const size_t pairs = queries_ * keys_;
  if (!bias_.allocate(view_.bias_heads * pairs)) return false;
  if (index == -1) {
    for (size_t i = 0; i < bias.size(); ++i) bias_.data()[i] = code(i);
    return true;
  }
  const Constant& columns = plan.constant(index);
  for (size_t pair = 0; pair < pairs; ++pair) {
    const size_t column = columns.type == plan::DataType::UInt8 ? columns.get<uint8_t>(pair)
                                                                : static_cast<size_t>(columns.get<int16_t>(pair));
    for (size_t head = 0; head < view_.bias_heads; ++head) {
      bias_.data()[head * pairs + pair] = code(head * bias.shape[1] + column);
    }
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

SoftmaxParameters OwnedSoftmax::for_head(size_t head, Range queries, void* scratch) const {
  SoftmaxParameters parameters = view_;
  const int32_t* bias = bias_.data() != nullptr ? bias_.data() + head % view_.bias_heads * queries_ * keys_ : nullptr;
  parameters.bias = bias;
  parameters.bias_heads = 1;
  if (!has_masks()) return parameters;
  const std::vector<int32_t>& rows = windows_[head / heads_ % windows_.size()];
  if (rows.empty()) return parameters;
  int32_t* output = static_cast<int32_t*>(scratch);
  write_bias(rows.data(), bias, queries, output);
  parameters.bias = output;
  return parameters;
}

void OwnedSoftmax::write_bias(const int32_t* rows, const int32_t* bias, Range queries, int32_t* output) const {
  for (size_t i = queries.begin; i < queries.end; ++i) {
    const int32_t* visible = visible_.data() + static_cast<size_t>(rows[i]) * keys_;
    int32_t* row = output + i * keys_;
    if (bias == nullptr) {
      for (size_t j = 0; j < keys_; ++j) row[j] = kMask & ~visible[j];
    } else {
      const int32_t* added = bias + i * keys_;
      for (size_t j = 0; j < keys_; ++j) row[j] = (added[j] & visible[j]) | (kMask & ~visible[j]);
    }
  }
}

}  // namespace packqvit
