#include "pictures.hpp"

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs it
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t MIN_SIDE = 16;

// As a decoder gives it: rows as they are stored.
struct Decoded {
    std::size_t height = 0, width = 0, n_channels = 0;
    bool is_deep = false;  // two bytes a value, the higher one first
    Bytes values;
    Bytes exif;
};

// Both libraries report errors by a jump, past the destructors of what lies between. So each decoder is a function
// without an object of its own, and gives back what is wrong, or nullptr.
struct Jump {
    std::jmp_buf back;
    char text[JMSG_LENGTH_MAX] = "";
};

struct JpegJump {
    jpeg_error_mgr base;  // first, so that a pointer to it is one to the whole
    Jump jump;
};

[[noreturn]] void jpeg_failed(j_common_ptr file) {
    auto* failed = reinterpret_cast<JpegJump*>(file->err);
    file->err->format_message(file, failed->jump.text);
    std::longjmp(failed->jump.back, 1);
}

void jpeg_warned(j_common_ptr file, int level) {
    if (level < 0 && file->err->msg_code == JWRN_JPEG_EOF) jpeg_failed(file);  // the rest would be grey
}

const char* decode_jpeg(const Bytes& encoded, Decoded& out, JpegJump& failed) {
    jpeg_decompress_struct file{};
    file.err = jpeg_std_error(&failed.base);
    failed.base.error_exit = jpeg_failed;
    failed.base.emit_message = jpeg_warned;
    if (setjmp(failed.jump.back)) {
        jpeg_destroy_decompress(&file);
        return failed.jump.text;
    }
    jpeg_create_decompress(&file);
    jpeg_mem_src(&file, encoded.data(), encoded.size());
    jpeg_save_markers(&file, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&file, TRUE);
    if (file.jpeg_color_space == JCS_CMYK || file.jpeg_color_space == JCS_YCCK) {
        jpeg_destroy_decompress(&file);
        return "it is in CMYK. Convert it to RGB.";
    }
    for (auto* marker = file.marker_list; marker != nullptr; marker = marker->next)
        if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0", 6) == 0 && out.exif.empty())
            out.exif.assign(marker->data + 6, marker->data + marker->data_length);
    file.out_color_space = file.jpeg_color_space == JCS_GRAYSCALE ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&file);
    out.height = file.output_height;
    out.width = file.output_width;
    out.n_channels = file.output_components;
    out.values.resize(out.height * out.width * out.n_channels);
    while (file.output_scanline < file.output_height) {
        JSAMPROW row = out.values.data() + file.output_scanline * out.width * out.n_channels;
        jpeg_read_scanlines(&file, &row, 1);
    }
    jpeg_finish_decompress(&file);
    jpeg_destroy_decompress(&file);
    return nullptr;
}

[[noreturn]] void png_failed(png_structp file, png_const_charp text) {
    auto* failed = static_cast<Jump*>(png_get_error_ptr(file));
    std::snprintf(failed->text, sizeof failed->text, "%s", text);
    std::longjmp(failed->back, 1);
}

void png_warned(png_structp, png_const_charp) {}

struct Source {
    const Bytes& encoded;
    std::size_t at;
};

void read_png(png_structp file, png_bytep to, png_size_t n) {
    auto* source = static_cast<Source*>(png_get_io_ptr(file));
    if (n > source->encoded.size() - source->at) png_error(file, "it is cut off");
    std::memcpy(to, source->encoded.data() + source->at, n);
    source->at += n;
}

const char* decode_png(Source& source, Decoded& out, std::vector<png_bytep>& rows, Jump& failed) {
    png_structp file = png_create_read_struct(PNG_LIBPNG_VER_STRING, &failed, png_failed, png_warned);
    png_infop info = file ? png_create_info_struct(file) : nullptr;
    if (info == nullptr) return "there is no memory for it";
    if (setjmp(failed.back)) {
        png_destroy_read_struct(&file, &info, nullptr);
        return failed.text;
    }
    png_set_read_fn(file, &source, read_png);
    png_read_info(file, info);
    const auto kind = png_get_color_type(file, info);
    out.is_deep = png_get_bit_depth(file, info) == 16;
    if (out.is_deep && kind != PNG_COLOR_TYPE_GRAY) png_error(file, "it has 16 bits for each colour. Convert it to 8.");
    if (!out.is_deep) {
        png_set_expand(file);  // palettes, fewer bits than 8, transparent colours
        png_set_gray_to_rgb(file);
        png_set_add_alpha(file, 255, PNG_FILLER_AFTER);
    }
    png_set_interlace_handling(file);
    png_read_update_info(file, info);
    out.height = png_get_image_height(file, info);
    out.width = png_get_image_width(file, info);
    out.n_channels = png_get_channels(file, info);
    const std::size_t n_bytes = png_get_rowbytes(file, info);
    out.values.resize(out.height * n_bytes);
    rows.resize(out.height);
    for (std::size_t y = 0; y < out.height; ++y) rows[y] = out.values.data() + y * n_bytes;
    png_read_image(file, rows.data());
    png_read_end(file, info);
    png_bytep exif = nullptr;
    png_uint_32 n_exif = 0;
    if (png_get_eXIf_1(file, info, &n_exif, &exif) != 0) out.exif.assign(exif, exif + n_exif);
    png_destroy_read_struct(&file, &info, nullptr);
    return nullptr;
}

// How a picture lies, 1 to 8 as in the EXIF standard; 0 where its EXIF does not say.
int orientation(const Bytes& exif) {
    const bool is_little = exif.size() > 1 && exif[0] == 'I';
    const auto number = [&](std::size_t at, std::size_t n) {
        std::size_t value = 0;
        for (std::size_t i = 0; i < n; ++i)
            if (at + i < exif.size()) value |= std::size_t{exif[at + i]} << 8 * (is_little ? i : n - 1 - i);
        return value;
    };
    const std::size_t first = number(4, 4), n_tags = number(first, 2);
    for (std::size_t at = first + 2; at < first + 2 + 12 * n_tags && at + 12 <= exif.size(); at += 12)
        if (number(at, 2) == 0x0112) return static_cast<int>(number(at + 8, number(at + 2, 2) == 4 ? 4 : 2));
    return 0;
}

// The same picture, turned and mirrored from how it is stored to how it is seen.
Picture upright(const Picture& stored, int lies) {
    const bool is_sideways = lies >= 5;
    const bool is_bottom_first = lies == 3 || lies == 4 || lies == 6 || lies == 7;
    const bool is_right_first = lies == 2 || lies == 3 || lies == 7 || lies == 8;
    Picture seen;
    seen.height = is_sideways ? stored.width : stored.height;
    seen.width = is_sideways ? stored.height : stored.width;
    seen.rgb.reserve(stored.rgb.size());
    for (std::size_t y = 0; y < seen.height; ++y)
        for (std::size_t x = 0; x < seen.width; ++x) {
            std::size_t row = is_sideways ? x : y, column = is_sideways ? y : x;
            if (is_bottom_first) row = stored.height - 1 - row;
            if (is_right_first) column = stored.width - 1 - column;
            const auto* pixel = stored.rgb.data() + 3 * (row * stored.width + column);
            seen.rgb.insert(seen.rgb.end(), pixel, pixel + 3);
        }
    return seen;
}

// RGBA over white; what is transparent everywhere keeps its colours.
Bytes over_white(const Bytes& rgba) {
    bool is_seen = false;
    for (std::size_t i = 3; i < rgba.size() && !is_seen; i += 4) is_seen = rgba[i] > 0;
    Bytes rgb;
    rgb.reserve(rgba.size() / 4 * 3);
    for (std::size_t i = 0; i < rgba.size(); ++i) {
        const unsigned alpha = is_seen ? rgba[i - i % 4 + 3] : 255;
        if (i % 4 < 3) rgb.push_back(static_cast<std::uint8_t>((rgba[i] * alpha + 255 * (255 - alpha) + 127) / 255));
    }
    return rgb;
}

// 16-bit grey, the higher byte first, in float32 and with halves rounded to even, as the detector's program does it.
Bytes deep_grey(const Bytes& values, double black, double white) {
    const auto scale = static_cast<float>(255.0 / (white - black));
    Bytes grey(values.size() / 2);
    for (std::size_t i = 0; i < grey.size(); ++i) {
        const auto value = static_cast<float>(values[2 * i] << 8 | values[2 * i + 1]);
        const float level = (value - static_cast<float>(black)) * scale;
        grey[i] = static_cast<std::uint8_t>(std::nearbyint(std::clamp(level, 0.0F, 255.0F)));
    }
    return grey;
}

Bytes repeated(const Bytes& grey) {
    Bytes rgb;
    rgb.reserve(3 * grey.size());
    for (const auto value : grey) rgb.insert(rgb.end(), 3, value);
    return rgb;
}

// Where EXIF says nothing, the text of a file may; this program does not read that.
void check_text(const Bytes& encoded) {
    const std::string_view text(reinterpret_cast<const char*>(encoded.data()), encoded.size());
    for (const std::string_view said : {"tiff:Orientation=\"", "tiff:Orientation>"}) {
        const auto at = text.find(said);
        if (at != std::string_view::npos && text.substr(at + said.size(), 1) != "1")
            throw std::runtime_error("how it lies stands in XMP alone, which this program does not read. Save it upright.");
    }
    if (text.find("Raw profile type exif") != std::string_view::npos)
        throw std::runtime_error("its EXIF stands in a text, which this program does not read. Save it without.");
}

}  // namespace

Picture read_picture(const Bytes& encoded, std::optional<std::pair<double, double>> value_range) {
    Decoded decoded;
    const char* wrong = "it is no PNG or JPEG file, and this program reads no others. Convert it.";
    JpegJump failed_jpeg{};
    Jump failed_png;
    if (encoded.size() > 8 && png_sig_cmp(encoded.data(), 0, 8) == 0) {
        Source source{encoded, 0};
        std::vector<png_bytep> rows;
        wrong = decode_png(source, decoded, rows, failed_png);
    } else if (encoded.size() > 3 && encoded[0] == 0xFF && encoded[1] == 0xD8) {
        wrong = decode_jpeg(encoded, decoded, failed_jpeg);
    }
    if (wrong != nullptr) throw std::runtime_error(wrong);
    if (std::min(decoded.height, decoded.width) < MIN_SIDE)
        throw std::runtime_error("it has fewer than 16 pixels on a side. Use a larger picture.");
    const int lies = orientation(decoded.exif);
    if (lies == 0) check_text(encoded);

    Picture stored{decoded.height, decoded.width, {}};
    const auto [black, white] = value_range.value_or(std::pair(0.0, 65535.0));
    if (decoded.is_deep)
        stored.rgb = repeated(deep_grey(decoded.values, black, white));
    else if (decoded.n_channels == 4)
        stored.rgb = over_white(decoded.values);
    else
        stored.rgb = decoded.n_channels == 1 ? repeated(decoded.values) : std::move(decoded.values);
    return lies >= 2 && lies <= 8 ? upright(stored, lies) : stored;
}
