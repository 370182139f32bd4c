#include "runner/files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace packqvit {
namespace {

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw std::runtime_error("cannot " + what + " " + path + ": " + std::strerror(errno));
}

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
  if (file_ == nullptr) fail("open", path);
}

size_t InputFile::read(void* data, size_t size) {
  const size_t count = std::fread(data, 1, size, file_.get());
  if (count < size && std::ferror(file_.get()) != 0) fail("read", path_);
  return count;
}

Bytes InputFile::rest() {
  constexpr size_t kStep = 16 * 1024;
  Bytes bytes;
  for (size_t count = kStep; count == kStep;) {
    const size_t size = bytes.size();
    bytes.resize(size + kStep);
    count = read(bytes.data() + size, kStep);
    bytes.resize(size + count);
  }
  return bytes;
}

bool InputFile::at_end() {
  const int next = std::fgetc(file_.get());
  if (next != EOF) return std::ungetc(next, file_.get()) == EOF;
  if (std::ferror(file_.get()) != 0) fail("read", path_);
  return true;
}

Bytes read_file(const std::string& path) { return InputFile(path).rest(); }

void write_file(const std::string& path, const void* data, size_t size) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) fail("create", path);
  const bool written = std::fwrite(data, 1, size, file) == size;
  const bool closed = std::fclose(file) == 0;
  if (!written || !closed) fail("write", path);
}

std::vector<std::string> read_lines(const std::string& path) {
  const Bytes bytes = read_file(path);
  std::vector<std::string> lines;
  for (auto at = bytes.begin(); at != bytes.end();) {
    const auto end = std::find(at, bytes.end(), '\n');
    std::string line(at, end);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(std::move(line));
    at = end == bytes.end() ? end : end + 1;
  }
  return lines;
}

}  // namespace packqvit
