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

Error ConstantStore::open(const plan::Plan& plan, const NamedDataMap* data) {
  plan_ = &plan;
  data_ = data;
  segments_.resize(plan.segments() != nullptr ? plan.segments()->size() : 0);
  if (!segments_.empty() && data == nullptr) {
    ET_LOG(Error, "packqvit: the program carries no named data, but the plan has %zu segments", segments_.size());
    return Error::InvalidProgram;
  }
  const size_t count = plan.constants() != nullptr ? plan.constants()->size() : 0;
  constants_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    if (const Error error = add(*plan.constants()->Get(static_cast<uint32_t>(i)), i); error != Error::Ok) return error;
  }
  return Error::Ok;
}

Error ConstantStore::add(const plan::Constant& stored, size_t index) {
  Constant constant{stored.type(), stored.encoding(), {}, stored.segment(), static_cast<size_t>(stored.offset()),
                    nullptr};
  if (!read_shape(stored.shape(), constant.shape) || element_size(constant.type) == 0) {
    ET_LOG(Error,
           "packqvit: constant %zu: unknown type %d, or a shape that is empty, too large or of more than %zu axes",
           index, static_cast<int>(constant.type), kMaxRank);
    return Error::InvalidProgram;
  }
  const uint64_t bytes = stored_bytes(constant);
  if (bytes == 0) {
    ET_LOG(Error, "packqvit: constant %zu: encoding %d does not exist for type %s", index,
           static_cast<int>(constant.encoding), plan::EnumNameDataType(constant.type));
    return Error::InvalidProgram;
  }
  if (constant.segment >= segments_.size()) {
    ET_LOG(Error, "packqvit: constant %zu: there is no segment %zu", index, constant.segment);
    return Error::InvalidProgram;
  }
  const uint64_t size = plan_->segments()->Get(stored.segment())->size();
  if (stored.offset() % kAlignment != 0 || stored.offset() > size || bytes > size - stored.offset()) {
    ET_LOG(Error,
           "packqvit: constant %zu: %" PRIu64 " bytes at offset %" PRIu64 " are not inside of the segment's %" PRIu64
           ", or the offset is not a multiple of %zu",
           index, bytes, stored.offset(), size, kAlignment);
    return Error::InvalidProgram;
  }
  segments_[constant.segment].constants.push_back(index);
  constants_.push_back(std::move(constant));
  return Error::Ok;
}

Error ConstantStore::load(size_t index) {
  const size_t number = constants_[index].segment;
  Segment& segment = segments_[number];
  if (segment.buffer.has_value()) return Error::Ok;
  const plan::Segment& stored = *plan_->segments()->Get(static_cast<uint32_t>(number));
  const char* key = stored.key()->c_str();
  Result<FreeableBuffer> buffer = data_->get_data(key);
  if (!buffer.ok()) {
    ET_LOG(Error, "packqvit: segment %zu '%.64s' is not in the program (error 0x%x): is a .ptd file missing?", number,
           key, static_cast<unsigned>(buffer.error()));
    return buffer.error();
  }
  if (buffer->size() != stored.size() || (stored.size() > 0 && buffer->data() == nullptr)) {
    ET_LOG(Error, "packqvit: segment %zu '%.64s' has %zu bytes, the plan says %" PRIu64, number, key, buffer->size(),
           stored.size());
    return Error::InvalidProgram;
  }
  if (crc32(buffer->data(), buffer->size()) != stored.crc32()) {
    ET_LOG(Error, "packqvit: the checksum of segment %zu '%.64s' does not match: copy or export the file again", number,
           key);
    return Error::InvalidProgram;
  }
  segment.buffer.emplace(std::move(buffer.get()));
  const uint8_t* data = static_cast<const uint8_t*>(segment.buffer->data());
  for (const size_t constant : segment.constants) constants_[constant].data = data + constants_[constant].offset;
  return Error::Ok;
}

void ConstantStore::free_large() {
  for (Segment& segment : segments_) {
    if (segment.constants.size() != 1 || !segment.buffer.has_value()) continue;
    segment.buffer.reset();
    constants_[segment.constants[0]].data = nullptr;
  }
}

}  // namespace packqvit
