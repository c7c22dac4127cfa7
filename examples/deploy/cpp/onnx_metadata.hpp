// The metadata of an exported model, which OpenVINO does not show.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

using Bytes = std::vector<std::uint8_t>;

// Every entry of metadata_props. Throws std::runtime_error where the bytes are no ONNX file.
std::map<std::string, std::string> metadata_of(const Bytes& model);

// The held-out scores in the entry `model`, which is JSON. Throws std::runtime_error where they are not there.
std::vector<double> held_out_scores(const std::string& config);

// Throws std::runtime_error where the text is not base64.
Bytes from_base64(const std::string& text);
