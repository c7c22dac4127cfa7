// From a picture file to the pixels that the detector saw when it learned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

struct Picture {
    std::size_t height = 0, width = 0;
    std::vector<std::uint8_t> rgb;  // height × width × 3
};

// A PNG or JPEG file, upright.
//
// value_range: black and white of 16-bit grey; without one they are 0 and 65535.
// Throws std::runtime_error where it is damaged, or of a kind whose pixels would not be those.
Picture read_picture(const std::vector<std::uint8_t>& encoded, std::optional<std::pair<double, double>> value_range);
