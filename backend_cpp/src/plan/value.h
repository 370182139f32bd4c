#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "schema_generated.h"

namespace packqvit {

using Shape = std::vector<size_t>;

inline constexpr size_t kMaxRank = 8;
inline constexpr size_t kMaxBytes = size_t{1} << 31;  // of one value, one constant, or the arena

// Bytes of one element; 0 for a type that this build does not know.
size_t element_size(plan::DataType type);

// The smallest code of an integer type.
int64_t type_minimum(plan::DataType type);
int64_t type_maximum(plan::DataType type);

// "[1, 197, 192]".
std::string to_string(const Shape& shape);

// Converts a plan's shape: 1 to kMaxRank dimensions, none zero, at most kMaxBytes elements. False otherwise.
bool read_shape(const flatbuffers::Vector<uint32_t>* dimensions, Shape& shape);

size_t element_count(const Shape& shape);

// An activation of a checked plan.
struct Value {
  plan::DataType type;
  Shape shape;
  plan::Storage storage;
  size_t location;
  const char* name;

  size_t size() const { return element_count(shape); }
  size_t bytes() const { return size() * element_size(type); }
  size_t dim(size_t axis) const { return shape[axis]; }
  size_t last() const { return shape.back(); }
};

}  // namespace packqvit
