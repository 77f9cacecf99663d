#include "program/products.h"

namespace plait {
namespace {

constexpr int kColumnsPerTask = 512;
static_assert(kColumnsPerTask % 256 == 0);

// Row groups whose panels, beside a task's weights, stay in the second-level cache.
int groups_at_a_time(int columns) {
    const std::size_t bytes = panel_blocks(kPanelRows, columns) * sizeof(PanelBlock);
    return std::max(1, static_cast<int>(std::size_t{384 * 1024} / bytes));
}

// The tile that holds the column; null past the last.
const std::uint8_t* tile_at(const Matrix& weight, std::int64_t column) {
    if (column >= weight.rows) return nullptr;
    return weight.packed +
           static_cast<std::size_t>(column / kPackedColumns) * packed_tile_bytes(weight.format, weight.columns);
}

bool alone(int rows, int columns) { return std::int64_t{rows} * columns <= kQuantisedAlone; }

}  // namespace

int scale_inputs_of(const std::vector<LinearPart>& parts) {
    int most = 0;
    for (const LinearPart& part : parts) {
        if (part.weight.packed != nullptr) most = std::max(most, scale_inputs(part.weight.format));
    }
    return most;
}

int scale_inputs(const Matrix& gate, const Matrix& up) {
    return std::max(scale_inputs(gate.format), scale_inputs(up.format));
}

std::size_t quantise_scratch(int rows, int columns) {
    return alone(rows, columns) ? panel_blocks(rows, columns) * sizeof(PanelBlock) / sizeof(float) : 0;
}

QuantisedRows::QuantisedRows(Worker& worker, const Context& c, const InputRows& x, int columns, int scale_inputs,
                             float* own)
    : kernels_(c.kernels), x_(x), columns_(columns), scale_inputs_(scale_inputs), own_(own) {
    if (alone(x.count, columns)) return;
    const int groups = row_groups(x.count), pieces = tasks_of(columns, kColumnsPerTask);
    worker.each(groups * pieces, [&](int task) {
        const int g = task / pieces, first = task % pieces * kColumnsPerTask;
        InputRows from = x;
        from.base += x.stride * static_cast<std::size_t>(group_start(x.count, g)) + first;
        kernels_.quantise(
            {from, x.count, columns, first, std::min(columns, first + kColumnsPerTask), g, g + 1,
             scale_inputs, c.shared.rows.data()});
    });
    panels_ = c.shared.rows.data();
}

const PanelBlock* QuantisedRows::get() {
    if (panels_ == nullptr) {
        PanelBlock* panels = reinterpret_cast<PanelBlock*>(own_);
        kernels_.quantise({x_, x_.count, columns_, 0, columns_, 0, row_groups(x_.count), scale_inputs_,
                           panels});
        panels_ = panels;
    }
    return panels_;
}

void multiply(const Kernels& kernels, const Product& p, std::int64_t first, std::int64_t last, std::int64_t next,
              float* scratch) {
    if (p.weight.packed == nullptr) {
        InputRows x = p.x;
        x.count = p.wanted;
        kernels.linear({x, p.weight, p.bias, p.out, p.out_stride, first, last, scratch});
        return;
    }
    const int most = groups_at_a_time(p.weight.columns);
    int groups = row_groups(p.x.count);
    while (groups > 0 && group_start(p.x.count, groups - 1) >= p.wanted) --groups;
    for (int g = 0; g < groups; g += most) {
        float* out = p.out + static_cast<std::size_t>(group_start(p.x.count, g)) * p.out_stride;
        const std::uint8_t* then = tile_at(p.weight, g + most < groups ? first : next);
        kernels.linear_packed({p.panels, p.x.count, g, std::min(groups, g + most), p.weight, p.bias, out, p.out_stride,
                               0, first, last, then});
    }
}

void multiply_gated(const Kernels& kernels, const GatedProduct& p, std::int64_t first, std::int64_t last,
                    std::int64_t next, float* scratch) {
    const int groups = row_groups(p.rows), ff = static_cast<int>(p.gate.rows), n = static_cast<int>(last - first);
    const std::size_t stride = static_cast<std::size_t>(n);
    // A portion's floats stay in the first-level cache, or nearly.
    const int portion = std::max(1, static_cast<int>(gated_product_scratch() / 2 / (kPanelRows * stride)));
    float *gate = scratch, *up = scratch + gated_product_scratch() / 2;
    for (int g = 0; g < groups; g += portion) {
        const int end = std::min(groups, g + portion);
        const int start = group_start(p.rows, g), rows = group_start(p.rows, end) - start;
        kernels.linear_packed({p.x, p.rows, g, end, p.gate, p.gate_bias, gate, stride, first, first, last,
                               tile_at(p.up, first)});
        kernels.linear_packed({p.x, p.rows, g, end, p.up, p.up_bias, up, stride, first, first, last,
                               tile_at(p.gate, end < groups ? first : next)});
        for (int r = 0; p.panels == nullptr && r < rows; ++r) {
            float* out = p.out + static_cast<std::int64_t>(start + r) * ff + first;
            kernels.activate(p.activation, gate + r * n, up + r * n, out, n);
        }
        if (p.panels != nullptr) {
            kernels.activate(p.activation, gate, up, gate, rows * n);
            kernels.quantise({{gate, stride, nullptr, rows},
                              p.rows,
                              ff,
                              static_cast<int>(first),
                              static_cast<int>(last),
                              g,
                              end,
                              p.scale_inputs,
                              p.panels});
        }
    }
}

}  // namespace plait
