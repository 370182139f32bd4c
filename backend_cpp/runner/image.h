#pragma once

#include <string>

#include "runner/metadata.h"
#include "runner/model.h"

namespace packqvit {

// An RGB picture in the layout of `input`: its bytes for uint8 [B, H, W, 3] or [B, 3, H, W]; for float [B, 3, H, W]
// normalised as `metadata` says. The same picture in every row of a batch.
//
// A name that ends in .ppm is a binary PPM (P6) of H x W pixels; any other file holds the raw bytes R, G, B of each
// pixel, row by row. Throws std::runtime_error when the model takes no image, or floats of which nothing is said, or
// the picture is damaged or of another size.
Bytes read_image(const std::string& path, const RawTensor& input, const Metadata& metadata);

}  // namespace packqvit
