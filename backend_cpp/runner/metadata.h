#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace packqvit {

// What a .pte says of itself by constant methods (packqvit_delegate/metadata.py): nothing in files that have none.
struct Metadata {
  std::vector<std::string> class_names;
  // Of the three channels R, G, B: an input is (byte / 255 - mean) / std. Empty where the file does not say.
  std::vector<float> mean;
  std::vector<float> std;
};

// Executes the constant methods of a program file. Throws std::runtime_error where one gives something unexpected, or
// a later version of the package wrote them.
Metadata read_metadata(const std::string& path);

}  // namespace packqvit
