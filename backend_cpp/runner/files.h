#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

namespace packqvit {

using Bytes = std::vector<uint8_t>;

// All of these throw std::runtime_error with the path and the system's reason.
std::ifstream open_file(const std::string& path);
Bytes read_file(const std::string& path);
void write_file(const std::string& path, const void* data, size_t size);

// The lines of a text file, without their ends.
std::vector<std::string> read_lines(const std::string& path);

}  // namespace packqvit
