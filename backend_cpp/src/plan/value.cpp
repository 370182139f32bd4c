#include "src/plan/value.h"

#include <limits>

namespace packqvit {

size_t element_size(plan::DataType type) {
  switch (type) {
    case plan::DataType::Int8:
    case plan::DataType::UInt8:
      return 1;
    case plan::DataType::Int16:
      return 2;
    case plan::DataType::Int32:
    case plan::DataType::Float32:
      return 4;
  }
  return 0;
}

int64_t type_minimum(plan::DataType type) {
  switch (type) {
    case plan::DataType::Int8:
      return INT8_MIN;
    case plan::DataType::Int16:
      return INT16_MIN;
    case plan::DataType::Int32:
      return INT32_MIN;
    case plan::DataType::UInt8:
    case plan::DataType::Float32:
      break;
  }
  return 0;
}

int64_t type_maximum(plan::DataType type) {
  return type == plan::DataType::UInt8 ? UINT8_MAX : -(type_minimum(type) + 1);
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

bool read_shape(const flatbuffers::Vector<uint32_t>* dimensions, Shape& shape) {
  if (dimensions == nullptr || dimensions->size() < 1 || dimensions->size() > kMaxRank) return false;
  uint64_t elements = 1;
  shape.clear();
  for (const uint32_t dimension : *dimensions) {
    // Both factors are below 2^32, so that the product does not wrap.
    elements *= dimension;
    if (dimension == 0 || elements > kMaxBytes) return false;
    shape.push_back(dimension);
  }
  return true;
}

size_t element_count(const Shape& shape) {
  size_t elements = 1;
  for (const size_t dimension : shape) elements *= dimension;
  return elements;
}

}  // namespace packqvit
