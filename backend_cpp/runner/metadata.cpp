#include "runner/metadata.h"

#include <executorch/extension/module/module.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>

namespace packqvit {
namespace {

using executorch::extension::Module;
using executorch::runtime::EValue;

constexpr int64_t kVersion = 1;
constexpr size_t kChannels = 3;

[[noreturn]] void fail(const std::string& method) {
  throw std::runtime_error("the program's method " + method + " does not give what it should: export it again");
}

std::vector<EValue> values_of(Module& module, const std::string& method, size_t count) {
  auto values = module.execute(method);
  if (!values.ok() || values->size() != count) fail(method);
  return std::move(*values);
}

std::vector<std::string> lines_of(const EValue& value) {
  std::vector<std::string> lines;
  const std::string_view text = value.toString();
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::vector<float> channels_of(Module& module, const std::string& method) {
  std::vector<float> channels;
  for (const EValue& value : values_of(module, method, kChannels)) {
    if (!value.isDouble()) fail(method);
    channels.push_back(static_cast<float>(value.toDouble()));
  }
  return channels;
}

}  // namespace

Metadata read_metadata(const std::string& path) {
  // A module of its own: what runs in the one that is measured would be in its ETDump.
  Module module(path, Module::LoadMode::Mmap);
  const auto names = module.method_names();
  if (!names.ok()) throw std::runtime_error("cannot load " + path + " (see the log above)");
  const auto has = [&](const char* name) { return names->count(name) > 0; };
  Metadata metadata;
  if (!has("metadata_version")) return metadata;
  const EValue version = values_of(module, "metadata_version", 1)[0];
  if (!version.isInt()) fail("metadata_version");
  if (version.toInt() > kVersion) {
    throw std::runtime_error(path + " was made by a later version of packqvit-delegate: use its runner");
  }
  if (has("class_names")) {
    const EValue classes = values_of(module, "class_names", 1)[0];
    if (!classes.isString()) fail("class_names");
    metadata.class_names = lines_of(classes);
  }
  if (has("image_mean") && has("image_std")) {
    metadata.mean = channels_of(module, "image_mean");
    metadata.std = channels_of(module, "image_std");
  }
  return metadata;
}

}  // namespace packqvit
