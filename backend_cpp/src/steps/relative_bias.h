#pragma once

#include "kernels/tier.h"
#include "src/plan/plan.h"

namespace packqvit {

// What the queries of an attention add to its scores, by how many rows and columns of a map a key is away
// (docs/numerics.md, add_relative_bias).
class RelativeBias {
 public:
  // `shape`: of the attention. False when there is no memory.
  [[nodiscard]] bool init(const CheckedPlan& plan, const plan::RelativeBias& op, const KernelTier& tier,
                          const AttentionShape& shape);

  explicit operator bool() const { return tier_ != nullptr; }

  // The most queries that write() takes: their rows are to stay in cache.
  size_t block() const { return block_; }

  // What write() needs beside its output.
  size_t scratch_bytes() const;

  // Writes `added` [queries, keys] and the relative positions of some queries of a head.
  //
  // q: of the image, [queries, channels]. output: [queries.end - queries.begin, keys].
  void write(const int8_t* q, size_t head, Range queries, const ScoreBias& added, int32_t* output, void* scratch) const;

 private:
  // Of products of queries with all distances.
  AttentionShape products_shape() const { return {1, block_, distances_, head_size_}; }
  size_t rows_offset() const;

  int32_t lift(int32_t product) const;

  // Of the row of a query.
  template <typename Added>
  void write_row(int32_t* products, size_t query, const Added& added, int32_t* __restrict output) const;

  const KernelTier* tier_ = nullptr;
  AlignedArray<int8_t> numbers_;  // [1 or heads, distances, head_size]
  size_t number_heads_ = 0;
  size_t heads_ = 0;
  size_t head_size_ = 0;
  size_t rows_ = 0;
  size_t columns_ = 0;
  size_t distances_ = 0;
  size_t block_ = 0;
  int32_t multiplier_ = 0;
  unsigned shift_ = 0;
};

}  // namespace packqvit
