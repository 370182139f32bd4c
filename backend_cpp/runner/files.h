#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace packqvit {

using Bytes = std::vector<uint8_t>;

// A file that is read from its beginning, not through C++'s streams: their locales take half a megabyte.
//
// All of these throw std::runtime_error with the path and the system's reason.
class InputFile {
 public:
  explicit InputFile(const std::string& path);

  // Up to `size` bytes; fewer only at the end.
  size_t read(void* data, size_t size);

  // The bytes that are left.
  Bytes rest();

  bool at_end();
  const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

Bytes read_file(const std::string& path);
void write_file(const std::string& path, const void* data, size_t size);

// The lines of a text file, without their ends.
std::vector<std::string> read_lines(const std::string& path);

}  // namespace packqvit
