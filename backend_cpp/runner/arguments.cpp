#include "runner/arguments.h"

#include <cerrno>
#include <cstdlib>
#include <functional>
#include <map>

namespace packqvit {

const char kUsage[] =
    "usage: packqvit_runner --model M.pte [options]\n"
    "  --method NAME      of a program that has several, one for each number of images (forward, or the only one)\n"
    "  --input FILE       raw little-endian input tensor; once for each input of the model, in order.\n"
    "                     Without it the inputs are pseudo-random, the same on every machine.\n"
    "  --image FILE       a picture of the model's size, for models that take bytes or say how pictures become their\n"
    "                     input: a binary PPM named *.ppm, else raw bytes R, G, B of each pixel\n"
    "  --batch-file FILE  any number of inputs one behind the other, run in turn (models with one input)\n"
    "  --output FILE      writes the raw outputs, one behind the other\n"
    "  --labels FILE      class names, one a line, for models that do not have them inside\n"
    "  --top K            classes to print for outputs of two axes (5); a model exported with top-k has its own\n"
    "  --iterations N     measured runs (1)\n"
    "  --warmup W         runs before the measured ones (0)\n"
    "  --threads N        threads of ExecuTorch's pool (its own choice)\n"
    "  --etdump FILE      writes an ETDump of all runs for executorch.devtools.Inspector\n"
    "  --tier NAME        kernel tier of the PackQViT delegate (the best of this CPU)\n";

namespace {

size_t parse_number(const std::string& option, const std::string& word) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long number = std::strtoull(word.c_str(), &end, 10);
  if (word.empty() || word[0] == '-' || *end != '\0' || errno != 0 || number > 1000000000) {
    throw UsageError(option + " needs a number, not '" + word + "'");
  }
  return static_cast<size_t>(number);
}

}  // namespace

RunnerArguments parse_arguments(int count, const char* const* words) {
  RunnerArguments arguments;
  bool iterations_given = false;
  const std::map<std::string, std::function<void(const std::string&)>> options = {
      {"--model", [&](const std::string& word) { arguments.model = word; }},
      {"--method", [&](const std::string& word) { arguments.method = word; }},
      {"--input", [&](const std::string& word) { arguments.inputs.push_back(word); }},
      {"--image", [&](const std::string& word) { arguments.image = word; }},
      {"--batch-file", [&](const std::string& word) { arguments.batch_file = word; }},
      {"--output", [&](const std::string& word) { arguments.output = word; }},
      {"--labels", [&](const std::string& word) { arguments.labels = word; }},
      {"--etdump", [&](const std::string& word) { arguments.etdump = word; }},
      {"--tier", [&](const std::string& word) { arguments.tier = word; }},
      {"--top", [&](const std::string& word) { arguments.top = parse_number("--top", word); }},
      {"--iterations",
       [&](const std::string& word) {
         arguments.iterations = parse_number("--iterations", word);
         iterations_given = true;
       }},
      {"--warmup", [&](const std::string& word) { arguments.warmup = parse_number("--warmup", word); }},
      {"--threads", [&](const std::string& word) { arguments.threads = parse_number("--threads", word); }},
  };
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--help" || word == "-h") {
      arguments.help = true;
      return arguments;
    }
    const auto option = options.find(word);
    if (option == options.end()) throw UsageError("unknown option '" + word + "'");
    if (++i == count) throw UsageError(word + " needs an argument");
    option->second(words[i]);
  }
  if (arguments.model.empty()) throw UsageError("--model is missing");
  if (arguments.iterations == 0) throw UsageError("--iterations needs at least 1");
  if (!arguments.batch_file.empty() && (!arguments.inputs.empty() || iterations_given)) {
    throw UsageError("--batch-file goes with neither --input nor --iterations");
  }
  if (!arguments.image.empty() && (!arguments.inputs.empty() || !arguments.batch_file.empty())) {
    throw UsageError("--image goes with neither --input nor --batch-file");
  }
  return arguments;
}

}  // namespace packqvit
