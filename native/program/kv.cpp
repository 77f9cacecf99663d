#include "program/kv.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace plait {
namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

void check_shape(const KvShape& s) {
    const bool positive = s.n_heads > 0 && s.n_kv_heads > 0 && s.head_dim > 0 && s.v_head_dim > 0 && s.page_size > 0;
    if (!positive || s.n_heads % s.n_kv_heads != 0) {
        throw std::invalid_argument("KV memory needs positive sizes, and heads that divide among the KV heads");
    }
    if (s.type == KvType::Q8_0 && (s.head_dim % kKvBlock != 0 || s.v_head_dim % kKvBlock != 0)) {
        throw std::invalid_argument("q8_0 keeps K and V in blocks of 32 numbers; heads of " + std::to_string(s.head_dim) +
                                    " and " + std::to_string(s.v_head_dim) + " are no multiples of it");
    }
    for (const KvGroup& group : s.groups) {
        const std::int64_t limit = std::numeric_limits<std::int32_t>::max();
        if (group.num_pages < 1 || group.num_pages > limit / s.page_size / s.n_kv_heads) {
            throw std::invalid_argument("a KV group has " + std::to_string(group.num_pages) +
                                        " pages; it must have at least 1 and fewer than 2^31 keys");
        }
    }
}

// A row by itself.
KvPlace alone(std::uint8_t* row) { return {row, 1, 0}; }

}  // namespace

KvMemory::KvMemory(KvShape shape, const Kernels& kernels) : shape_(std::move(shape)), kernels_(kernels) {
    check_shape(shape_);
    for (std::size_t g = 0; g < shape_.groups.size(); ++g) {
        const std::size_t slots = size(shape_.groups[g].num_pages) * size(shape_.page_size);
        positions_.emplace_back(slots);
        stored_.emplace_back(slots);
        const std::size_t rows = slots * size(shape_.n_kv_heads);
        for (const int number : shape_.groups[g].layers) {
            if (number < 0) throw std::invalid_argument("a layer's number is negative");
            if (layers_.size() <= size(number)) layers_.resize(size(number) + 1);
            if (layers_[size(number)])
                throw std::invalid_argument("layer " + std::to_string(number) + " is in two KV groups");
            layers_[size(number)].emplace(rows * shape_.k_bytes(), rows * shape_.v_bytes(), g);
        }
    }
    shifts_.resize(shape_.groups.size());
    huge_.resize(shape_.groups.size());
}

KvLayer& KvMemory::layer(int number) {
    if (number < 0 || size(number) >= layers_.size() || !layers_[size(number)]) {
        throw std::invalid_argument("layer " + std::to_string(number) + " is in no KV group");
    }
    return *layers_[size(number)];
}

std::size_t KvMemory::bytes() const {
    std::size_t total = 0;
    for (const auto& layer : layers_) total += layer ? layer->k.bytes() + layer->v.bytes() : 0;
    for (const auto& positions : positions_) total += positions.bytes();
    return total;
}

std::size_t KvMemory::key_row(std::int64_t slot) const {
    const std::int64_t page = slot / shape_.page_size, offset = slot % shape_.page_size;
    return size(page * shape_.page_size * shape_.n_kv_heads + offset);
}

KvPlace KvMemory::k_at(const KvLayer& layer, std::int64_t slot, int head) const {
    const std::size_t stride = size(shape_.page_size), offset = size(slot % shape_.page_size);
    const std::size_t row = key_row(slot) - offset + size(head) * stride;
    return {layer.k.data() + row * shape_.k_bytes(), stride, offset};
}

std::uint8_t* KvMemory::v_at(const KvLayer& layer, std::int64_t slot, int head) const {
    const std::size_t row = key_row(slot) + size(head) * size(shape_.page_size);
    return layer.v.data() + row * shape_.v_bytes();
}

void KvMemory::store_k(KvLayer& layer, int slot, const float* row, float* scratch) const {
    const KvPlace stored = alone(reinterpret_cast<std::uint8_t*>(scratch));
    for (int h = 0; h < shape_.n_kv_heads; ++h) {
        kernels_.store(shape_.type, row + h * shape_.head_dim, stored.panel, shape_.head_dim);
        move_row(shape_.type, shape_.head_dim, stored, k_at(layer, slot, h));
    }
}

void KvMemory::store_v(KvLayer& layer, int slot, const float* row) const {
    for (int h = 0; h < shape_.n_kv_heads; ++h) {
        kernels_.store(shape_.type, row + h * shape_.v_head_dim, v_at(layer, slot, h), shape_.v_head_dim);
    }
}

void KvMemory::check_stores(const StepInputs& step) {
    ++step_;
    for (std::size_t g = 0; g < step.groups.size(); ++g) {
        for (const std::int32_t slot : step.groups[g].store_slot) {
            std::uint32_t& last = stored_[g].data()[slot];
            if (last == step_) {
                throw std::invalid_argument("group " + std::to_string(g) + ": two rows are stored to one slot, " +
                                            std::to_string(slot));
            }
            last = step_;
        }
    }
}

void KvMemory::copy(const KvLayer& layer, const CopyEdit& edit) const {
    for (int i = 0; i < edit.count; ++i) {
        const std::int64_t from = std::int64_t{edit.source} + i, to = std::int64_t{edit.target} + i;
        for (int h = 0; h < shape_.n_kv_heads; ++h) {
            move_row(shape_.type, shape_.head_dim, k_at(layer, from, h), k_at(layer, to, h));
            std::memcpy(v_at(layer, to, h), v_at(layer, from, h), shape_.v_bytes());
        }
    }
}

// K carries the rope's scale already, from when it was stored: turning it further must not scale it again.
void KvMemory::reposition(const KvLayer& layer, const GroupInputs& inputs, const RopeTable& rope) const {
    const std::vector<std::int64_t>& shifts = shifts_[layer.group];
    std::vector<float> cos(rope.inv_freq.size()), sin(cos.size()), row(size(shape_.head_dim)), turned(row.size());
    std::vector<std::uint8_t> stored(shape_.k_bytes());
    for (std::size_t i = 0; i < shifts.size(); ++i) {
        // Shifts come in runs of equal ones.
        for (std::size_t p = 0; (i == 0 || shifts[i] != shifts[i - 1]) && p < cos.size(); ++p) {
            const double angle = static_cast<double>(shifts[i]) * rope.inv_freq[p];
            cos[p] = static_cast<float>(std::cos(angle));
            sin[p] = static_cast<float>(std::sin(angle));
        }
        for (int h = 0; h < shape_.n_kv_heads; ++h) {
            const KvPlace at = k_at(layer, inputs.repositions[i].slot, h);
            move_row(shape_.type, shape_.head_dim, at, alone(stored.data()));
            kernels_.load(shape_.type, stored.data(), row.data(), shape_.head_dim);
            kernels_.rotate({row.data(), cos.data(), sin.data(), turned.data(), 1, shape_.head_dim, rope.pairs(),
                             layer.rope->layout});
            kernels_.store(shape_.type, turned.data(), stored.data(), shape_.head_dim);
            move_row(shape_.type, shape_.head_dim, alone(stored.data()), at);
        }
    }
}

void KvMemory::edit_positions(std::size_t group, const GroupInputs& inputs) {
    std::int32_t* positions = positions_[group].data();
    for (const CopyEdit& edit : inputs.copies) {
        std::copy_n(positions + edit.source, edit.count, positions + edit.target);
    }
    shifts_[group].clear();
    for (const RepositionEdit& edit : inputs.repositions) {
        shifts_[group].push_back(std::int64_t{edit.position} - positions[edit.slot]);
        positions[edit.slot] = edit.position;
    }
}

void KvMemory::edit(Worker& worker, const StepInputs& step, std::span<const RopeTable> ropes) {
    const auto edited = [](const GroupInputs& g) { return !g.copies.empty() || !g.repositions.empty(); };
    const int groups = static_cast<int>(step.groups.size()), layers = static_cast<int>(layers_.size());
    if (std::any_of(step.groups.begin(), step.groups.end(), edited)) {
        worker.each(groups + layers, [&](int i) {
            if (i < groups) return edit_positions(size(i), step.groups[size(i)]);
            const auto& layer = layers_[size(i - groups)];
            if (!layer) return;
            for (const CopyEdit& edit : step.groups[layer->group].copies) copy(*layer, edit);
        });
        worker.each(layers, [&](int i) {
            const auto& layer = layers_[size(i)];
            if (layer && layer->rope) reposition(*layer, step.groups[layer->group], ropes[size(layer->rope->table)]);
        });
    }
    worker.each(groups, [&](int g) {
        const GroupInputs& inputs = step.groups[size(g)];
        for (std::size_t i = 0; i < inputs.store_slot.size(); ++i) {
            positions_[size(g)].data()[inputs.store_slot[i]] = step.positions[size(inputs.store_row[i])];
        }
    });
}

void KvMemory::reserve_keys(Step& step) const {
    step.keys.resize(shape_.groups.size());
    for (std::size_t g = 0; g < step.keys.size(); ++g) {
        const GroupInputs& inputs = step.inputs->groups[g];
        GroupKeys& keys = step.keys[g];
        keys.start.assign(1, 0);
        for (std::size_t s = 0; s + 1 < inputs.entry_start.size(); ++s) {
            std::int64_t n = keys.start.back();
            for (int e = inputs.entry_start[s]; e < inputs.entry_start[s + 1]; ++e) n += inputs.entries[size(e)].count;
            if (n - keys.start.back() > std::numeric_limits<std::int32_t>::max()) {
                throw std::invalid_argument("a sequence has more than 2^31 keys");
            }
            keys.start.push_back(n);
        }
        keys.rows.reserve(size(keys.start.back()));
        keys.positions.reserve(size(keys.start.back()));
    }
}

void KvMemory::choose_pages(const Step& step) {
    constexpr std::size_t kMuch = std::size_t{1} << 20;
    for (std::size_t g = 0; g < huge_.size(); ++g) {
        const std::size_t keys = size(step.keys[g].start.back()) * size(shape_.n_kv_heads);
        if (huge_[g] || keys * std::min(shape_.k_bytes(), shape_.v_bytes()) < kMuch) continue;
        std::int64_t pages = 0;
        for (const TableEntry& entry : step.inputs->groups[g].entries) pages = std::max<std::int64_t>(pages, entry.page + 1);
        const std::size_t rows = size(pages * shape_.page_size) * size(shape_.n_kv_heads);
        for (const int number : shape_.groups[g].layers) {
            KvLayer& at = *layers_[size(number)];
            at.k.prefer_huge_pages(rows * shape_.k_bytes());
            at.v.prefer_huge_pages(rows * shape_.v_bytes());
        }
        huge_[g] = true;
    }
}

void KvMemory::list_keys(Worker& worker, Step& step) const {
    int tasks = 0;
    for (const GroupKeys& keys : step.keys) tasks += static_cast<int>(keys.start.size()) - 1;
    worker.each(tasks, [&](int task) {
        std::size_t g = 0, s = size(task);
        for (; s >= step.keys[g].start.size() - 1; ++g) s -= step.keys[g].start.size() - 1;
        const GroupInputs& inputs = step.inputs->groups[g];
        const std::int32_t* positions = positions_[g].data();
        std::size_t at = size(step.keys[g].start[s]);
        for (int e = inputs.entry_start[s]; e < inputs.entry_start[s + 1]; ++e) {
            const TableEntry& entry = inputs.entries[size(e)];
            const std::int64_t first = std::int64_t{entry.page} * shape_.page_size + entry.first;
            const std::size_t row = key_row(first);
            for (std::size_t i = 0; i < size(entry.count); ++i, ++at) {
                step.keys[g].rows.data()[at] = static_cast<std::int32_t>(row + i);
                step.keys[g].positions.data()[at] = positions[size(first) + i];
            }
        }
    });
}

template <class Position, class Key, class Value>
void KvMemory::visit(std::size_t group, Ints slots, Position position, Key key, Value value) const {
    for (const std::int32_t slot : slots) position(positions_[group].data() + slot);
    for (const int number : shape_.groups[group].layers) {
        const KvLayer& layer = *layers_[size(number)];
        for (const std::int32_t slot : slots) {
            for (int h = 0; h < shape_.n_kv_heads; ++h) key(k_at(layer, slot, h));
        }
        for (const std::int32_t slot : slots) {
            for (int h = 0; h < shape_.n_kv_heads; ++h) value(v_at(layer, slot, h));
        }
    }
}

std::size_t KvMemory::slot_bytes(std::size_t group) const {
    const std::size_t layer = size(shape_.n_kv_heads) * (shape_.k_bytes() + shape_.v_bytes());
    return sizeof(std::int32_t) + shape_.groups[group].layers.size() * layer;
}

void KvMemory::read(std::size_t group, Ints slots, std::uint8_t* out) const {
    const auto take = [&out](const void* at, std::size_t n) {
        std::memcpy(out, at, n);
        out += n;
    };
    const auto key = [&](KvPlace at) {
        move_row(shape_.type, shape_.head_dim, at, alone(out));
        out += shape_.k_bytes();
    };
    visit(
        group, slots, [&](const std::int32_t* at) { take(at, sizeof *at); }, key,
        [&](const std::uint8_t* at) { take(at, shape_.v_bytes()); });
}

void KvMemory::write(std::size_t group, Ints slots, const std::uint8_t* in) {
    const auto put = [&in](void* at, std::size_t n) {
        std::memcpy(at, in, n);
        in += n;
    };
    const auto key = [&](KvPlace at) {
        move_row(shape_.type, shape_.head_dim, alone(const_cast<std::uint8_t*>(in)), at);
        in += shape_.k_bytes();
    };
    visit(
        group, slots, [&](std::int32_t* at) { put(at, sizeof *at); }, key,
        [&](std::uint8_t* at) { put(at, shape_.v_bytes()); });
}

}  // namespace plait
