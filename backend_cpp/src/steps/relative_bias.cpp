#include "src/steps/relative_bias.h"

#include <algorithm>
#include <cstring>

namespace packqvit {
namespace {

// Rows of queries at a time: keys and values are prepared anew for each block, which is little beside 128 queries.
constexpr size_t kBlockBytes = 512 * 1024;
constexpr size_t kLeastBlock = 128;

}  // namespace

bool RelativeBias::init(const CheckedPlan& plan, const plan::RelativeBias& op, const KernelTier& tier,
                        const AttentionShape& shape) {
  const Constant& numbers = plan.constant(op.numbers());
  tier_ = &tier;
  number_heads_ = numbers.shape[0];
  heads_ = shape.heads;
  head_size_ = shape.head_size;
  rows_ = op.rows();
  columns_ = op.columns();
  distances_ = numbers.shape[1];
  block_ = std::min(shape.queries, std::max(kLeastBlock, kBlockBytes / (shape.keys * sizeof(int32_t))));
  multiplier_ = op.multiplier();
  shift_ = op.shift();
  return numbers.copy_to(numbers_, numbers.size());
}

size_t RelativeBias::rows_offset() const {
  return round_up(tier_->attention_part_scratch(products_shape()), kAlignment) +
         round_up(block_ * distances_ * sizeof(int32_t), kAlignment);
}

size_t RelativeBias::scratch_bytes() const { return rows_offset() + round_up(block_ * head_size_, kAlignment); }

void RelativeBias::write(const int8_t* q, size_t head, Range queries, const ScoreBias& added, int32_t* output,
                         void* scratch) const {
  const size_t count = queries.end - queries.begin;
  const size_t keys = rows_ * columns_;
  int8_t* rows = static_cast<int8_t*>(scratch) + rows_offset();
  int32_t* products = reinterpret_cast<int32_t*>(static_cast<uint8_t*>(scratch) +
                                                 round_up(tier_->attention_part_scratch(products_shape()), kAlignment));
  const size_t stride = heads_ * head_size_;
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(rows + i * head_size_, q + (queries.begin + i) * stride + head * head_size_, head_size_);
  }
  const int8_t* numbers = numbers_.data() + head % number_heads_ * distances_ * head_size_;
  tier_->attention_scores({{1, count, distances_, head_size_}, rows, numbers, products}, 0, {0, count}, scratch);
  for (size_t i = 0; i < count; ++i) {
    const size_t query = queries.begin + i;
    const ScoreBias row = added.from(query * keys);
    int32_t* const products_row = products + i * distances_;
    int32_t* const out = output + i * keys;
    if (row.narrow != nullptr) {
      write_row(
          products_row, query, [narrow = row.narrow, power = 1 << row.shift](size_t j) { return narrow[j] * power; },
          out);
    } else if (row.wide != nullptr) {
      write_row(products_row, query, [wide = row.wide](size_t j) { return wide[j]; }, out);
    } else {
      write_row(products_row, query, [](size_t) { return 0; }, out);
    }
  }
}

int32_t RelativeBias::lift(int32_t product) const {
  const int64_t half = shift_ > 0 ? int64_t{1} << (shift_ - 1) : 0;
  return static_cast<int32_t>((int64_t{product} * multiplier_ + half) >> shift_);
}

template <typename Added>
void RelativeBias::write_row(int32_t* products, size_t query, const Added& added, int32_t* __restrict output) const {
  const int32_t* by_row = products + rows_ - 1 - query / columns_;
  int32_t* by_column = products + 2 * rows_ - 1 + columns_ - 1 - query % columns_;
  const size_t columns = columns_;
  for (size_t c = 0; c < columns; ++c) by_column[c] = lift(by_column[c]);
  for (size_t r = 0; r < rows_; ++r) {
    const int32_t row = lift(by_row[r]);
    int32_t* const out = output + r * columns;
    for (size_t c = 0; c < columns; ++c) {  // scores beyond the contract wrap around
      out[c] = static_cast<int32_t>(static_cast<uint32_t>(row + by_column[c]) +
                                    static_cast<uint32_t>(added(r * columns + c)));
    }
  }
}

}  // namespace packqvit
