#include "src/row_chain.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <mutex>

#include "tests/support/plan_builder.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;

// Notes the rows that it is given.
class FakeStep final : public RowStep {
 public:
  FakeStep(size_t rows, size_t multiple, std::vector<uint32_t> operands, std::vector<uint32_t> scattered = {})
      : rows_(rows), multiple_(multiple), operands_(std::move(operands)), scattered_(std::move(scattered)) {}

  Error run(const Memory&) const override { return Error::Ok; }
  size_t rows() const override { return rows_; }
  size_t row_multiple() const override { return multiple_; }
  std::vector<uint32_t> operands() const override { return operands_; }
  std::vector<uint32_t> scattered_operands() const override { return scattered_; }
  size_t weight_bytes() const override { return weights; }
  size_t row_scratch_bytes(size_t rows) const override { return rows; }
  std::vector<uint32_t> scattered_results() const override { return results; }
  void run_rows(const Memory& memory, Range rows, void* scratch) const override {
    ASSERT_NE(scratch, nullptr);
    const std::lock_guard<std::mutex> lock(mutex);
    ranges.push_back(rows);
    if (work) work(memory, rows);
  }

  size_t weights = 0;
  std::vector<uint32_t> results;
  std::function<void(const Memory&, Range)> work;
  mutable std::mutex mutex;
  mutable std::vector<Range> ranges;

 private:
  size_t rows_;
  size_t multiple_;
  std::vector<uint32_t> operands_;
  std::vector<uint32_t> scattered_;
};

class RowChainTest : public testing::Test {
 protected:
  // An int8 value of 40 rows of `columns` at an address of the arena.
  uint32_t value(size_t columns, uint64_t location) {
    const uint32_t index = builder_.arena(plan::DataType::Int8, {40, columns});
    builder_.plan.values[index]->location = location;
    builder_.plan.arena_size = 1 << 22;
    return index;
  }

  RowChain chain(const std::vector<const Step*>& steps, size_t threads = 2, const std::vector<Range>& lives = {}) {
    const uint32_t input = builder_.input(plan::DataType::Int8, {1});
    const uint32_t output = builder_.output(plan::DataType::Int8, {1});
    plan::LookupTableT table;
    table.x = input;
    table.output = output;
    table.table = builder_.constant(Shape{256}, std::vector<int8_t>(256));
    builder_.node(std::move(table));
    bytes_ = builder_.packed_plan();
    data_ = std::make_unique<FakeDataMap>(builder_.data_map());
    const auto plan = CheckedPlan::make(*plan::GetPlan(bytes_.data()), data_.get());
    EXPECT_TRUE(plan.ok());
    return RowChain(steps, *plan, threads, lives);
  }

 private:
  PlanBuilder builder_;
  std::vector<uint8_t> bytes_;
  std::unique_ptr<FakeDataMap> data_;
};

TEST_F(RowChainTest, TakesStepsOfTheSameRows) {
  const uint32_t a = value(8, 0);
  const uint32_t b = value(32, 1024);
  const FakeStep first(40, 4, {a, b});
  const FakeStep second(40, 6, {b});
  const FakeStep other(39, 1, {});
  EXPECT_EQ(chain({&first, &second, &other}).length(), 2u);
}

TEST_F(RowChainTest, NeedsRowsForEveryThread) {
  const FakeStep step(40, 8, {});
  EXPECT_EQ(chain({&step}, 5).length(), 1u);
  const FakeStep few(40, 16, {});
  EXPECT_EQ(chain({&few}, 4).length(), 0u);
}

TEST_F(RowChainTest, RefusesMemoryInWhichRowsDoNotCoincide) {
  const uint32_t narrow = value(8, 0);
  const uint32_t same_rows = value(8, 0);
  const uint32_t shifted = value(8, 64);
  const uint32_t wide = value(16, 0);
  const uint32_t apart = value(16, 320);
  const FakeStep first(40, 4, {narrow});
  const FakeStep on_same_rows(40, 4, {same_rows});
  EXPECT_EQ(chain({&first, &on_same_rows}).length(), 2u);
  const FakeStep on_shifted(40, 4, {shifted});
  EXPECT_EQ(chain({&first, &on_shifted}).length(), 1u);
  const FakeStep on_wide(40, 4, {wide});
  EXPECT_EQ(chain({&first, &on_wide}).length(), 1u);
  const FakeStep on_apart(40, 4, {apart});
  EXPECT_EQ(chain({&first, &on_apart}).length(), 2u);
}

// Other threads may still read any rows of a scattered operand, whatever rows a step works on.
TEST_F(RowChainTest, KeepsScatteredOperands) {
  const uint32_t scattered = value(8, 0);
  const uint32_t same_rows = value(8, 0);
  const uint32_t apart = value(8, 1024);
  const FakeStep gather(40, 4, {apart}, {scattered});
  const FakeStep on_apart(40, 4, {apart});
  const FakeStep on_same_rows(40, 4, {same_rows});
  EXPECT_EQ(chain({&gather, &on_apart}).length(), 2u);
  EXPECT_EQ(chain({&gather, &on_same_rows}).length(), 1u);
  EXPECT_EQ(chain({&gather, &on_apart, &on_same_rows}).length(), 2u);
  EXPECT_EQ(chain({&on_apart, &gather}).length(), 1u) << "rows that others have not written yet";
}

TEST_F(RowChainTest, EndsWithAStepThatWritesAnyRows) {
  const uint32_t a = value(8, 0);
  const uint32_t b = value(8, 1024);
  const uint32_t same_rows = value(8, 0);
  const FakeStep first(40, 4, {a});
  FakeStep scatter(40, 4, {});
  const FakeStep last(40, 4, {});
  scatter.results = {b};
  EXPECT_EQ(chain({&first, &scatter, &last}).length(), 2u);
  scatter.results = {same_rows};
  EXPECT_EQ(chain({&first, &scatter}).length(), 1u) << "rows that other threads still need";
}

// What no step outside uses is in scratch memory: it joins whatever memory of the arena it would have had.
TEST_F(RowChainTest, KeepsWhatOnlyItUsesInScratchMemory) {
  const uint32_t inside = value(4, 0);
  const uint32_t before = value(8, 64);
  const uint32_t behind = value(8, 1024);
  FakeStep first(40, 4, {before, inside});
  FakeStep second(40, 4, {inside, behind});
  EXPECT_EQ(chain({&first, &second}).length(), 1u);
  const FakeStep third(40, 4, {before});
  const RowChain three = chain({&first, &second, &third}, 2, {{0, 2}, {0, 4}, {1, 9}});
  EXPECT_EQ(three.length(), 3u);

  std::vector<int8_t> arena(4096);
  std::vector<void*> values(32, nullptr);  // the plan has more
  values[inside] = arena.data();
  values[before] = arena.data() + 64;
  values[behind] = arena.data() + 1024;
  first.work = [&](const Memory& memory, Range rows) {
    EXPECT_EQ(memory.values[before], values[before]);
    std::memset(memory.value<int8_t>(inside) + 4 * rows.begin, static_cast<int>(rows.begin) + 1,
                4 * (rows.end - rows.begin));
  };
  second.work = [&](const Memory& memory, Range rows) {
    EXPECT_EQ(memory.values[behind], values[behind]);
    for (size_t i = 4 * rows.begin; i < 4 * rows.end; ++i) {
      EXPECT_EQ(memory.value<int8_t>(inside)[i], static_cast<int8_t>(rows.begin + 1));
    }
  };
  ScratchPool scratch;
  ASSERT_TRUE(scratch.allocate(2, three.scratch_bytes()));
  ASSERT_EQ(three.run({values.data(), scratch, nullptr}), Error::Ok);
  EXPECT_EQ(arena, std::vector<int8_t>(4096)) << "the arena's place of a value that is in scratch memory";
  EXPECT_EQ(chain({&first, &second, &third}, 2, {{0, 5}, {0, 4}, {1, 9}}).length(), 1u) << "used behind the chain";
}

TEST_F(RowChainTest, CutsAllStepsAtTheSameRows) {
  const FakeStep first(40, 4, {});
  const FakeStep second(40, 6, {});
  const RowChain both = chain({&first, &second});
  EXPECT_EQ(both.length(), 2u);
  ScratchPool scratch;
  ASSERT_TRUE(scratch.allocate(2, both.scratch_bytes()));
  ASSERT_EQ(both.run({nullptr, scratch, nullptr}), Error::Ok);
  for (const FakeStep* step : {&first, &second}) {
    size_t rows = 0;
    for (const Range& range : step->ranges) {
      EXPECT_EQ(range.begin % 12, 0u);
      EXPECT_LE(range.end - range.begin, both.scratch_bytes());
      rows += range.end - range.begin;
    }
    EXPECT_EQ(rows, 40u);
  }
}

TEST_F(RowChainTest, CutsRowsSoThatTheyStayInCache) {
  const uint32_t large = value(1 << 16, 0);  // 2.5 MiB
  const FakeStep first(40, 2, {large});
  FakeStep second(40, 1, {large});
  EXPECT_EQ(chain({&first, &second}, 1).parts(), 20u);
  EXPECT_EQ(chain({&first, &second}, 4).parts(), 20u);
  second.weights = 1 << 20;  // each part would read them again
  EXPECT_EQ(chain({&first, &second}, 1).parts(), 4u);
  second.weights = 1 << 23;
  EXPECT_EQ(chain({&first, &second}, 1).parts(), 1u);
  EXPECT_EQ(chain({&first, &second}, 4).parts(), 8u) << "some for each thread";
  EXPECT_EQ(chain({}, 1).parts(), 1u);
}

}  // namespace
}  // namespace packqvit
