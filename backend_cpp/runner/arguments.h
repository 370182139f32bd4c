#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace packqvit {

struct RunnerArguments {
  std::string model;
  std::string method;  // empty: forward, or the only one
  std::vector<std::string> inputs;
  std::string image;
  std::string batch_file;
  std::string output;
  std::string labels;
  std::string etdump;
  std::string tier;
  size_t top = 5;
  size_t iterations = 1;
  size_t warmup = 0;
  size_t threads = 0;  // 0: ExecuTorch's choice
  bool help = false;
};

// A command line that does not make sense.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

extern const char kUsage[];

RunnerArguments parse_arguments(int count, const char* const* words);

}  // namespace packqvit
