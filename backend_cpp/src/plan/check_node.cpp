#include "src/plan/check_node.h"

#include <executorch/runtime/platform/log.h>

#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "kernels/packed_weights.h"

namespace packqvit {

using executorch::runtime::Error;

bool NodeChecker::fail(const char* format, ...) const {
  char reason[160];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(reason, sizeof(reason), format, arguments);
  va_end(arguments);
  ET_LOG(Error, "packqvit: node %zu '%.48s' (%s): %s", index_, node_.name() != nullptr ? node_.name()->c_str() : "",
         plan::EnumNameOperator(node_.op_type()), reason);
  return false;
}

const Value* NodeChecker::read(int64_t index, const char* what) {
  if (index < 0 || static_cast<size_t>(index) >= values_.size()) {
    fail("%s: there is no value %" PRId64, what, index);
    return nullptr;
  }
  use.reads.push_back(static_cast<size_t>(index));
  return &values_[static_cast<size_t>(index)];
}

const Value* NodeChecker::write(int64_t index) {
  if (index < 0 || static_cast<size_t>(index) >= values_.size()) {
    fail("output: there is no value %" PRId64, index);
    return nullptr;
  }
  use.write = static_cast<size_t>(index);
  return &values_[use.write];
}

bool NodeChecker::has_type(const Value& value, const char* what, std::initializer_list<plan::DataType> types) const {
  if (std::find(types.begin(), types.end(), value.type) != types.end()) return true;
  return fail("%s '%.48s' has the type %s", what, value.name, plan::EnumNameDataType(value.type));
}

bool NodeChecker::has_rank(const Value& value, const char* what, size_t rank) const {
  return value.shape.size() == rank ||
         fail("%s '%.48s' has the shape %s, needs %zu axes", what, value.name, to_string(value.shape).c_str(), rank);
}

bool NodeChecker::has_shape(const Value& value, const char* what, const Shape& shape) const {
  return value.shape == shape || fail("%s '%.48s' has the shape %s, needs %s", what, value.name,
                                      to_string(value.shape).c_str(), to_string(shape).c_str());
}

bool NodeChecker::has_rows(const Value& value, const char* what, size_t rows, size_t columns) const {
  return (value.last() == columns && value.size() == rows * columns) ||
         fail("%s '%.48s' has the shape %s, needs %zu rows of %zu", what, value.name, to_string(value.shape).c_str(),
              rows, columns);
}

bool NodeChecker::has_size(const Value& value, const char* what, size_t size) const {
  return value.size() == size || fail("%s '%.48s' has the shape %s, needs %zu elements", what, value.name,
                                      to_string(value.shape).c_str(), size);
}

const Constant* NodeChecker::find_constant(int32_t index, const char* what) const {
  if (index < 0 || static_cast<size_t>(index) >= constants_.size()) {
    fail("%s: there is no constant %" PRId32, what, index);
    return nullptr;
  }
  const Error error = constants_.load(static_cast<size_t>(index));
  if (error != Error::Ok) {
    error_ = error;
    return nullptr;
  }
  return &constants_[static_cast<size_t>(index)];
}

const Constant* NodeChecker::constant(int32_t index, const char* what, plan::DataType type, const Shape& shape) const {
  const Constant* constant = find_constant(index, what);
  if (constant == nullptr) return nullptr;
  if (constant->type != type || constant->encoding != plan::Encoding::Dense || constant->shape != shape) {
    fail("%s is %s %s, needs dense %s %s", what, plan::EnumNameDataType(constant->type),
         to_string(constant->shape).c_str(), plan::EnumNameDataType(type), to_string(shape).c_str());
    return nullptr;
  }
  return constant;
}

const Constant* NodeChecker::channel_floats(int32_t index, const char* what, size_t channels) const {
  const Constant* found = find_constant(index, what);
  if (found == nullptr) return nullptr;
  return constant(index, what, plan::DataType::Float32, {found->shape == Shape{1} ? 1 : channels});
}

const Constant* NodeChecker::axis_floats(int32_t index, const char* what, const Value& value, size_t axis) const {
  const Constant* found = find_constant(index, what);
  if (found == nullptr) return nullptr;
  Shape expected{1};
  if (found->shape != expected) {
    const size_t begin = std::min(axis, value.shape.size());
    const size_t count = std::clamp<size_t>(found->shape.size(), 1, std::max<size_t>(value.shape.size() - begin, 1));
    expected.assign(count, 1);
    for (size_t i = begin; i < std::min(begin + count, value.shape.size()); ++i) expected[i - begin] = value.shape[i];
  }
  return constant(index, what, plan::DataType::Float32, expected);
}

bool NodeChecker::bounded(int32_t index, const char* what, const Shape& shape, int64_t limit) const {
  const Constant* bias = constant(index, what, plan::DataType::Int32, shape);
  if (bias == nullptr) return false;
  for (size_t i = 0; i < bias->size(); ++i) {
    const int64_t element = bias->get<int32_t>(i);
    if (element < -limit || element > limit) {
      return fail("%s[%zu] = %" PRId64 " is beyond %" PRId64, what, i, element, limit);
    }
  }
  return true;
}

bool NodeChecker::bias(int32_t index, int64_t limit, std::vector<uint64_t>& bound) const {
  if (!bounded(index, "bias", {bound.size()}, limit)) return false;
  const Constant& bias = constants_[static_cast<size_t>(index)];
  for (size_t c = 0; c < bound.size(); ++c) bound[c] += static_cast<uint64_t>(std::abs(int64_t{bias.get<int32_t>(c)}));
  return true;
}

bool NodeChecker::weight(int32_t index, size_t rows, size_t columns, std::vector<uint64_t>& bound) const {
  const Constant* constant = find_constant(index, "weight");
  if (constant == nullptr) return false;
  if (constant->type != plan::DataType::Int8 || constant->shape != Shape{rows, columns}) {
    return fail("weight is %s %s, needs Int8 [%zu, %zu]", plan::EnumNameDataType(constant->type),
                to_string(constant->shape).c_str(), rows, columns);
  }
  const bool nibbles = constant->encoding == plan::Encoding::Nibbles;
  const int8_t lowest = nibbles ? -8 : -128;  // the one code that the symmetric grid does not have
  const WeightView view{constant->data, rows, columns, nibbles ? 4u : 8u};
  std::vector<int8_t> codes(columns);
  for (size_t row = 0; row < rows; ++row) {
    view.read_row(row, codes.data());
    if (const auto found = std::find(codes.begin(), codes.end(), lowest); found != codes.end()) {
      return fail("weight[%zu, %zu] = %d is outside of [%d, %d]", row, static_cast<size_t>(found - codes.begin()),
                  lowest, lowest + 1, -(lowest + 1));
    }
    uint32_t sum = 0;
    for (const int8_t code : codes) sum += static_cast<uint32_t>(std::abs(int{code}));
    bound[row] += uint64_t{sum} * 128;
  }
  return true;
}

bool NodeChecker::requantizer(const plan::Requantizer* requantizer, size_t channels, uint64_t bound) const {
  if (requantizer == nullptr) return fail("the requantizer is missing");
  const Constant* multiplier = constant(requantizer->multiplier(), "multiplier", plan::DataType::Int16, {channels});
  const Constant* shift = constant(requantizer->shift(), "shift", plan::DataType::UInt8, {channels});
  if (multiplier == nullptr || shift == nullptr) return false;
  for (size_t c = 0; c < channels; ++c) {
    const int m = multiplier->get<int16_t>(c);
    if (m != 0 && m < 1 << 14) return fail("multiplier[%zu] = %d is neither 0 nor in [16384, 32767]", c, m);
    if (shift->get<uint8_t>(c) > 30) return fail("shift[%zu] = %d is above 30", c, shift->get<uint8_t>(c));
  }
  const unsigned left_shift = requantizer->left_shift();
  if (!at_most("left_shift", left_shift, 15) || !at_most("fraction_bits", requantizer->fraction_bits(), 6))
    return false;
  return left_shift == 0 || bound << left_shift <= uint64_t{1} << 30 ||
         fail("accumulators up to %" PRIu64 " have no room for a left_shift of %u", bound, left_shift);
}

bool NodeChecker::range(const char* what, int64_t qmin, int64_t qmax, plan::DataType type) const {
  return (qmin <= qmax && qmin >= type_minimum(type) && qmax <= type_maximum(type)) ||
         fail("%s: [%" PRId64 ", %" PRId64 "] is no range of %s codes", what, qmin, qmax, plan::EnumNameDataType(type));
}

bool NodeChecker::zero_point(int64_t zero_point, plan::DataType type) const {
  return (zero_point >= type_minimum(type) && zero_point <= type_maximum(type)) ||
         fail("zero_point %" PRId64 " is no %s code", zero_point, plan::EnumNameDataType(type));
}

bool NodeChecker::at_most(const char* what, uint64_t number, uint64_t limit) const {
  return number <= limit || fail("%s is %" PRIu64 ", at most %" PRIu64 " is supported", what, number, limit);
}

plan::DataType code_type(int64_t qmin, int64_t qmax) {
  return qmin >= INT8_MIN && qmax <= INT8_MAX ? plan::DataType::Int8 : plan::DataType::Int16;
}

}  // namespace packqvit
