// The files bindings*.cpp alone know Python: here step programs, as plait.ops.cpu._native. Arrays come in without a copy.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"
#include "cpu/paths.h"
#include "program/formats.h"
#include "program/pack.h"
#include "program/program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace plait {
namespace {

using Bytes2d = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using I32 = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using I32Pairs = nb::ndarray<const std::int32_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using I32Triples = nb::ndarray<const std::int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using LogitsArray = nb::ndarray<nb::numpy, float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Ints ints(const I32& array) { return {array.data(), array.size()}; }

// Rows of an int32 array as structs of that many ints.
template <class Row, class Table>
std::span<const Row> rows(const Table& array) {
    static_assert(sizeof(Row) % sizeof(std::int32_t) == 0 && std::is_trivially_copyable_v<Row>);
    return {reinterpret_cast<const Row*>(array.data()), array.shape(0)};
}

// One KV group's part of a step; holds the arrays for the step's duration.
struct PyGroupInputs {
    I32 entry_start;
    I32Triples entries;
    I32 store_row, store_slot;
    I32Triples copies;
    I32Pairs repositions;

    GroupInputs view() const {
        return {ints(entry_start), rows<TableEntry>(entries), ints(store_row),
                ints(store_slot),  rows<CopyEdit>(copies),    rows<RepositionEdit>(repositions)};
    }
};

int add_matrix(Program& program, const Bytes2d& bytes, const std::string& format, std::int64_t rows, int columns,
               bool from_file) {
    return program.add_matrix(make_matrix({bytes.data(), bytes.size()}, format, rows, columns), from_file);
}

nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>> packed_bytes(const Program& program, int id) {
    const std::span<const std::uint8_t> bytes = program.packed_bytes(id);
    return {bytes.data(), {bytes.size()}, nb::handle()};
}

int add_vector(Program& program, const Floats& values) {
    return program.add_vector({values.data(), values.data() + values.size()});
}

LogitsArray as_array(const Logits& rows) {
    auto* held = new std::shared_ptr<float>(rows.memory);
    nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::shared_ptr<float>*>(p); });
    return {held->get(), {static_cast<std::size_t>(rows.rows), static_cast<std::size_t>(rows.width)}, owner};
}

LogitsArray run(Program& program, const I32& tokens, const I32& positions, const I32& row_seq, const I32& out_rows,
                const std::vector<PyGroupInputs>& groups, int hidden_only) {
    StepInputs step{ints(tokens), ints(positions), ints(row_seq), ints(out_rows), {}, hidden_only};
    for (const PyGroupInputs& group : groups) step.groups.push_back(group.view());
    Logits logits;
    {
        nb::gil_scoped_release release;
        logits = program.run(step);
    }
    return as_array(logits);
}

std::size_t check_slots_of(const Program& program, std::size_t group, const I32& slots) {
    const KvMemory& kv = const_cast<Program&>(program).kv();
    if (group >= kv.shape().groups.size()) {
        throw std::invalid_argument("there is no KV group " + std::to_string(group) + "; there are " +
                                    std::to_string(kv.shape().groups.size()));
    }
    check_slots(("group " + std::to_string(group)).c_str(), ints(slots), kv.shape(), group);
    return slots.size() * kv.slot_bytes(group);
}

nb::bytes read_slots(Program& program, std::size_t group, const I32& slots) {
    std::vector<std::uint8_t> data(check_slots_of(program, group, slots));
    program.kv().read(group, ints(slots), data.data());
    return nb::bytes(data.data(), data.size());
}

void write_slots(Program& program, std::size_t group, const I32& slots, const nb::bytes& data) {
    const std::size_t expected = check_slots_of(program, group, slots);
    if (data.size() != expected) {
        throw std::invalid_argument(std::to_string(data.size()) + " bytes for " + std::to_string(slots.size()) +
                                    " slots of KV group " + std::to_string(group) + "; expected " +
                                    std::to_string(expected));
    }
    program.kv().write(group, ints(slots), static_cast<const std::uint8_t*>(data.data()));
}

KvShape kv_shape(int n_heads, int n_kv_heads, int head_dim, int v_head_dim, int page_size, KvType type,
                 const std::vector<nb::tuple>& groups) {
    KvShape shape{n_heads, n_kv_heads, head_dim, v_head_dim, page_size, type, {}};
    for (const nb::tuple& group : groups) {
        shape.groups.push_back(
            {nb::cast<std::vector<int>>(group[0]), nb::cast<int>(group[1]), nb::cast<int>(group[2])});
    }
    return shape;
}

void bind_enums(nb::module_& m) {
    nb::enum_<Rows>(m, "Rows").value("TOKENS", Rows::Tokens).value("OUTPUTS", Rows::Outputs).value("LOGITS", Rows::Logits);
    nb::enum_<KvType>(m, "KvType")
        .value("F32", KvType::F32)
        .value("F16", KvType::F16)
        .value("BF16", KvType::BF16)
        .value("Q8_0", KvType::Q8_0);
    nb::enum_<RopeLayout>(m, "RopeLayout")
        .value("INTERLEAVED", RopeLayout::Interleaved)
        .value("HALF", RopeLayout::Half);
    nb::enum_<Activation>(m, "Activation")
        .value("SILU", Activation::Silu)
        .value("GELU", Activation::Gelu)
        .value("GELU_TANH", Activation::GeluTanh);
}

// For tests: single kernels on plain arrays.
void bind_probes(nb::module_& m) {
    using Out = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    const auto same = [](std::size_t a, std::size_t b) {
        if (a != b) throw std::invalid_argument("arrays of different length");
        return static_cast<int>(a);
    };
    m.def("exponential", [same](const std::string& path, const Floats& x, const Out& out) {
        kernels_of(path).exponential(x.data(), out.data(), same(x.size(), out.size()));
    });
    m.def("activate", [same](const std::string& path, Activation activation, const Floats& x, const Out& out) {
        kernels_of(path).activate(activation, x.data(), nullptr, out.data(), same(x.size(), out.size()));
    });
    m.def("softcap", [same](const std::string& path, const Floats& x, float cap, const Out& out) {
        kernels_of(path).softcap(x.data(), cap, out.data(), static_cast<std::size_t>(same(x.size(), out.size())));
    });
    m.def("dequantise", [](const std::string& path, const Bytes2d& bytes, const std::string& format, int columns,
                           const nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>& out) {
        const auto rows = static_cast<std::int64_t>(bytes.shape(0));
        const Matrix matrix = make_matrix({bytes.data(), bytes.size()}, format, rows, columns);
        if (out.shape(0) != bytes.shape(0) || out.shape(1) != static_cast<std::size_t>(columns)) {
            throw std::invalid_argument("out has the matrix's shape");
        }
        for (std::int64_t r = 0; r < rows; ++r) kernels_of(path).dequantise(matrix, r, out.data() + r * columns);
    });
}

nb::class_<Program> bind_program(nb::module_& m) {
    nb::class_<PyGroupInputs>(m, "GroupInputs")
        .def(nb::init<I32, I32Triples, I32, I32, I32Triples, I32Pairs>(), nb::arg("entry_start").noconvert(),
             nb::arg("entries").noconvert(), nb::arg("store_row").noconvert(), nb::arg("store_slot").noconvert(),
             nb::arg("copies").noconvert(), nb::arg("repositions").noconvert());
    nb::class_<KvShape>(m, "KvShape")
        .def("__init__", [](KvShape* self, int n_heads, int n_kv_heads, int head_dim, int v_head_dim, int page_size,
                            KvType type, const std::vector<nb::tuple>& groups) {
            new (self) KvShape(kv_shape(n_heads, n_kv_heads, head_dim, v_head_dim, page_size, type, groups));
        });
    return nb::class_<Program>(m, "Program")
        .def("__init__", [](Program* self, const std::string& path, const KvShape& shape,
                            int threads) { new (self) Program(kernels_of(path), shape, threads); })
        .def("add_matrix", add_matrix, nb::keep_alive<1, 2>(), "bytes"_a.noconvert(), "format"_a, "rows"_a, "columns"_a,
             "from_file"_a = false)
        .def("packed", &Program::packed)
        .def("kernel_of", &Program::kernel_of)
        .def("plan_only", &Program::plan_only)
        .def_prop_ro("packed_total", &Program::packed_total)
        .def("packed_bytes", packed_bytes, nb::rv_policy::reference_internal)
        .def("packed_sum", &Program::packed_sum)
        .def("offer", [](Program& program, int id, int file, std::int64_t offset, std::size_t bytes,
                         std::uint64_t sum) { program.offer(id, {file, offset, bytes, sum}); })
        .def("took_offer", &Program::took_offer)
        .def("add_vector", add_vector, "values"_a.noconvert())
        .def("add_value", &Program::add_value)
        .def("embed", &Program::embed)
        .def("linear", &Program::linear, nb::call_guard<nb::gil_scoped_release>())
        .def("rms_norm", &Program::rms_norm)
        .def("layer_norm", &Program::layer_norm)
        .def("rope_and_store", &Program::rope_and_store)
        .def("attention", &Program::attention)
        .def("gated_mlp", &Program::gated_mlp, nb::call_guard<nb::gil_scoped_release>())
        .def("moe", &Program::moe, nb::call_guard<nb::gil_scoped_release>())
        .def("add", &Program::add)
        .def("scale", &Program::scale)
        .def("softcap", &Program::softcap)
        .def("clamp", &Program::clamp)
        .def("activate", &Program::activate)
        .def("take_rows", &Program::take_rows)
        .def("finish", &Program::finish, "logits"_a, "hidden"_a = -1)
        .def("run", run, "tokens"_a.noconvert(), "positions"_a.noconvert(), "row_seq"_a.noconvert(),
             "out_rows"_a.noconvert(), "groups"_a, "hidden_only"_a = 0)
        .def("hidden", [](const Program& program) { return as_array(program.hidden()); })
        .def("read_slots", read_slots, "group"_a, "slots"_a.noconvert())
        .def("write_slots", write_slots, "group"_a, "slots"_a.noconvert(), "data"_a)
        .def("measure", &Program::measure)
        .def_prop_ro("measured", &Program::measured)
        .def("set_threads", &Program::set_threads)
        .def("bind", [](Program& program, std::vector<int> cpus,
                        bool strict) { program.bind({std::move(cpus), strict}); })
        .def_prop_ro("threads", &Program::threads)
        .def_prop_ro("kv_bytes", [](Program& program) { return program.kv().bytes(); });
}

}  // namespace

NB_MODULE(_native, m) {
    bind_enums(m);
    bind_sampling(bind_program(m));
    bind_probes(m);
    m.def("usable_paths", usable_paths);
    m.attr("PACKED_VERSION") = kPackedVersion;
    m.def("supported_formats", supported_formats);
}

}  // namespace plait
