#pragma once

#include <executorch/runtime/core/freeable_buffer.h>
#include <executorch/runtime/core/named_data_map.h>

#include <cstring>
#include <vector>

#include "kernels/aligned_array.h"
#include "src/plan/value.h"

namespace packqvit {

// Constant data of a plan, inside its segment. The data may have any alignment.
struct Constant {
  plan::DataType type;
  plan::Encoding encoding;
  Shape shape;
  const uint8_t* data;

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

// The plan's segments, held while a delegate loads, and the constants in them.
class ConstantStore {
 public:
  // Fetches every segment and checks its size and checksum, and that each constant lies inside of its segment.
  executorch::runtime::Error load(const plan::Plan& plan, const executorch::runtime::NamedDataMap* data);

  size_t size() const { return constants_.size(); }
  const Constant& operator[](size_t index) const { return constants_[index]; }

 private:
  executorch::runtime::Error load_segments(const plan::Plan& plan, const executorch::runtime::NamedDataMap* data);

  std::vector<executorch::runtime::FreeableBuffer> segments_;
  std::vector<Constant> constants_;
};

}  // namespace packqvit
