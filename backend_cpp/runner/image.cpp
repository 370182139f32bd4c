#include "runner/image.h"

#include <cctype>
#include <cstring>
#include <stdexcept>

namespace packqvit {
namespace {

constexpr size_t kChannels = 3;

struct Geometry {
  size_t height;
  size_t width;
  bool channels_last;

  size_t pixels() const { return height * width; }
};

std::string size_text(size_t width, size_t height) {
  return std::to_string(width) + " x " + std::to_string(height) + " pixels";
}

bool takes_bytes(const RawTensor& input) { return input.type == executorch::aten::ScalarType::Byte; }

bool takes_normalized(const RawTensor& input, const Metadata& metadata) {
  return input.type == executorch::aten::ScalarType::Float && metadata.mean.size() == kChannels;
}

Geometry geometry_of(const RawTensor& input, const Metadata& metadata) {
  const auto& shape = input.shape;
  if (shape.size() == 4 && shape[0] > 0) {
    const auto side = [&](size_t axis) { return static_cast<size_t>(shape[axis]); };
    if (takes_bytes(input) && side(3) == kChannels) return {side(1), side(2), true};
    if ((takes_bytes(input) || takes_normalized(input, metadata)) && side(1) == kChannels) {
      return {side(2), side(3), false};
    }
  }
  throw std::runtime_error("--image needs a model that takes RGB images and says how; this one takes " +
                           describe(input) +
                           ": export it with byte input (packqvit export --input uint8), or with its metadata");
}

// The floats of normalised pixels, to the bit those of Python: planes, (byte / 255 - mean) / std.
Bytes normalize(const Bytes& planes, const Metadata& metadata) {
  Bytes floats(planes.size() * sizeof(float));
  const size_t pixels = planes.size() / kChannels;
  for (size_t i = 0; i < planes.size(); ++i) {
    const size_t channel = i / pixels;
    const float value = (static_cast<float>(planes[i]) / 255.0f - metadata.mean[channel]) / metadata.std[channel];
    std::memcpy(floats.data() + i * sizeof(float), &value, sizeof(value));
  }
  return floats;
}

// The header of a binary PPM: "P6", width, height and the largest byte, between white space and # comments.
class PpmHeader {
 public:
  PpmHeader(const Bytes& file, const std::string& path) : file_(file), path_(path) {
    if (file.size() < 2 || file[0] != 'P' || file[1] != '6') fail("it does not begin with P6");
    at_ = 2;
    width = number("width");
    height = number("height");
    if (number("maximum") != 255) fail("its largest value is not 255");
    if (at_ == file.size() || std::isspace(file[at_]) == 0) fail("there is no white space behind its header");
    ++at_;
  }

  // The pixels behind the header.
  Bytes pixels() const {
    const size_t expected = kChannels * width * height;
    if (file_.size() - at_ != expected) {
      fail(std::to_string(file_.size() - at_) + " bytes follow its header, " + size_text(width, height) + " have " +
           std::to_string(expected));
    }
    return Bytes(file_.begin() + static_cast<std::ptrdiff_t>(at_), file_.end());
  }

  size_t width = 0;
  size_t height = 0;

 private:
  static constexpr size_t kLargestSide = 65535;

  [[noreturn]] void fail(const std::string& reason) const {
    throw std::runtime_error(path_ + " is no binary PPM (P6) with 8 bits a channel: " + reason);
  }

  void skip_space() {
    for (bool comment = false; at_ < file_.size(); ++at_) {
      if (comment) {
        comment = file_[at_] != '\n';
      } else if (file_[at_] == '#') {
        comment = true;
      } else if (std::isspace(file_[at_]) == 0) {
        return;
      }
    }
  }

  size_t number(const char* what) {
    skip_space();
    const size_t start = at_;
    size_t value = 0;
    while (at_ < file_.size() && std::isdigit(file_[at_]) != 0 && value <= kLargestSide) {
      value = 10 * value + static_cast<size_t>(file_[at_++] - '0');
    }
    if (at_ == start || value == 0 || value > kLargestSide) fail(std::string("its ") + what + " is not in [1, 65535]");
    return value;
  }

  const Bytes& file_;
  const std::string& path_;
  size_t at_ = 0;
};

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// R, G, B of each pixel, row by row.
Bytes read_pixels(const std::string& path, const Geometry& geometry) {
  Bytes file = read_file(path);
  const std::string needed = "the model takes " + size_text(geometry.width, geometry.height) +
                             ": resize and crop the picture as for training, first";
  if (!ends_with(path, ".ppm")) {
    if (file.size() == kChannels * geometry.pixels()) return file;
    throw std::runtime_error(path + " has " + std::to_string(file.size()) + " bytes, raw RGB needs " +
                             std::to_string(kChannels * geometry.pixels()) + " (a PPM has to be named *.ppm); " +
                             needed);
  }
  const PpmHeader header(file, path);
  if (header.width != geometry.width || header.height != geometry.height) {
    throw std::runtime_error(path + " has " + size_text(header.width, header.height) + ", " + needed);
  }
  return header.pixels();
}

// Of each image that the input has.
Bytes repeated(const Bytes& image, const RawTensor& input) {
  Bytes all;
  all.reserve(input.data.size());
  for (int64_t i = 0; i < input.shape[0]; ++i) all.insert(all.end(), image.begin(), image.end());
  return all;
}

}  // namespace

Bytes read_image(const std::string& path, const RawTensor& input, const Metadata& metadata) {
  const Geometry geometry = geometry_of(input, metadata);
  const Bytes pixels = read_pixels(path, geometry);
  if (geometry.channels_last) return repeated(pixels, input);
  Bytes planes(pixels.size());
  for (size_t i = 0; i < pixels.size(); ++i) planes[i % kChannels * geometry.pixels() + i / kChannels] = pixels[i];
  return repeated(takes_bytes(input) ? planes : normalize(planes, metadata), input);
}

}  // namespace packqvit
