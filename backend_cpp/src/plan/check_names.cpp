#include <executorch/runtime/platform/log.h>

#include <algorithm>

#include "src/plan/check.h"

namespace packqvit {

using executorch::runtime::Error;

namespace {

bool is_printable(const flatbuffers::String* text) {
  return text == nullptr ||
         std::all_of(text->begin(), text->end(), [](uint8_t character) { return character >= 32 && character < 127; });
}

}  // namespace

Error check_names(const plan::Plan& plan) {
  bool printable = true;
  const auto check = [&printable](const flatbuffers::String* text) { printable = printable && is_printable(text); };
  if (plan.values() != nullptr) {
    for (const plan::Value* value : *plan.values()) check(value->name());
  }
  if (plan.segments() != nullptr) {
    for (const plan::Segment* segment : *plan.segments()) check(segment->key());
  }
  if (plan.nodes() != nullptr) {
    for (const plan::Node* node : *plan.nodes()) {
      check(node->name());
      if (node->parts() == nullptr) continue;
      for (const plan::Part* part : *node->parts()) check(part->name());
    }
  }
  if (printable) return Error::Ok;
  ET_LOG(Error, "packqvit: a name in the plan holds more than printable ASCII: export the file again");
  return Error::InvalidProgram;
}

}  // namespace packqvit
