#pragma once

#include <cstring>
#include <vector>

#include "kernels/aligned_array.h"
#include "kernels/tier.h"
#include "src/plan/plan.h"

namespace packqvit {

// Where a matrix that is made of few numbers finds them, as a bias of relative positions does. They are in an order in
// which those of neighbouring keys stand side by side: a row of a window is one run, which a copy of some bytes writes.
class IndexRuns {
 public:
  // index: constant uint8 or int16 [rows, columns], of [0, count).
  void init(const Constant& index, size_t rows, size_t columns, size_t count) {
    rows_ = rows;
    columns_ = columns;
    count_ = count;
    for (size_t pair = 0; pair < rows * columns; ++pair) {
      const size_t number = index.type == plan::DataType::UInt8 ? index.get<uint8_t>(pair)
                                                                : static_cast<size_t>(index.get<int16_t>(pair));
      const bool begins = pair % columns == 0;
      if (begins) first_.push_back(static_cast<uint32_t>(runs_.size()));
      if (!begins && number == size_t{runs_.back().number} + runs_.back().length) {
        ++runs_.back().length;
      } else {
        runs_.push_back({static_cast<uint16_t>(number), 1});
      }
    }
    first_.push_back(static_cast<uint32_t>(runs_.size()));
    runs_.shrink_to_fit();
  }

  explicit operator bool() const { return !runs_.empty(); }

  // Whether the runs take less time than the numbers would take to load.
  bool pays() const { return runs_.size() * kLeastLength <= rows_ * columns_; }

  // How many numbers write() reads: those behind the last of [0, count) are not used.
  size_t stored() const { return count_ + kCopied; }
  // How many numbers write() writes to at most.
  size_t written() const { return rows_ * columns_ + kCopied; }

  // Writes some rows of [rows, columns] where they are in the whole matrix `out`.
  template <typename T>
  void write(const T* numbers, Range rows, T* out) const {
    T* to = out + rows.begin * columns_;
    const Run* end = runs_.data() + first_[rows.end];
    for (const Run* run = runs_.data() + first_[rows.begin]; run < end; ++run) {
      const size_t length = run->length;
      const T* from = numbers + run->number;
      for (size_t k = 0; k < length; k += kCopied) std::memcpy(to + k, from + k, kCopied * sizeof(T));
      to += length;
    }
  }

 private:
  static constexpr size_t kCopied = 8;       // a copy of constant size is one instruction or two
  static constexpr size_t kLeastLength = 4;  // of a run, on average

  struct Run {
    uint16_t number;
    uint16_t length;
  };

  size_t rows_ = 0;
  size_t columns_ = 0;
  size_t count_ = 0;
  std::vector<Run> runs_;
  std::vector<uint32_t> first_;  // of each row, and the end
};

}  // namespace packqvit
