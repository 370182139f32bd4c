#include "src/plan/constants.h"

#include <executorch/runtime/platform/log.h>

#include <cinttypes>
#include <utility>

#include "src/crc32.h"

namespace packqvit {

using executorch::runtime::Error;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::NamedDataMap;
using executorch::runtime::Result;

namespace {

// Stored bytes, or 0 when type and encoding do not go together.
uint64_t stored_bytes(const Constant& constant) {
  switch (constant.encoding) {
    case plan::Encoding::Dense:
      return uint64_t{constant.size()} * element_size(constant.type);
    case plan::Encoding::Nibbles:
      if (constant.type != plan::DataType::Int8) return 0;
      return uint64_t{constant.size() / constant.shape.back()} * ((constant.shape.back() + 1) / 2);
  }
  return 0;
}

}  // namespace

Error ConstantStore::load_segments(const plan::Plan& plan, const NamedDataMap* data) {
  const auto* segments = plan.segments();
  const size_t count = segments != nullptr ? segments->size() : 0;
  if (count > 0 && data == nullptr) {
    ET_LOG(Error, "packqvit: the program carries no named data, but the plan has %zu segments", count);
    return Error::InvalidProgram;
  }
  segments_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const plan::Segment& segment = *segments->Get(static_cast<uint32_t>(i));
    const char* key = segment.key()->c_str();
    Result<FreeableBuffer> buffer = data->get_data(key);
    if (!buffer.ok()) {
      ET_LOG(Error, "packqvit: segment %zu '%.64s' is not in the program (error 0x%x): is a .ptd file missing?", i, key,
             static_cast<unsigned>(buffer.error()));
      return buffer.error();
    }
    if (buffer->size() != segment.size() || (segment.size() > 0 && buffer->data() == nullptr)) {
      ET_LOG(Error, "packqvit: segment %zu '%.64s' has %zu bytes, the plan says %" PRIu64, i, key, buffer->size(),
             segment.size());
      return Error::InvalidProgram;
    }
    if (crc32(buffer->data(), buffer->size()) != segment.crc32()) {
      ET_LOG(Error, "packqvit: the checksum of segment %zu '%.64s' does not match: copy or export the file again", i,
             key);
      return Error::InvalidProgram;
    }
    segments_.push_back(std::move(buffer.get()));
  }
  return Error::Ok;
}

Error ConstantStore::load(const plan::Plan& plan, const NamedDataMap* data) {
  if (const Error error = load_segments(plan, data); error != Error::Ok) return error;
  const auto* constants = plan.constants();
  const size_t count = constants != nullptr ? constants->size() : 0;
  constants_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const plan::Constant& stored = *constants->Get(static_cast<uint32_t>(i));
    Constant constant{stored.type(), stored.encoding(), {}, nullptr};
    if (!read_shape(stored.shape(), constant.shape) || element_size(constant.type) == 0) {
      ET_LOG(Error,
             "packqvit: constant %zu: unknown type %d, or a shape that is empty, too large or of more than %zu axes", i,
             static_cast<int>(constant.type), kMaxRank);
      return Error::InvalidProgram;
    }
    const uint64_t bytes = stored_bytes(constant);
    if (bytes == 0) {
      ET_LOG(Error, "packqvit: constant %zu: encoding %d does not exist for type %s", i,
             static_cast<int>(constant.encoding), plan::EnumNameDataType(constant.type));
      return Error::InvalidProgram;
    }
    if (stored.segment() >= segments_.size()) {
      ET_LOG(Error, "packqvit: constant %zu: there is no segment %" PRIu32, i, stored.segment());
      return Error::InvalidProgram;
    }
    const FreeableBuffer& segment = segments_[stored.segment()];
    if (stored.offset() % kAlignment != 0 || stored.offset() > segment.size() ||
        bytes > segment.size() - stored.offset()) {
      ET_LOG(Error,
             "packqvit: constant %zu: %" PRIu64 " bytes at offset %" PRIu64
             " are not inside of the segment's %zu, "
             "or the offset is not a multiple of %zu",
             i, bytes, stored.offset(), segment.size(), kAlignment);
      return Error::InvalidProgram;
    }
    constant.data = static_cast<const uint8_t*>(segment.data()) + stored.offset();
    constants_.push_back(std::move(constant));
  }
  return Error::Ok;
}

}  // namespace packqvit
