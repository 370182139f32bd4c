#include "kernels/weight_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace packqvit {
namespace {

bool is_zero(const uint8_t* bytes, size_t size) {
  return std::all_of(bytes, bytes + size, [](uint8_t byte) { return byte == 0; });
}

TEST(WeightMemory, PiecesFollowOneAnotherAlignedAndZero) {
  const std::vector<size_t> sizes = {1, 64, 65, 0, 100000, 3 << 20};
  size_t expected = 0;
  for (const size_t size : sizes) expected += round_up(size, kAlignment);
  WeightMemory memory(expected);
  const uint8_t* end = nullptr;
  for (const size_t size : sizes) {
    uint8_t* piece = memory.allocate(size);
    ASSERT_NE(piece, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(piece) % kAlignment, 0u);
    EXPECT_TRUE(is_zero(piece, size));
    if (end != nullptr) {
      EXPECT_EQ(piece, end) << size;
    }
    std::fill(piece, piece + size, uint8_t{255});
    end = piece + round_up(size, kAlignment);
  }
}

TEST(WeightMemory, TakesMoreThanWasExpected) {
  WeightMemory memory(100);
  std::vector<uint8_t*> pieces;
  for (uint8_t i = 1; i < 20; ++i) {
    pieces.push_back(memory.allocate(1000));
    ASSERT_NE(pieces.back(), nullptr);
    ASSERT_TRUE(is_zero(pieces.back(), 1000));
    std::fill(pieces.back(), pieces.back() + 1000, i);
  }
  for (uint8_t i = 1; i < 20; ++i) {
    const uint8_t* piece = pieces[i - 1];
    EXPECT_TRUE(std::all_of(piece, piece + 1000, [&](uint8_t byte) { return byte == i; })) << int{i};
  }
}

TEST(WeightMemory, NothingIsExpectedByDefault) {
  WeightMemory memory;
  ASSERT_NE(memory.allocate(5), nullptr);
}

TEST(WeightMemory, SaysWhenThereIsNoMemory) {
  WeightMemory memory;
  EXPECT_EQ(memory.allocate(SIZE_MAX / 4), nullptr);
  ASSERT_NE(memory.allocate(64), nullptr);
}

}  // namespace
}  // namespace packqvit
