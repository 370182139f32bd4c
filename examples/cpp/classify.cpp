// Prints the class with the largest logit: classify MODEL.pte IMAGE, where IMAGE is a file of the program's raw input.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

int main(int count, char** words) {
  if (count != 3) return std::fprintf(stderr, "usage: classify MODEL.pte IMAGE\n"), 2;
  executorch::extension::Module module(words[1]);
  const auto method = module.method_meta("forward");
  if (!method.ok()) return std::fprintf(stderr, "%s is not a program that loads here\n", words[1]), 1;
  const auto info = method->input_tensor_meta(0);
  std::ifstream file(words[2], std::ios::binary);
  std::vector<char> image{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!info.ok() || image.size() != info->nbytes()) {
    return std::fprintf(stderr, "%s has %zu bytes, the program wants %zu\n", words[2], image.size(), info->nbytes()), 1;
  }
  const std::vector<executorch::aten::SizesType> shape{info->sizes().begin(), info->sizes().end()};
  const auto results = module.forward(executorch::extension::from_blob(image.data(), shape, info->scalar_type()));
  if (!results.ok()) return std::fprintf(stderr, "error %d, see the log\n", static_cast<int>(results.error())), 1;
  const auto& logits = results->at(0).toTensor();
  const float* first = logits.const_data_ptr<float>();
  std::printf("class %td\n", std::max_element(first, first + logits.numel()) - first);
}
