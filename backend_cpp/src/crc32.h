#pragma once

#include <cstddef>
#include <cstdint>

namespace packqvit {

// CRC-32 of zlib, gzip and PNG: polynomial 0x04C11DB7 reflected, initial value and final xor 0xFFFFFFFF.
uint32_t crc32(const void* data, size_t size);

}  // namespace packqvit
