// Runs every case of a folder and compares its outputs bit for bit.
//
// A case is <name>.pte with <name>.in0.bin ... and the expected <name>.out0.bin ..., all raw little-endian tensors.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>

#include "runner/model.h"

namespace packqvit {
namespace {

namespace fs = std::filesystem;

// Throws std::runtime_error with the first differing element.
void compare(const RawTensor& output, const Bytes& expected, const std::string& path) {
  if (output.data.size() != expected.size()) {
    throw std::runtime_error(path + " has " + std::to_string(expected.size()) + " bytes, the output is " +
                             describe(output) + ": " + std::to_string(output.data.size()) + " bytes");
  }
  const auto difference = std::mismatch(expected.begin(), expected.end(), output.data.begin());
  if (difference.first == expected.end()) return;
  const size_t index = static_cast<size_t>(difference.first - expected.begin()) / output.element_size();
  const RawTensor reference{output.type, output.shape, expected};
  char text[160];
  std::snprintf(text, sizeof(text), "element %zu is %.9g, expected %.9g", index, output.number(index),
                reference.number(index));
  throw std::runtime_error(path + ": " + text);
}

void run_case(const fs::path& program) {
  Model model(program.string(), {});
  const std::string stem = (program.parent_path() / program.stem()).string();
  for (size_t i = 0; i < model.inputs().size(); ++i) {
    const std::string path = stem + ".in" + std::to_string(i) + ".bin";
    model.read_input(i, path);
  }
  model.run();
  const std::vector<RawTensor> outputs = model.outputs();
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::string path = stem + ".out" + std::to_string(i) + ".bin";
    compare(outputs[i], read_file(path), path);
  }
}

int run_all(const fs::path& folder) {
  std::vector<fs::path> programs;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".pte") programs.push_back(entry.path());
  }
  std::sort(programs.begin(), programs.end());
  size_t failed = 0;
  for (const fs::path& program : programs) {
    try {
      run_case(program);
    } catch (const std::exception& error) {
      std::printf("FAILED %s: %s\n", program.stem().string().c_str(), error.what());
      ++failed;
    }
  }
  std::printf("%zu passed, %zu failed\n", programs.size() - failed, failed);
  return failed == 0 && !programs.empty() ? 0 : 1;
}

}  // namespace
}  // namespace packqvit

int main(int count, char** words) {
  if (count != 2) {
    std::fprintf(stderr, "usage: packqvit_conformance FOLDER\n");
    return 2;
  }
  try {
    return packqvit::run_all(words[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "packqvit_conformance: %s\n", error.what());
    return 1;
  }
}
