#include "src/blob.h"

#include <executorch/runtime/platform/log.h>

#include <cinttypes>
#include <cstring>
#include <utility>

#include "packqvit/backend.h"
#include "src/crc32.h"

namespace packqvit {

using executorch::runtime::Error;
using executorch::runtime::Result;

namespace {

uint64_t read_little_endian(const uint8_t* bytes, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return value;
}

}  // namespace

Result<PlanBuffer> read_blob(const void* data, size_t size) {
  const uint8_t* header = static_cast<const uint8_t*>(data);
  if (data == nullptr || size < kBlobHeaderSize || std::memcmp(header, kBlobMagic, 8) != 0) {
    ET_LOG(Error,
           "packqvit: %zu processed bytes without the PackQViT header: was the file exported by packqvit_delegate?",
           size);
    return Error::DelegateInvalidCompatibility;
  }
  const uint64_t version = read_little_endian(header + 8, 4);
  if (version > kPlanVersion) {
    ET_LOG(Error,
           "packqvit: plan version %" PRIu64 " was exported by a newer packqvit_delegate (this one reads %" PRIu32
           "): update the runtime",
           version, kPlanVersion);
    return Error::DelegateInvalidCompatibility;
  }
  if (version < kPlanVersion) {
    ET_LOG(Error, "packqvit: plan version %" PRIu64 " is no longer read (this runtime reads %" PRIu32 "): export again",
           version, kPlanVersion);
    return Error::DelegateInvalidCompatibility;
  }
  const uint64_t header_size = read_little_endian(header + 12, 4);
  const uint64_t plan_size = read_little_endian(header + 16, 8);
  const uint64_t reserved = read_little_endian(header + 28, 4);
  if (header_size != kBlobHeaderSize || reserved != 0) {
    ET_LOG(Error, "packqvit: damaged header (size %" PRIu64 ", reserved %" PRIu64 "): copy or export the file again",
           header_size, reserved);
    return Error::DelegateInvalidCompatibility;
  }
  if (plan_size != size - kBlobHeaderSize) {
    ET_LOG(Error,
           "packqvit: truncated or damaged: the plan has %" PRIu64
           " bytes, %zu are there: copy or export the file again",
           plan_size, size - kBlobHeaderSize);
    return Error::DelegateInvalidCompatibility;
  }
  const size_t bytes = static_cast<size_t>(plan_size);
  if (crc32(header + kBlobHeaderSize, bytes) != read_little_endian(header + 24, 4)) {
    ET_LOG(Error, "packqvit: the plan's checksum does not match: the file is damaged, copy or export it again");
    return Error::DelegateInvalidCompatibility;
  }

  std::vector<uint64_t> words((bytes + 7) / 8);
  if (bytes > 0) std::memcpy(words.data(), header + kBlobHeaderSize, bytes);
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(words.data()), bytes);
  if (!plan::VerifyPlanBuffer(verifier)) {
    ET_LOG(Error, "packqvit: the plan is not a valid FlatBuffer of packqvit_delegate: export the file again");
    return Error::DelegateInvalidCompatibility;
  }
  return PlanBuffer(std::move(words));
}

}  // namespace packqvit
