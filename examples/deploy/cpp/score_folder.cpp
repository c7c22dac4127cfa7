// Score every picture of a folder with an exported model, by OpenVINO's C++ API.
//
//     score_folder MODEL.onnx FOLDER [--maps OUT]
//
// Prints one line of CSV for each picture. Exit status: 0 where all were scored, 1 where some could not be, 2 where
// none was, since the model or the call is wrong. The map of each picture goes to OUT as float32 .npy.

#include "onnx_metadata.hpp"
#include "pictures.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <openvino/openvino.hpp>

namespace fs = std::filesystem;

namespace {

const std::vector<std::string> SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
                                           ".pgm",  ".png", ".pnm", ".ppm",  ".tif", ".tiff", ".webp"};
constexpr double PROBE_TOLERANCE = 1e-3;  // of the score; the same file on other runtimes differs by about 1e-5

struct Given {
    fs::path model, folder;
    std::optional<fs::path> maps;
};

struct Model {
    ov::InferRequest request;
    double threshold = 0;
    std::string threshold_text;
    std::vector<double> held_out;
    std::optional<std::pair<double, double>> value_range;
};

Given given_by(const std::vector<std::string>& arguments) {
    Given given;
    std::vector<std::string> others;
    for (std::size_t i = 0; i < arguments.size(); ++i)
        if (arguments[i] == "--maps" && i + 1 < arguments.size())
            given.maps = arguments[++i];
        else
            others.push_back(arguments[i]);
    if (others.size() != 2) throw std::runtime_error("usage: score_folder MODEL.onnx FOLDER [--maps OUT]");
    given.model = others[0];
    given.folder = others[1];
    return given;
}

Bytes read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file || fs::is_directory(path)) throw std::runtime_error(path.string() + " cannot be opened.");
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

// The raw score; the map is in the request afterwards.
double score_of(ov::InferRequest& request, Picture& picture) {
    request.set_tensor("image", ov::Tensor(ov::element::u8, {picture.height, picture.width, 3}, picture.rgb.data()));
    request.infer();
    return request.get_tensor("score").data<float>()[0];
}

// The model and what its file says, once it has scored its own picture as it must.
Model checked_model(const fs::path& path) {
    const auto metadata = metadata_of(read_file(path));
    const auto found = metadata.find("admodels_format");
    if (found == metadata.end() || found->second != "1")
        throw std::runtime_error("its metadata have no admodels_format=1: it is no exported model, or a newer one.");

    Model model;
    model.threshold_text = metadata.at("threshold");
    model.threshold = std::stod(model.threshold_text);
    model.held_out = held_out_scores(metadata.at("model"));
    const std::string& range = metadata.at("value_range");
    if (!range.empty()) model.value_range = {std::stod(range), std::stod(range.substr(range.find(':') + 1))};

    ov::Core core;
    // Some processors would compute in bfloat16 otherwise, and the threshold is one of float32.
    const auto precision = ov::hint::inference_precision(ov::element::f32);
    model.request = core.compile_model(core.read_model(path.string()), "CPU", precision).create_infer_request();

    Picture probe = read_picture(from_base64(metadata.at("probe_png")), std::nullopt);
    const double score = score_of(model.request, probe), expected = std::stod(metadata.at("probe_score"));
    // Written so that NaN fails.
    if (!(std::abs(score - expected) <= PROBE_TOLERANCE * std::max(std::abs(expected), std::abs(model.threshold))))
        throw std::runtime_error("its own picture scores " + std::to_string(score) + " here and must score " +
                                 std::to_string(expected) + ".");
    return model;
}

std::vector<fs::path> pictures_in(const fs::path& folder) {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(folder)) {
        std::string suffix = entry.path().extension().string();
        std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
        if (std::find(SUFFIXES.begin(), SUFFIXES.end(), suffix) != SUFFIXES.end())
            paths.push_back(entry.path());
        else
            std::cerr << entry.path().filename().string() << " is passed over: by its ending it is no picture.\n";
    }
    if (paths.empty()) throw std::runtime_error("there are no pictures in " + folder.string() + ".");
    std::sort(paths.begin(), paths.end());
    return paths;
}

std::string cell(const std::string& text) {
    if (text.find_first_of("\",\n\r") == std::string::npos) return text;
    std::string quoted = "\"";
    for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
    return quoted + '"';
}

// A map as a .npy file; of processors with the lower byte first, as all that OpenVINO runs on.
void write_npy(const fs::path& path, const ov::Tensor& map) {
    const auto shape = map.get_shape();
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(shape[0]) + ", " +
                         std::to_string(shape[1]) + "), }";
    header.resize((header.size() + 11 + 63) / 64 * 64 - 11, ' ');  // 10 bytes stand before it, and a line end after
    header += '\n';
    std::ofstream file(path, std::ios::binary);
    file.write("\x93NUMPY\x01\x00", 8);
    file.put(static_cast<char>(header.size() % 256)).put(static_cast<char>(header.size() / 256));
    file << header;
    file.write(static_cast<const char*>(map.data()), static_cast<std::streamsize>(map.get_byte_size()));
    if (!file.flush()) throw std::runtime_error(path.string() + " cannot be written.");
}

}  // namespace

int main(int n_arguments, char** arguments) {
    Given given;
    Model model;
    std::vector<fs::path> paths;
    try {
        given = given_by({arguments + 1, arguments + n_arguments});
        paths = pictures_in(given.folder);
        model = checked_model(given.model);
        if (given.maps) fs::create_directories(*given.maps);
    } catch (const std::exception& error) {
        std::cerr << "Nothing was scored: " << error.what() << '\n';
        return 2;
    }

    int status = 0;
    std::cout << "picture,score,threshold,p_value,verdict" << std::endl;
    for (const auto& path : paths) {
        const std::string name = path.filename().string();
        Picture picture;
        try {
            picture = read_picture(read_file(path), model.value_range);
        } catch (const std::exception& error) {
            std::cerr << name << " was not scored: " << error.what() << '\n';
            status = 1;
            continue;
        }
        const double score = score_of(model.request, picture);
        double n_held_out = 0, n_as_high = 0;
        for (const double held_out : model.held_out) {
            ++n_held_out;
            n_as_high += held_out >= score;
        }
        const double p_value = (1 + n_as_high) / (n_held_out + 1);
        char numbers[64];
        std::snprintf(numbers, sizeof numbers, "%.9g,%s,%.6g", score, model.threshold_text.c_str(), p_value);
        std::cout << cell(name) << ',' << numbers << (score > model.threshold ? ",anomalous" : ",good") << std::endl;
        if (given.maps) write_npy(*given.maps / (name + ".npy"), model.request.get_tensor("map"));
    }
    return status;
}
