// Runs a program with one input and writes its first output: consumer MODEL INPUT OUTPUT.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

int main(int count, char** words) {
  if (count != 4) return 2;
  executorch::extension::Module module(words[1]);
  const auto meta = module.method_meta("forward");
  if (!meta.ok()) return 3;
  const auto info = meta->input_tensor_meta(0);
  if (!info.ok()) return 3;
  std::ifstream file(words[2], std::ios::binary);
  std::vector<char> data{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (data.size() != info->nbytes()) return 4;
  const auto input =
      executorch::extension::from_blob(data.data(), {info->sizes().begin(), info->sizes().end()}, info->scalar_type());
  const auto results = module.forward(input);
  if (!results.ok()) {
    std::fprintf(stderr, "forward: error %d\n", static_cast<int>(results.error()));
    return 1;
  }
  const auto& output = results->at(0).toTensor();
  std::ofstream(words[3], std::ios::binary)
      .write(static_cast<const char*>(output.const_data_ptr()), static_cast<std::streamsize>(output.nbytes()));
  return 0;
}
