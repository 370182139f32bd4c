#include "runner/model.h"

#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>
#include <executorch/runtime/core/exec_aten/util/scalar_type_util.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "packqvit/backend.h"
#include "runner/components.h"
#include "runner/threads.h"

namespace packqvit {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::runtime::BackendOptions;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::LoadBackendOptionsMap;

namespace {

constexpr char kDefaultMethod[] = "forward";

void check(Error error, const std::string& what) {
  if (error != Error::Ok) {
    throw std::runtime_error(what + ": " + executorch::runtime::to_string(error) + " (see the log above)");
  }
}

// Sorted; without constant methods, which take nothing and compute nothing.
std::vector<std::string> model_methods(Module& module, const std::string& path) {
  const auto names = module.method_names();
  check(names.error(), "cannot read the methods of " + path);
  std::vector<std::string> found;
  for (const std::string& name : *names) {
    const auto meta = module.method_meta(name);
    check(meta.error(), "cannot read the method " + name + " of " + path);
    if (computes(*meta)) found.push_back(name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

// The method of this name; of an empty name, forward or the only one there is.
std::string choose_method(Module& module, const std::string& path, const std::string& name) {
  const std::vector<std::string> methods = model_methods(module, path);
  const std::string wanted = name.empty() ? kDefaultMethod : name;
  if (std::find(methods.begin(), methods.end(), wanted) != methods.end()) return wanted;
  if (name.empty() && methods.size() == 1) return methods[0];
  std::string text;
  for (const std::string& method : methods) text += (text.empty() ? "" : ", ") + method;
  throw std::runtime_error("there is no method " + wanted + " in " + path + ": it has " +
                           (text.empty() ? "none that computes" : text));
}

void set_pool_threads(size_t threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr || !pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads))) {
    throw std::runtime_error("cannot set the thread pool to " + std::to_string(threads) + " threads");
  }
}

template <typename T>
double element(const Bytes& data, size_t index) {
  T value;
  std::memcpy(&value, data.data() + index * sizeof(T), sizeof(T));
  return static_cast<double>(value);
}

}  // namespace

size_t RawTensor::element_size() const { return executorch::runtime::elementSize(type); }

double RawTensor::number(size_t index) const {
  switch (type) {
    case ScalarType::Float:
      return element<float>(data, index);
    case ScalarType::Double:
      return element<double>(data, index);
    case ScalarType::Char:
      return element<int8_t>(data, index);
    case ScalarType::Byte:
    case ScalarType::Bool:
      return element<uint8_t>(data, index);
    case ScalarType::Short:
      return element<int16_t>(data, index);
    case ScalarType::Int:
      return element<int32_t>(data, index);
    case ScalarType::Long:
      return element<int64_t>(data, index);
    default:
      throw std::runtime_error(std::string("no numbers in ") + executorch::runtime::toString(type));
  }
}

std::string describe(const RawTensor& tensor) {
  std::string text = std::string(executorch::runtime::toString(tensor.type)) + " [";
  for (size_t i = 0; i < tensor.shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(tensor.shape[i]);
  return text + "]";
}

Model::Model(const std::string& path, const Options& options) {
  std::unique_ptr<executorch::etdump::ETDumpGen> tracer;
  if (options.traced) tracer = std::make_unique<executorch::etdump::ETDumpGen>();
  tracer_ = tracer.get();
  module_ = std::make_unique<Module>(path, Module::LoadMode::Mmap, std::move(tracer));

  BackendOptions<2> backend_options;
  LoadBackendOptionsMap map;
  if (!options.tier.empty()) {
    check(backend_options.set_option(kTierOption, options.tier.c_str()), "option " + options.tier);
  }
  if (options.threads > 0) {
    check(backend_options.set_option(kThreadsOption, static_cast<int>(options.threads)), "the number of threads");
  }
  check(map.set_options(kBackendName, backend_options.view()), "options of the backend");
  check(module_->load(map), "cannot load " + path);
  method_ = choose_method(*module_, path, options.method);
  const auto meta = module_->method_meta(method_);
  check(meta.error(), "cannot read the method " + method_ + " of " + path);
  load_components(*meta);
  // Our delegate does without a pool of one thread, whose making is half a megabyte of pages.
  if (options.threads > 1 || (options.threads == 1 && needs_components(*meta))) set_pool_threads(options.threads);
  check(module_->load_method(method_), "cannot load the method " + method_ + " of " + path);

  for (size_t i = 0; i < meta->num_inputs(); ++i) {
    const auto info = meta->input_tensor_meta(i);
    check(info.error(), "input " + std::to_string(i) + " is no tensor");
    inputs_.push_back({info->scalar_type(), {info->sizes().begin(), info->sizes().end()}, Bytes(info->nbytes())});
  }
  for (RawTensor& input : inputs_) {
    tensors_.push_back(executorch::extension::from_blob(input.data.data(), input.shape, input.type));
    arguments_.emplace_back(tensors_.back());
  }
}

void Model::check_size(size_t index, size_t size, const std::string& origin) const {
  const RawTensor& input = inputs_[index];
  if (size == input.data.size()) return;
  throw std::runtime_error(origin + " has " + std::to_string(size) + " bytes, input " + std::to_string(index) + " is " +
                           describe(input) + ": " + std::to_string(input.data.size()) + " bytes expected");
}

void Model::set_input(size_t index, const Bytes& data, const std::string& origin) {
  check_size(index, data.size(), origin);
  std::memcpy(inputs_[index].data.data(), data.data(), data.size());
}

void Model::read_input(size_t index, InputFile& file, const std::string& origin) {
  Bytes& data = inputs_[index].data;
  check_size(index, file.read(data.data(), data.size()), origin);
}

void Model::read_input(size_t index, const std::string& path) {
  InputFile file(path);
  read_input(index, file, path);
  if (!file.at_end()) check_size(index, inputs_[index].data.size() + file.rest().size(), path);
}

void Model::set_pseudo_random_input(size_t index) {
  RawTensor& input = inputs_[index];
  uint32_t state = 12345 + static_cast<uint32_t>(index);
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 8; };  // 24 bits
  if (input.type == ScalarType::Float) {
    for (size_t i = 0; i < input.data.size(); i += sizeof(float)) {
      const float number = static_cast<float>(next()) / static_cast<float>(1 << 22) - 2.0f;  // [-2, 2)
      std::memcpy(input.data.data() + i, &number, sizeof(number));
    }
  } else {
    for (uint8_t& byte : input.data) byte = static_cast<uint8_t>(next() >> 8);
  }
}

void Model::run() {
  auto results = module_->execute(method_, arguments_);
  check(results.error(), "execution failed");
  results_ = std::move(*results);
}

std::vector<RawTensor> Model::outputs() const {
  std::vector<RawTensor> outputs;
  for (const EValue& result : results_) {
    if (!result.isTensor()) throw std::runtime_error("an output is no tensor");
    const auto& tensor = result.toTensor();
    const uint8_t* data = static_cast<const uint8_t*>(tensor.const_data_ptr());
    outputs.push_back(
        {tensor.scalar_type(), {tensor.sizes().begin(), tensor.sizes().end()}, Bytes(data, data + tensor.nbytes())});
  }
  return outputs;
}

void Model::write_etdump(const std::string& path) {
  const auto dump = tracer_->get_etdump_data();
  const std::unique_ptr<void, void (*)(void*)> owner(dump.buf, std::free);
  if (dump.buf == nullptr || dump.size == 0) throw std::runtime_error("the ETDump is empty");
  write_file(path, dump.buf, dump.size);
}

}  // namespace packqvit
