#include "src/plan/check_relative.h"

#include <algorithm>
#include <cinttypes>
#include <cstdlib>

namespace packqvit {

using plan::DataType;

namespace {

// Of what a query adds for a distance: docs/numerics.md, "Why nothing overflows".
constexpr int64_t kMost = int64_t{1} << 27;
constexpr int64_t kLargestCode = 128;

// The largest sum of |numbers| of one head and one distance.
int64_t largest_sum(const Constant& numbers) {
  const size_t size = numbers.shape[2];
  int64_t largest = 0;
  for (size_t first = 0; first < numbers.size(); first += size) {
    int64_t sum = 0;
    for (size_t i = first; i < first + size; ++i) sum += std::abs(int{numbers.get<int8_t>(i)});
    largest = std::max(largest, sum);
  }
  return largest;
}

}  // namespace

bool check_relative(const NodeChecker& checker, const plan::RelativeBias* op, const Shape& scores, size_t head_size) {
  if (op == nullptr) return checker.fail("relative is missing");
  const uint64_t rows = op->rows();
  const uint64_t columns = op->columns();
  if (rows * columns != scores[2] || scores[2] != scores[3]) {
    return checker.fail("a map of %" PRIu64 " x %" PRIu64 " does not hold %zu queries and %zu keys", rows, columns,
                        scores[2], scores[3]);
  }
  if (op->multiplier() < 0) return checker.fail("multiplier %d of relative is negative", op->multiplier());
  if (!checker.at_most("shift of relative", op->shift(), 30)) return false;
  const Constant* numbers = checker.find_constant(op->numbers(), "numbers");
  if (numbers == nullptr) return false;
  const size_t heads = numbers->shape[0] == 1 ? 1 : scores[1];
  const size_t distances = 2 * (rows + columns) - 2;
  if (checker.constant(op->numbers(), "numbers", DataType::Int8, {heads, distances, head_size}) == nullptr) {
    return false;
  }
  const int64_t half = op->shift() > 0 ? int64_t{1} << (op->shift() - 1) : 0;
  const int64_t reach = (kLargestCode * largest_sum(*numbers) * op->multiplier() + half) >> op->shift();
  return reach <= kMost || checker.fail("relative positions of up to %" PRId64 " are beyond %" PRId64, reach, kMost);
}

}  // namespace packqvit
