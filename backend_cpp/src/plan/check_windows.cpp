#include "src/plan/check_windows.h"

#include <cinttypes>

namespace packqvit {

using plan::DataType;

bool check_groups(const NodeChecker& checker, int32_t index, const Shape& scores) {
  const Constant* groups = checker.find_constant(index, "groups");
  if (groups == nullptr) return false;
  const size_t windows = groups->shape[0];
  if (scores[0] % windows != 0) {
    return checker.fail("groups are those of %zu windows, which do not divide %zu", windows, scores[0]);
  }
  if (scores[2] != scores[3]) {
    return checker.fail("groups need as many queries as keys, there are %zu and %zu", scores[2], scores[3]);
  }
  return checker.constant(index, "groups", DataType::UInt8, {windows, scores[3]}) != nullptr;
}

bool check_permutation(const NodeChecker& checker, int32_t index, size_t count) {
  const Constant* rows = checker.find_constant(index, "rows");
  if (rows == nullptr) return false;
  const size_t size = rows->shape[0];
  if (count % size != 0) return checker.fail("groups of %zu rows do not divide %zu", size, count);
  if (checker.constant(index, "rows", DataType::Int32, {size}) == nullptr) return false;
  std::vector<bool> taken(size);
  for (size_t i = 0; i < size; ++i) {
    const int32_t row = rows->get<int32_t>(i);
    if (row < 0 || static_cast<size_t>(row) >= size || taken[static_cast<size_t>(row)]) {
      return checker.fail("rows[%zu] = %" PRId32 " is no row of %zu, or taken", i, row, size);
    }
    taken[static_cast<size_t>(row)] = true;
  }
  return true;
}

bool check_sources(const NodeChecker& checker, int32_t index, const Value& x, size_t count, size_t channels) {
  const Constant* rows = checker.find_constant(index, "rows");
  if (rows == nullptr) return false;
  const size_t size = rows->shape[0];
  const size_t parts = channels / x.last();
  if (parts * x.last() != channels) {
    return checker.fail("rows of %zu channels are not made of rows of %zu", channels, x.last());
  }
  if (checker.constant(index, "rows", DataType::Int32, {size, parts}) == nullptr) return false;
  const size_t x_rows = x.size() / x.last();
  if (count % size != 0 || x_rows % (count / size) != 0) {
    return checker.fail("groups of %zu rows do not divide %zu rows made of %zu", size, count, x_rows);
  }
  const size_t available = x_rows / (count / size);
  for (size_t i = 0; i < rows->size(); ++i) {
    const int32_t row = rows->get<int32_t>(i);
    if (static_cast<uint32_t>(row) != kNoToken && (row < 0 || static_cast<size_t>(row) >= available)) {
      return checker.fail("rows[%zu] = %" PRId32 ", x has %zu rows in a group", i, row, available);
    }
  }
  return true;
}

}  // namespace packqvit
