#include <algorithm>

#include "tests/cases_support.h"

namespace plait::test {
namespace {

constexpr int kHeads = 6, kKvHeads = 2, kRows = 20, kKeys = 150;

// How attention is asked for: the pages' size, and whether the keys from the second block on are a piece of their own.
struct Attending {
    KvType type;
    int head_dim, v_head_dim, window, page;
    float softcap;
    bool pieces, slopes = false;

    // The pages lie in reverse.
    std::int32_t key_row(int i) const { return ((kKeys - 1) / page - i / page) * page * kKvHeads + i % page; }

    Bytes stored(const Kernels& k, int dim, unsigned seed, bool transposed) const {
        const Floats values = exact_floats(size(kKeys * kKvHeads * dim), seed);
        const std::size_t bytes = kv_row_bytes(type, dim);
        Bytes out(size((kKeys + page) * kKvHeads) * bytes), row(bytes);
        for (int i = 0; i < kKeys * kKvHeads; ++i) {
            k.store(type, values.data() + i * dim, row.data(), dim);
            const int slot = i / kKvHeads % page, first = key_row(i / kKvHeads) - slot + i % kKvHeads * page;
            std::uint8_t* panel = out.data() + size(first) * bytes;
            const KvPlace to = transposed ? KvPlace{panel, size(page), size(slot)}
                                          : KvPlace{panel + size(slot) * bytes, 1, 0};
            move_row(type, dim, {row.data(), 1, 0}, to);
        }
        return out;
    }
};

// 20 rows over 150 keys, two whole blocks and a ragged one.
Bytes attention(const Kernels& k, const Attending& how) {
    const Floats q = exact_floats(size(kRows * kHeads * how.head_dim), 18), sinks = exact_floats(kHeads, 19),
                 slopes = exact_floats(kHeads, 31);
    const Bytes keys = how.stored(k, how.head_dim, 21, true), values = how.stored(k, how.v_head_dim, 22, false);
    std::vector<std::int32_t> rows, positions, key_rows, key_positions;
    for (int r = 0; r < kRows; ++r) {
        rows.push_back(r);
        positions.push_back(kKeys - kRows + r);
    }
    for (int i = 0; i < kKeys; ++i) {
        key_rows.push_back(how.key_row(i));
        key_positions.push_back(i);
    }
    Floats out(size(kRows * kHeads * how.v_head_dim)), top(kRows * kHeads), total(top),
        scratch(attention_scratch(how.head_dim, how.v_head_dim)),
        partials(size(2 * kRows * kHeads) * partial_floats(how.v_head_dim));
    const AttentionState state{top.data(), total.data(), out.data(), kHeads, how.v_head_dim,
                               how.window ? sinks.data() : nullptr};
    for (int head = 0; head < kKvHeads; ++head) {
        AttentionArgs a{state, q.data(), kKvHeads, how.head_dim, head, rows.data(), kRows, positions.data(),
                        key_rows.data(), key_positions.data(), 0, how.pieces ? kKeyBlock : kKeys, keys.data(),
                        values.data(), how.type, how.page, 0.1f, how.softcap, how.slopes ? slopes.data() : nullptr, how.window, nullptr, true, !how.pieces,
                        scratch.data(), {}};
        k.attention(a);
        if (!how.pieces) continue;
        a.first_key = kKeyBlock;
        a.last_key = kKeys;
        a.partials = partials.data();
        a.starts = false;
        k.attention(a);
        k.merge_attention({state, kKvHeads, head, rows.data(), kRows, partials.data(), 2, kRows, 0, true});
    }
    return bytes_of(out);
}

Bytes stored_and_loaded(const Kernels& k, KvType type) {
    Floats x = every_float();
    x.insert(x.begin(), NAN);
    x.resize(x.size() / kKvBlock * kKvBlock);
    // Infinite scales make NaN of 0, whose sign is not the same on x86 and ARM.
    if (type == KvType::Q8_0) std::replace_if(x.begin(), x.end(), [](float v) { return !(std::abs(v) < 8e6f); }, 1.0f);
    const int n = static_cast<int>(x.size());
    Bytes stored(kv_row_bytes(type, n));
    k.store(type, x.data(), stored.data(), n);
    Floats back(x.size());
    k.load(type, stored.data(), back.data(), n);
    append(stored, back);
    return stored;
}

}  // namespace

void add_attention(std::vector<Case>& cases) {
    const char* const names[] = {" F32", " F16", " BF16", " Q8_0"};
    for (const KvType type : {KvType::F32, KvType::F16, KvType::BF16, KvType::Q8_0}) {
        const std::string name = names[static_cast<int>(type)];
        cases.push_back({"store and load" + name, [type](const Kernels& k) { return stored_and_loaded(k, type); }});
        const Attending plain{type, 64, 64, 0, 48, 0.0f, false};
        const bool blocks = type == KvType::Q8_0;
        const Attending odd{type, blocks ? 32 : 26, blocks ? 32 : 19, 40, 10, 5.0f, true};
        cases.push_back({"attention" + name, [plain](const Kernels& k) { return attention(k, plain); }});
        const Attending sloping{type, 64, 64, 0, 48, 0.0f, true, true};
        cases.push_back({"attention, slopes, pieces" + name, [sloping](const Kernels& k) { return attention(k, sloping); }});
        cases.push_back({"attention, odd, window, softcap, sinks, pieces" + name,
                         [odd](const Kernels& k) { return attention(k, odd); }});
    }
}

}  // namespace plait::test
