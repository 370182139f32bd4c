#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "src/plan/check.h"

namespace packqvit {

// Checks the operands of one node. Whatever does not hold is logged with the node's name, and the function that noticed
// returns false or nullptr.
class NodeChecker {
 public:
  // `writers`: of each value the node before this one that writes it, or nullptr.
  NodeChecker(const plan::Node& node, size_t index, ConstantStore& constants, const std::vector<Value>& values,
              const std::vector<const plan::Node*>& writers)
      : node_(node), index_(index), constants_(constants), values_(values), writers_(writers) {}

  // Logs the reason and returns false.
  __attribute__((format(printf, 2, 3))) bool fail(const char* format, ...) const;

  // The value with this index, noted as read or written by the node; nullptr when there is none.
  const Value* read(int64_t index, const char* what);
  const Value* write(int64_t index);

  // The node before this one that writes a value, which there is; nullptr for an input.
  const plan::Node* writer(uint32_t value) const { return writers_[value]; }

  bool has_type(const Value& value, const char* what, std::initializer_list<plan::DataType> types) const;
  bool has_rank(const Value& value, const char* what, size_t rank) const;
  bool has_shape(const Value& value, const char* what, const Shape& shape) const;

  // The same up to views, which share a value: what treats rows alone does not look at the axes before the last, and
  // what treats elements alone at no axis.
  bool has_rows(const Value& value, const char* what, size_t rows, size_t columns) const;
  bool has_size(const Value& value, const char* what, size_t size) const;

  // Any constant, loaded; nullptr when there is none with this index, or its data are not good.
  const Constant* find_constant(int32_t index, const char* what) const;

  // The required dense constant of this type and shape; nullptr when it is absent or something else.
  const Constant* constant(int32_t index, const char* what, plan::DataType type, const Shape& shape) const;

  // A float32 vector of one or of `channels` elements.
  const Constant* channel_floats(int32_t index, const char* what, size_t channels) const;

  // One float32, or one for each place along some axes of a value, from `axis` on.
  const Constant* axis_floats(int32_t index, const char* what, const Value& value, size_t axis) const;

  // An int32 constant with every |element| <= limit.
  bool bounded(int32_t index, const char* what, const Shape& shape, int64_t limit) const;

  // The same of a bias with one element for each of `bound`, which it raises by |element|.
  bool bias(int32_t index, int64_t limit, std::vector<uint64_t>& bound) const;

  // An int8 weight [rows, columns], dense within [-127, 127] or nibbles within [-7, 7]. Raises bound[row] by the
  // largest sum of |weights| times |int8 codes|.
  bool weight(int32_t index, size_t rows, size_t columns, std::vector<uint64_t>& bound) const;

  // Multipliers, shifts and fraction bits of `channels` channels, for accumulators of magnitude <= bound.
  bool requantizer(const plan::Requantizer* requantizer, size_t channels, uint64_t bound) const;

  // A zero point and a range within the output's type.
  bool range(const char* what, int64_t qmin, int64_t qmax, plan::DataType type) const;
  bool zero_point(int64_t zero_point, plan::DataType type) const;

  bool at_most(const char* what, uint64_t number, uint64_t limit) const;

  // Of a node that does not hold: InvalidProgram, or why a constant could not be loaded.
  executorch::runtime::Error error() const { return error_; }

  NodeUse use;

 private:
  const plan::Node& node_;
  size_t index_;
  ConstantStore& constants_;
  mutable executorch::runtime::Error error_ = executorch::runtime::Error::InvalidProgram;
  const std::vector<Value>& values_;
  const std::vector<const plan::Node*>& writers_;
};

// int8 when [qmin, qmax] fits into it, else int16.
plan::DataType code_type(int64_t qmin, int64_t qmax);

}  // namespace packqvit
