// Runs a .pte file on raw tensors: classes, latency, peak memory, outputs, ETDump.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <numeric>

#include "runner/arguments.h"
#include "runner/image.h"
#include "runner/metadata.h"
#include "runner/model.h"
#include "runner/peak_memory.h"
#include "runner/region.h"

namespace packqvit {
namespace {

double run_timed(Model& model) {
  const CountedRegion region;
  const auto start = std::chrono::steady_clock::now();
  model.run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void append_outputs(const Model& model, Bytes& all) {
  for (const RawTensor& output : model.outputs()) all.insert(all.end(), output.data.begin(), output.data.end());
}

void print_latency(std::vector<double> milliseconds) {
  std::sort(milliseconds.begin(), milliseconds.end());
  const size_t count = milliseconds.size();
  const double median = (milliseconds[(count - 1) / 2] + milliseconds[count / 2]) / 2;
  std::printf("latency: median %.3f ms, min %.3f ms, %zu runs\n", median, milliseconds[0], count);
}

// Of the whole process since its start, with the pages of the program file that it touched.
void print_memory() {
  if (const size_t bytes = peak_memory(); bytes > 0) {
    std::printf("memory: peak resident %.1f MiB\n", static_cast<double>(bytes) / (1 << 20));
  }
}

void print_class(size_t index, double score, const std::vector<std::string>& labels) {
  const std::string label = index < labels.size() ? "  " + labels[index] : "";
  std::printf("%5zu  %10.5f%s\n", index, score, label.c_str());
}

void print_top(const RawTensor& scores, size_t row, size_t top, const std::vector<std::string>& labels) {
  const size_t classes = static_cast<size_t>(scores.shape[1]);
  std::vector<size_t> order(classes);
  std::iota(order.begin(), order.end(), size_t{0});
  const auto score = [&](size_t index) { return scores.number(row * classes + index); };
  const auto before = [&](size_t a, size_t b) { return score(a) != score(b) ? score(a) > score(b) : a < b; };
  const size_t shown = std::min(top, classes);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown), order.end(), before);
  order.resize(shown);
  for (const size_t index : order) print_class(index, score(index), labels);
}

// Of a model that ranks its classes itself.
void print_ranked(const RawTensor& indices, const RawTensor& scores, size_t row,
                  const std::vector<std::string>& labels) {
  const size_t count = static_cast<size_t>(indices.shape[1]);
  for (size_t i = row * count; i < (row + 1) * count; ++i) {
    print_class(static_cast<size_t>(static_cast<int64_t>(indices.number(i))), scores.number(i), labels);
  }
}

bool is_ranked(const std::vector<RawTensor>& outputs) {
  return outputs.size() == 2 && outputs[0].type == executorch::aten::ScalarType::Int &&
         outputs[1].type == executorch::aten::ScalarType::Float && outputs[0].shape == outputs[1].shape;
}

// The file's own names; --labels is for files that have none.
std::vector<std::string> class_names(const RunnerArguments& arguments, const Metadata& metadata) {
  if (arguments.labels.empty()) return metadata.class_names;
  std::vector<std::string> names = read_lines(arguments.labels);
  if (!metadata.class_names.empty() && names != metadata.class_names) {
    throw std::runtime_error("--labels " + arguments.labels + " contradicts the class names in " + arguments.model +
                             ": leave it out");
  }
  return names;
}

void print_classes(const std::vector<RawTensor>& outputs, size_t top, const std::vector<std::string>& labels) {
  if (outputs.empty() || outputs[0].shape.size() != 2) return;
  const size_t rows = static_cast<size_t>(outputs[0].shape[0]);
  for (size_t row = 0; row < rows; ++row) {
    if (rows > 1) std::printf("row %zu\n", row);
    if (is_ranked(outputs)) {
      print_ranked(outputs[0], outputs[1], row, labels);
    } else {
      print_top(outputs[0], row, top, labels);
    }
  }
}

void set_inputs(Model& model, const std::vector<std::string>& files) {
  const size_t count = model.inputs().size();
  if (!files.empty() && files.size() != count) {
    throw std::runtime_error("the model has " + std::to_string(count) + " inputs, " + std::to_string(files.size()) +
                             " files were given");
  }
  for (size_t i = 0; i < count; ++i) {
    if (files.empty()) {
      model.set_pseudo_random_input(i);
    } else {
      model.read_input(i, files[i]);
    }
  }
}

void set_image(Model& model, const std::string& path, const Metadata& metadata) {
  if (model.inputs().size() != 1) {
    throw std::runtime_error("--image needs a model with one input, this one has " +
                             std::to_string(model.inputs().size()));
  }
  model.set_input(0, read_image(path, model.inputs()[0], metadata), path);
}

void run_once(Model& model, const RunnerArguments& arguments, Bytes& all_outputs) {
  const Metadata metadata = read_metadata(arguments.model);
  const std::vector<std::string> labels = class_names(arguments, metadata);
  if (arguments.image.empty()) {
    set_inputs(model, arguments.inputs);
  } else {
    set_image(model, arguments.image, metadata);
  }
  for (size_t i = 0; i < arguments.warmup; ++i) model.run();
  std::vector<double> milliseconds;
  for (size_t i = 0; i < arguments.iterations; ++i) milliseconds.push_back(run_timed(model));
  append_outputs(model, all_outputs);

  const std::vector<RawTensor> outputs = model.outputs();
  for (size_t i = 0; i < outputs.size(); ++i) std::printf("output %zu: %s\n", i, describe(outputs[i]).c_str());
  print_classes(outputs, arguments.top, labels);
  print_latency(milliseconds);
}

void run_batch(Model& model, const RunnerArguments& arguments, Bytes& all_outputs) {
  if (model.inputs().size() != 1) {
    throw std::runtime_error("--batch-file needs a model with one input, this one has " +
                             std::to_string(model.inputs().size()));
  }
  InputFile file(arguments.batch_file);
  std::vector<double> milliseconds;
  while (!file.at_end()) {
    model.read_input(0, file, "input " + std::to_string(milliseconds.size()) + " of " + arguments.batch_file);
    if (milliseconds.empty()) {
      for (size_t i = 0; i < arguments.warmup; ++i) model.run();
    }
    milliseconds.push_back(run_timed(model));
    append_outputs(model, all_outputs);
  }
  if (milliseconds.empty()) throw std::runtime_error(arguments.batch_file + " is empty");
  std::printf("%zu inputs\n", milliseconds.size());
  print_latency(milliseconds);
}

void run(const RunnerArguments& arguments) {
  Model model(arguments.model, {arguments.tier, arguments.threads, !arguments.etdump.empty(), arguments.method});
  Bytes all_outputs;
  if (arguments.batch_file.empty()) {
    run_once(model, arguments, all_outputs);
  } else {
    run_batch(model, arguments, all_outputs);
  }
  print_memory();
  if (!arguments.output.empty()) write_file(arguments.output, all_outputs.data(), all_outputs.size());
  if (!arguments.etdump.empty()) model.write_etdump(arguments.etdump);
}

}  // namespace
}  // namespace packqvit

int main(int count, char** words) {
  try {
    const packqvit::RunnerArguments arguments = packqvit::parse_arguments(count, words);
    if (arguments.help) {
      std::fputs(packqvit::kUsage, stdout);
      return 0;
    }
    packqvit::run(arguments);
    return 0;
  } catch (const packqvit::UsageError& error) {
    std::fprintf(stderr, "packqvit_runner: %s\n%s", error.what(), packqvit::kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "packqvit_runner: %s\n", error.what());
    return 1;
  }
}
