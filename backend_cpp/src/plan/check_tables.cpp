#include <executorch/runtime/platform/log.h>

#include <cinttypes>

#include "src/plan/check.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

const char* name_or_empty(const flatbuffers::String* name) { return name != nullptr ? name->c_str() : ""; }

Error check_value(const plan::Value& stored, size_t index, uint64_t arena_size, Value& value) {
  value = {stored.type(), {}, stored.storage(), 0, name_or_empty(stored.name())};
  if (element_size(value.type) == 0 || !read_shape(stored.shape(), value.shape) || value.bytes() > kMaxBytes) {
    ET_LOG(Error,
           "packqvit: value %zu '%.64s': unknown type %d, or a shape that is empty, too large or of more than %zu axes",
           index, value.name, static_cast<int>(value.type), kMaxRank);
    return Error::InvalidProgram;
  }
  switch (value.storage) {
    case plan::Storage::Input:
    case plan::Storage::Output:
      break;
    case plan::Storage::Arena:
      if (stored.location() % kAlignment == 0 && stored.location() <= arena_size &&
          value.bytes() <= arena_size - stored.location()) {
        break;
      }
      ET_LOG(Error,
             "packqvit: value %zu '%.64s': %zu bytes at %" PRIu64 " are not inside of the arena's %" PRIu64
             ", or the place is not a multiple of %zu",
             index, value.name, value.bytes(), stored.location(), arena_size, kAlignment);
      return Error::InvalidProgram;
    default:
      ET_LOG(Error, "packqvit: value %zu '%.64s': unknown storage %d", index, value.name,
             static_cast<int>(value.storage));
      return Error::InvalidProgram;
  }
  value.location = static_cast<size_t>(stored.location());
  return Error::Ok;
}

// The arguments name every value of their storage exactly once, in the order of the values' locations.
Error check_arguments(const flatbuffers::Vector<uint32_t>* arguments, plan::Storage storage,
                      const std::vector<Value>& values) {
  const char* what = storage == plan::Storage::Input ? "input" : "output";
  const size_t count = arguments != nullptr ? arguments->size() : 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t index = arguments->Get(static_cast<uint32_t>(i));
    if (index >= values.size() || values[index].storage != storage || values[index].location != i) {
      ET_LOG(Error, "packqvit: %s %zu: value %" PRIu32 " does not exist, or does not say that it is %s %zu", what, i,
             index, what, i);
      return Error::InvalidProgram;
    }
  }
  size_t stored = 0;
  for (const Value& value : values) stored += value.storage == storage ? 1 : 0;
  if (stored != count) {
    ET_LOG(Error, "packqvit: %zu values have the storage %s, the plan lists %zu", stored, what, count);
    return Error::InvalidProgram;
  }
  return Error::Ok;
}

}  // namespace

Error check_tables(const plan::Plan& plan, std::vector<Value>& values) {
  if (plan.arena_size() > kMaxBytes) {
    ET_LOG(Error, "packqvit: an arena of %" PRIu64 " bytes is beyond the limit of %zu", plan.arena_size(), kMaxBytes);
    return Error::InvalidProgram;
  }
  const size_t count = plan.values() != nullptr ? plan.values()->size() : 0;
  values.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const Error error = check_value(*plan.values()->Get(static_cast<uint32_t>(i)), i, plan.arena_size(), values[i]);
    if (error != Error::Ok) return error;
  }
  if (plan.outputs() == nullptr || plan.outputs()->size() == 0) {
    ET_LOG(Error, "packqvit: the plan has no output");
    return Error::InvalidProgram;
  }
  const Error error = check_arguments(plan.inputs(), plan::Storage::Input, values);
  return error != Error::Ok ? error : check_arguments(plan.outputs(), plan::Storage::Output, values);
}

}  // namespace packqvit
