#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/aligned_array.h"
#include "src/plan/check.h"
#include "src/plan/plan.h"

namespace packqvit {

// Which rows of an input make each row of an operator that could also read it row by row: LayerNorm.rows of the plan.
// Without one, each row is made of its own.
class RowMap {
 public:
  // x: rows of `row_bytes` bytes. rows: constant int32 [M, k], or -1. groups: of M output rows.
  void init(const CheckedPlan& plan, int32_t rows, size_t row_bytes, size_t x_rows, size_t output_rows) {
    row_bytes_ = row_bytes;
    if (rows == -1) return;
    const Constant& constant = plan.constant(rows);
    parts_ = constant.shape[1];
    size_ = constant.shape[0];
    group_bytes_ = x_rows / (output_rows / size_) * row_bytes;
    sources_.reserve(constant.size());
    for (size_t i = 0; i < constant.size(); ++i) sources_.push_back(static_cast<uint32_t>(constant.get<int32_t>(i)));
  }

  bool moves() const { return size_ != 0; }

  // Memory for some rows that are gathered: they stay in L1.
  size_t tile_bytes() const { return moves() ? round_up(tile_rows() * parts_ * row_bytes_, kAlignment) : 0; }

  // Calls work(first row, rows, data) for output rows [begin, end), in order: data are their rows of x side by side,
  // where x has them so or else gathered in `tile`.
  template <typename Work>
  void for_each_run(const void* x, size_t begin, size_t end, void* tile, const Work& work) const {
    const uint8_t* bytes = static_cast<const uint8_t*>(x);
    if (!moves()) return work(begin, end - begin, bytes + begin * row_bytes_);
    uint8_t* gathered = static_cast<uint8_t*>(tile);
    for (size_t row = begin; row < end;) {
      const size_t in_place = run_length(row, end);
      if (in_place > 0) {
        work(row, in_place, source(bytes, row, 0));
        row += in_place;
        continue;
      }
      size_t count = 0;
      for (; count < tile_rows() && row + count < end && !is_whole(row + count); ++count) {
        gather(bytes, row + count, gathered + count * parts_ * row_bytes_);
      }
      work(row, count, gathered);
      row += count;
    }
  }

 private:
  static constexpr size_t kTileBytes = 8192;

  size_t tile_rows() const { return std::max<size_t>(1, kTileBytes / (parts_ * row_bytes_)); }

  const uint8_t* source(const uint8_t* x, size_t row, size_t part) const {
    return x + row / size_ * group_bytes_ + sources_[row % size_ * parts_ + part] * row_bytes_;
  }

  void gather(const uint8_t* x, size_t row, uint8_t* output) const {
    for (size_t part = 0; part < parts_; ++part, output += row_bytes_) {
      if (sources_[row % size_ * parts_ + part] == kNoToken) {
        std::memset(output, 0, row_bytes_);
      } else {
        std::memcpy(output, source(x, row, part), row_bytes_);
      }
    }
  }

  // Whether the parts of a row lie side by side in x.
  bool is_whole(size_t row) const {
    const uint32_t* parts = sources_.data() + row % size_ * parts_;
    bool whole = parts[0] != kNoToken && parts[parts_ - 1] != kNoToken;
    for (size_t part = 1; part < parts_; ++part) whole = whole && parts[part] == parts[part - 1] + 1;
    return whole;
  }

  // How many rows of x follow each other from this one on, in one group; 0: its parts do not. Found anew in each run:
  // that takes less time than the rows do, and no memory.
  size_t run_length(size_t row, size_t end) const {
    const size_t rows = std::min(end - row, size_ - row % size_);
    const uint32_t* parts = sources_.data() + row % size_ * parts_;
    size_t count = 0;
    while (count < rows && is_whole(row + count) &&
           (count == 0 || parts[count * parts_] == parts[count * parts_ - 1] + 1))
      ++count;
    return count;
  }

  size_t row_bytes_ = 0;
  size_t group_bytes_ = 0;
  size_t size_ = 0;   // M
  size_t parts_ = 1;  // k
  std::vector<uint32_t> sources_;
};

}  // namespace packqvit
