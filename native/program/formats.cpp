#include "program/formats.h"

#include <stdexcept>

namespace plait {
namespace {

struct FormatInfo {
    const char* name;
    Format format;
    int block, bytes;  // weights in a block, and its bytes
};

constexpr FormatInfo kFormats[] = {
    {"F32", Format::F32, 1, 4},       {"F16", Format::F16, 1, 2},         {"BF16", Format::BF16, 1, 2},
    {"Q8_0", Format::Q8_0, 32, 34},   {"Q4_0", Format::Q4_0, 32, 18},     {"Q4_1", Format::Q4_1, 32, 20},
    {"Q5_0", Format::Q5_0, 32, 22},   {"Q5_1", Format::Q5_1, 32, 24},     {"Q2_K", Format::Q2_K, 256, 84},
    {"Q3_K", Format::Q3_K, 256, 110}, {"Q4_K", Format::Q4_K, 256, 144},   {"Q5_K", Format::Q5_K, 256, 176},
    {"Q6_K", Format::Q6_K, 256, 210}, {"IQ4_NL", Format::IQ4_NL, 32, 18}, {"IQ4_XS", Format::IQ4_XS, 256, 136},
    {"IQ1_S", Format::IQ1_S, 256, 50},     {"IQ1_M", Format::IQ1_M, 256, 56},
    {"IQ2_XXS", Format::IQ2_XXS, 256, 66}, {"IQ2_XS", Format::IQ2_XS, 256, 74},
    {"IQ2_S", Format::IQ2_S, 256, 82},     {"IQ3_XXS", Format::IQ3_XXS, 256, 98},
    {"IQ3_S", Format::IQ3_S, 256, 110},    {"TQ1_0", Format::TQ1_0, 256, 54},
    {"TQ2_0", Format::TQ2_0, 256, 66},     {"MXFP4", Format::MXFP4, 32, 17},
};

const FormatInfo& info_of(const std::string& name) {
    for (const FormatInfo& info : kFormats) {
        if (name == info.name) return info;
    }
    throw std::invalid_argument("there are no kernels for weights in " + name);
}

}  // namespace

std::vector<std::string> supported_formats() {
    std::vector<std::string> names;
    for (const FormatInfo& info : kFormats) names.emplace_back(info.name);
    return names;
}

Matrix make_matrix(std::span<const std::uint8_t> bytes, const std::string& format, std::int64_t rows, int columns) {
    const FormatInfo& info = info_of(format);
    if (rows < 1 || columns < 1 || columns % info.block != 0) {
        throw std::invalid_argument(std::to_string(rows) + " x " + std::to_string(columns) +
                                    " weights do not make blocks of " + std::to_string(info.block) + " in " + format);
    }
    const std::size_t row_bytes = static_cast<std::size_t>(columns / info.block) * static_cast<std::size_t>(info.bytes);
    if (bytes.size() % row_bytes != 0 || bytes.size() / row_bytes != static_cast<std::size_t>(rows)) {
        throw std::invalid_argument(std::to_string(bytes.size()) + " bytes for " + std::to_string(rows) + " rows of " +
                                    std::to_string(row_bytes));
    }
    if (info.format == Format::F32 && reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(float) != 0) {
        throw std::invalid_argument("float32 weights are not aligned to 4 bytes");
    }
    return {bytes.data(), nullptr, row_bytes, rows, columns, info.format};
}

}  // namespace plait
