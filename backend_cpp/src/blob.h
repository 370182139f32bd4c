// The processed bytes of a delegate: a 32-byte little-endian header and one FlatBuffer plan.
//
//   offset  size  field
//        0     8  magic "PQVITBLB"
//        8     4  version, kPlanVersion
//       12     4  header size, 32
//       16     8  size of the plan in bytes
//       24     4  CRC-32 of the plan
//       28     4  reserved, 0
#pragma once

#include <executorch/runtime/core/result.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "schema_generated.h"

namespace packqvit {

inline constexpr char kBlobMagic[] = "PQVITBLB";
inline constexpr size_t kBlobHeaderSize = 32;

// A plan whose FlatBuffer structure has been verified. Its contents have not: see src/plan/plan.h.
class PlanBuffer {
 public:
  explicit PlanBuffer(std::vector<uint64_t> words) : words_(std::move(words)) {}
  const plan::Plan& plan() const { return *plan::GetPlan(words_.data()); }

 private:
  std::vector<uint64_t> words_;  // uint64_t aligns the buffer for every field
};

// Checks the header, the checksum and the FlatBuffer, and copies the plan out of `data`.
// Error::DelegateInvalidCompatibility, with the reason in the log, for whatever is not a plan that this build can read.
executorch::runtime::Result<PlanBuffer> read_blob(const void* data, size_t size);

}  // namespace packqvit
