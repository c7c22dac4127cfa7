#include "onnx_metadata.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace {

constexpr std::uint64_t METADATA = 14;  // ModelProto.metadata_props: messages of field 1, the key, and 2, the value

[[noreturn]] void fail_as_cut_off() { throw std::runtime_error("it is cut off, or no ONNX file."); }

// An ONNX file is a protobuf message: fields one after the other, each a key (number × 8 + kind) and a value. Those of
// kind 2 say how long they are, so that all others can be passed over without knowing what they mean.
class Fields {
public:
    explicit Fields(std::string_view bytes) : rest_(bytes) {}

    // The next field that has a length; false at the end.
    bool next(std::uint64_t& number, std::string_view& value) {
        while (!rest_.empty()) {
            const std::uint64_t key = varint();
            switch (key % 8) {
                case 0: varint(); break;
                case 1: take(8); break;
                case 5: take(4); break;
                case 2:
                    number = key / 8;
                    value = take(varint());
                    return true;
                default: throw std::runtime_error("it is no ONNX file.");
            }
        }
        return false;
    }

private:
    std::string_view take(std::uint64_t length) {
        if (length > rest_.size()) fail_as_cut_off();
        const std::string_view taken = rest_.substr(0, length);
        rest_.remove_prefix(length);
        return taken;
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<std::uint8_t>(take(1)[0]);
            value |= static_cast<std::uint64_t>(byte & 127) << shift;
            if (byte < 128) return value;
        }
        fail_as_cut_off();
    }

    std::string_view rest_;
};

}  // namespace

std::map<std::string, std::string> metadata_of(const Bytes& model) {
    std::map<std::string, std::string> metadata;
    Fields fields(std::string_view(reinterpret_cast<const char*>(model.data()), model.size()));
    std::uint64_t number = 0;
    for (std::string_view entry; fields.next(number, entry);) {
        if (number != METADATA) continue;
        std::string texts[2];
        Fields parts(entry);
        for (std::string_view text; parts.next(number, text);)
            if (number == 1 || number == 2) texts[number - 1] = text;
        metadata[texts[0]] = texts[1];
    }
    return metadata;
}

// The exporter writes this JSON, so that a search does where a program that reads any JSON would need a library.
std::vector<double> held_out_scores(const std::string& config) {
    std::vector<double> scores;
    auto at = config.find("\"calibration\"");
    for (const char* part : {"\"scores\"", "["})
        if (at != std::string::npos) at = config.find(part, at);
    if (at != std::string::npos) {
        const char* text = config.c_str() + at;  // at the bracket, then at each comma
        for (char* end = nullptr; *text == '[' || *text == ','; text = end) {
            scores.push_back(std::strtod(text + 1, &end));
            if (end == text + 1) break;
        }
        if (*text == ']') return scores;
    }
    throw std::runtime_error("its metadata have no held-out scores.");
}

Bytes from_base64(const std::string& text) {
    static constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    Bytes bytes;
    std::uint32_t bits = 0;
    int n_bits = 0;
    for (const char c : text.substr(0, text.find('='))) {
        const auto digit = digits.find(c);
        if (digit == std::string_view::npos) throw std::runtime_error("its stored picture is damaged.");
        bits = bits << 6 | static_cast<std::uint32_t>(digit);
        n_bits += 6;
        if (n_bits >= 8) bytes.push_back(static_cast<std::uint8_t>(bits >> (n_bits -= 8)));
    }
    return bytes;
}
