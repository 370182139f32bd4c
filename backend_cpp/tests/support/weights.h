#pragma once

#include <cstdint>
#include <vector>

namespace packqvit {

// Codes [rows, columns] as the plan stores 4-bit weights: even columns in low nibbles, rows padded to even length.
inline std::vector<uint8_t> to_nibbles(const std::vector<int8_t>& codes, size_t columns) {
  const size_t row_bytes = (columns + 1) / 2;
  std::vector<uint8_t> bytes(codes.size() / columns * row_bytes);
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t column = i % columns;
    bytes[i / columns * row_bytes + column / 2] |= static_cast<uint8_t>((codes[i] & 15) << (column % 2 * 4));
  }
  return bytes;
}

inline std::vector<uint8_t> to_bytes(const std::vector<int8_t>& codes) { return {codes.begin(), codes.end()}; }

}  // namespace packqvit
