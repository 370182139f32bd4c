#pragma once

#include <executorch/runtime/core/freeable_buffer.h>
#include <executorch/runtime/core/named_data_map.h>

#include <cstring>
#include <optional>
#include <vector>

#include "kernels/aligned_array.h"
#include "src/plan/value.h"

namespace packqvit {

// Constant data of a plan, inside its segment. The data may have any alignment.
struct Constant {
  plan::DataType type;
  plan::Encoding encoding;
  Shape shape;
  size_t segment;
  size_t offset;        // bytes, into the segment
  const uint8_t* data;  // nullptr while the segment is not loaded

  size_t size() const { return element_count(shape); }

  // Element `index` of a dense constant of type T.
  template <typename T>
  T get(size_t index) const {
    T value;
    std::memcpy(&value, data + index * sizeof(T), sizeof(T));
    return value;
  }

  // Copies a dense constant of type T, zero up to `padded_size`. False when there is no memory.
  template <typename T>
  [[nodiscard]] bool copy_to(AlignedArray<T>& out, size_t padded_size) const {
    if (!out.allocate(padded_size)) return false;
    std::memcpy(out.data(), data, size() * sizeof(T));
    return true;
  }
};

// The plan's constants. Their segments are loaded when they are asked for, so that of the large ones, which have a
// segment each, few are in memory at a time.
class ConstantStore {
 public:
  // Checks that each constant lies inside of its segment. `plan` and `data` must outlive the store.
  executorch::runtime::Error open(const plan::Plan& plan, const executorch::runtime::NamedDataMap* data);

  size_t size() const { return constants_.size(); }
  const Constant& operator[](size_t index) const { return constants_[index]; }

  // Fetches the constant's segment, if it is not there, and checks its size and checksum.
  executorch::runtime::Error load(size_t index);

  // Frees the segments that hold one constant alone: whoever needs it again loads it again.
  void free_large();

 private:
  struct Segment {
    std::vector<size_t> constants;  // in it
    std::optional<executorch::runtime::FreeableBuffer> buffer;
  };

  executorch::runtime::Error add(const plan::Constant& stored, size_t index);

  const plan::Plan* plan_ = nullptr;
  const executorch::runtime::NamedDataMap* data_ = nullptr;
  std::vector<Segment> segments_;
  std::vector<Constant> constants_;
};

}  // namespace packqvit
