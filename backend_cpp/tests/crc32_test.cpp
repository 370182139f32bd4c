#include "src/crc32.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace packqvit {
namespace {

TEST(Crc32, KnownValues) {
  EXPECT_EQ(crc32("", 0), 0u);
  EXPECT_EQ(crc32("123456789", 9), 0xCBF43926u);
  EXPECT_EQ(crc32("The quick brown fox jumps over the lazy dog", 43), 0x414FA339u);
  const std::vector<uint8_t> zeros(32);
  EXPECT_EQ(crc32(zeros.data(), zeros.size()), 0x190A55ADu);
}

uint32_t bitwise(const uint8_t* data, size_t size) {
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < size; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

TEST(Crc32, AgreesWithTheBitwiseDefinitionAtEveryLengthAndAlignment) {
  std::vector<uint8_t> data(80);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 37 + 11);
  for (size_t offset = 0; offset < 9; ++offset) {
    for (size_t size = 0; offset + size <= data.size(); ++size) {
      EXPECT_EQ(crc32(data.data() + offset, size), bitwise(data.data() + offset, size));
    }
  }
}

}  // namespace
}  // namespace packqvit
