// The paged KV memory of all layers: K and V as kernels/kv_layout.h lays them out, a position for every slot.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "program/memory.h"
#include "program/step.h"
#include "program/team.h"

namespace plait {

struct KvGroup {
    std::vector<int> layers;
    int window;  // 0: none
    int num_pages;
};

struct KvShape {
    int n_heads, n_kv_heads, head_dim, v_head_dim, page_size;
    KvType type;
    std::vector<KvGroup> groups;

    std::size_t k_bytes() const { return kv_row_bytes(type, head_dim); }
    std::size_t v_bytes() const { return kv_row_bytes(type, v_head_dim); }
};

// How a layer rotates its K.
struct LayerRope {
    int table;
    RopeLayout layout;
};

struct KvLayer {
    KvLayer(std::size_t k_bytes, std::size_t v_bytes, std::size_t group) : k(k_bytes), v(v_bytes), group(group) {}
    Zeroed<std::uint8_t> k, v;
    std::size_t group;
    std::optional<LayerRope> rope;
};

class KvMemory {
  public:
    // Throws std::invalid_argument for sizes that cannot be.
    KvMemory(KvShape shape, const Kernels& kernels);

    const KvShape& shape() const { return shape_; }
    KvLayer& layer(int number);
    std::size_t bytes() const;

    // Before the program: every group's copies and repositions, in order, then the positions of the rows that the step
    // stores. All workers call it.
    void edit(Worker& worker, const StepInputs& step, std::span<const RopeTable> ropes);
    // After reserve_keys, by one worker: huge pages from the first step on whose keys fill half a huge page. Before, they
    // would hold little but zeroes.
    void choose_pages(const Step& step);
    // Room for every sequence's keys, then the keys themselves; all workers call the second.
    void reserve_keys(Step& step) const;
    void list_keys(Worker& worker, Step& step) const;

    // `scratch` holds head_dim floats.
    void store_k(KvLayer& layer, int slot, const float* row, float* scratch) const;
    void store_v(KvLayer& layer, int slot, const float* row) const;

    // Positions, then for each layer of the group K and V, each (slots, heads, dim): rows, whatever the pages hold.
    std::size_t slot_bytes(std::size_t group) const;
    void read(std::size_t group, Ints slots, std::uint8_t* out) const;
    void write(std::size_t group, Ints slots, const std::uint8_t* in);

    // Throws std::invalid_argument when two rows are stored to one slot.
    void check_stores(const StepInputs& step);

  private:
    // Where head 0 of a slot's row begins, in rows; the next head is page_size rows on.
    std::size_t key_row(std::int64_t slot) const;
    KvPlace k_at(const KvLayer& layer, std::int64_t slot, int head) const;
    std::uint8_t* v_at(const KvLayer& layer, std::int64_t slot, int head) const;
    // Calls position(at), key(place) and value(at) for everything that `slots` hold, in the order of `read`.
    template <class Position, class Key, class Value>
    void visit(std::size_t group, Ints slots, Position position, Key key, Value value) const;
    void copy(const KvLayer& layer, const CopyEdit& edit) const;
    void reposition(const KvLayer& layer, const GroupInputs& inputs, const RopeTable& rope) const;
    void edit_positions(std::size_t group, const GroupInputs& inputs);

    KvShape shape_;
    const Kernels& kernels_;
    std::vector<std::optional<KvLayer>> layers_;     // by number
    std::vector<Zeroed<std::int32_t>> positions_;    // by group
    std::vector<Zeroed<std::uint32_t>> stored_;      // by group and slot: the last step that stored there
    std::vector<std::vector<std::int64_t>> shifts_;  // by group: how far each reposition of the step moves its slot
    std::vector<bool> huge_;                         // by group: whether its layers lie in huge pages
    std::uint32_t step_ = 0;
};

}  // namespace plait
