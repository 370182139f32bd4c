#pragma once

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "runner/files.h"

namespace packqvit {

// A tensor as raw little-endian elements.
struct RawTensor {
  executorch::aten::ScalarType type;
  std::vector<executorch::aten::SizesType> shape;
  Bytes data;

  size_t element_size() const;
  // Element `index` as a number.
  double number(size_t index) const;
};

// "Float [1, 3, 224, 224]".
std::string describe(const RawTensor& tensor);

// A method of a .pte file. Everything throws std::runtime_error with the reason.
class Model {
 public:
  struct Options {
    std::string tier;     // empty: the backend's choice
    size_t threads = 0;   // of ExecuTorch's pool; 0: its own choice
    bool traced = false;  // collect an ETDump
    std::string method;   // empty: forward, or the only one of a program
  };
  Model(const std::string& path, const Options& options);

  // Type and shape of each input, with data of the right size.
  const std::vector<RawTensor>& inputs() const { return inputs_; }

  // Replaces the data of an input; `origin` names it in the error about a wrong size.
  void set_input(size_t index, const Bytes& data, const std::string& origin);

  // Reads it from a file to where the program takes it from: what the file has next, or all of it.
  void read_input(size_t index, InputFile& file, const std::string& origin);
  void read_input(size_t index, const std::string& path);

  // Fills an input with numbers that are the same on every machine.
  void set_pseudo_random_input(size_t index);

  // Runs the method on the inputs. The result stays valid until the next run.
  void run();
  std::vector<RawTensor> outputs() const;

  void write_etdump(const std::string& path);

 private:
  void check_size(size_t index, size_t size, const std::string& origin) const;

  executorch::etdump::ETDumpGen* tracer_ = nullptr;
  std::unique_ptr<executorch::extension::Module> module_;
  std::string method_;
  std::vector<RawTensor> inputs_;
  std::vector<executorch::extension::TensorPtr> tensors_;
  std::vector<executorch::runtime::EValue> arguments_;
  std::vector<executorch::runtime::EValue> results_;
};

}  // namespace packqvit
