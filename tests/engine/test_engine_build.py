"""Sizes and devices that options lead to, and packing against the plain way."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from plait.cache.edits import GroupEdits
from plait.config import CPU_PATHS, EngineOptions
from plait.engine import build
from plait.engine.build import build_engine, kv_config, make_backend
from plait.engine.halving import run_by_halves
from plait.engine.packing import Packer, only_edits
from plait.errors import BackendError, OptionError, StepError
from plait.models.registry import load_model
from plait.ops.api import KVGroup, KVShape, Reposition, SlotCopy
from plait.scheduler.plan import FromStep, PlannedSequence, RowResult
from plait.types import EngineRequest, SamplingParams
from support.tiny_llama import VARIANTS

SHAPE = KVShape(n_kv_heads=2, head_dim=8, v_head_dim=8, groups=(KVGroup((0, 1, 2)), KVGroup((3,), window=8)))
PAGE_BYTES = 16 * (4 * 2 * 16 * 2 + 2 * 4)


def test_kv_memory_holds_every_sequence_at_full_context() -> None:
    config = kv_config(SHAPE, EngineOptions(n_parallel=3, n_ctx=100), context_length=500)
    assert config.num_pages == (3 * (7 + 1) + 1,) * 2
    assert (config.page_size, config.kv_type) == (16, "f16")
    assert kv_config(SHAPE, EngineOptions(n_parallel=1), 160).num_pages == (12, 12), "the model's own context"


def test_kv_memory_stays_within_a_quarter_of_the_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "physical_memory", lambda: 40 * PAGE_BYTES + 7)
    assert kv_config(SHAPE, EngineOptions(n_parallel=8), 4096).num_pages == (11, 11)


def test_kv_memory_as_asked_for() -> None:
    assert kv_config(SHAPE, EngineOptions(kv_memory=1), 4096).num_pages == (1 + 1024 * 1024 // PAGE_BYTES,) * 2
    f32 = EngineOptions(kv_memory=1, kv_type="f32")
    assert kv_config(SHAPE, f32, 4096).num_pages == (1 + 1024 * 1024 // (2 * PAGE_BYTES - 16 * 8),) * 2


def test_too_little_kv_memory_is_refused() -> None:
    wide = KVShape(n_kv_heads=64, head_dim=256, v_head_dim=256, groups=(KVGroup(tuple(range(80))),))
    with pytest.raises(OptionError, match="does not hold a single page of 16 tokens, which takes 81 MiB"):
        kv_config(wide, EngineOptions(kv_memory=8), 4096)


def test_the_machine_has_memory() -> None:
    assert build.physical_memory() > 1 << 28


def test_the_reference_device_and_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_backend(EngineOptions(device="reference")).name == "reference"
    monkeypatch.setitem(__import__("sys").modules, "plait.ops.cpu.backend", None)
    monkeypatch.setitem(__import__("sys").modules, "plait.ops.cuda.backend", None)
    with pytest.raises(BackendError, match="the kernels are not built"):
        make_backend(EngineOptions(device="cpu"))
    with pytest.raises(BackendError, match="needs torch and triton"):
        make_backend(EngineOptions(device="cuda"))
    monkeypatch.setattr(build, "NVIDIA_DRIVER", build.Path("/"))
    with pytest.raises(BackendError, match=r"no device can be used: --device cuda .*; --device cpu"):
        make_backend(EngineOptions(device="auto"))


def test_build_engine_serves() -> None:
    loaded = load_model(VARIANTS["gqa"].source("gguf"))
    engine = build_engine(loaded, EngineOptions(device="reference", n_parallel=2, n_batch=16))
    for name in "ab":
        engine.add(EngineRequest(request_id=name, prompt=(1, 2, 3), sampling=SamplingParams(seed=1, max_tokens=3)))
    events = list(engine.run())
    assert [e.request_id for e in events if e.final] == ["a", "b"]
    assert engine.stats.generated_tokens == 6
    engine.close()


# --- packing ------------------------------------------------------------------------------------------------------


def planned(sequence: int, entries: list[tuple[int, int, int]], first: int, count: int) -> PlannedSequence:
    page, start, length = entries[-1]
    slots = tuple(range(page * 16 + start + length - count, page * 16 + start + length))
    tokens = tuple(FromStep(3, sequence) if i == 0 else 100 + i for i in range(count))
    return PlannedSequence(sequence, tokens, first, ((tuple(entries[:-1]), entries[-1]),), (slots,))


def test_packing_follows_tables_that_grow_change_and_shrink() -> None:
    rng, packer = random.Random(3), Packer(1)
    tables: dict[int, list[tuple[int, int, int]]] = {}
    pages = itertools.count(1)
    for _ in range(300):
        for table in tables.values():
            change = rng.random()
            page, first, count = table[-1]
            if change < 0.6 and count < 16:
                table[-1] = (page, first, count + 1)
            elif change < 0.8:
                table += [(next(pages), 0, 16) for _ in range(rng.randint(0, 9))] + [(next(pages), 0, 1)]
            elif change < 0.9:
                table[rng.randrange(len(table))] = (next(pages), 0, 16)
            else:
                del table[: rng.randrange(len(table))]
        tables.setdefault(rng.randrange(8), [(next(pages), 0, 1)])
        chosen = rng.sample(sorted(tables), rng.randint(1, len(tables)))
        inputs = packer.pack([planned(s, list(tables[s]), 40 + s, 1) for s in chosen], (), lambda source: source.output)
        (kv,) = inputs.kv
        assert kv.entries.tolist() == [list(entry) for s in chosen for entry in tables[s]]
        assert kv.entry_start.tolist() == [0, *itertools.accumulate(len(tables[s]) for s in chosen)]
        assert inputs.tokens.tolist() == chosen
        assert inputs.positions.tolist() == [40 + s for s in chosen]


def test_edits_are_a_step_without_rows() -> None:
    inputs = only_edits([GroupEdits(((16, 32, 4),), ((5, 9),)), GroupEdits()])
    assert [kv.copies for kv in inputs.kv] == [(SlotCopy(16, 32, 4),), ()]
    assert [kv.repositions for kv in inputs.kv] == [(Reposition(5, 9),), ()]
    assert all(kv.entry_start.tolist() == [0] and kv.entries.shape == (0, 3) for kv in inputs.kv)
    arrays = (inputs.tokens, inputs.positions, inputs.row_seq, inputs.out_rows, inputs.kv[0].store_slot)
    assert all(len(array) == 0 and array.dtype == np.int32 for array in arrays)


def test_rows_and_slots_are_packed_in_order() -> None:
    inputs = Packer(1).pack(
        [planned(1, [(4, 0, 3)], 0, 3), planned(2, [(7, 0, 16), (9, 0, 2)], 16, 2)], [2, 4], lambda _: 77
    )
    assert inputs.tokens.tolist() == [77, 101, 102, 77, 101]
    assert inputs.positions.tolist() == [0, 1, 2, 16, 17]
    assert inputs.row_seq.tolist() == [0, 0, 0, 1, 1]
    assert inputs.out_rows.tolist() == [2, 4]
    (kv,) = inputs.kv
    assert kv.store_row.tolist() == [0, 1, 2, 3, 4]
    assert kv.store_slot.tolist() == [64, 65, 66, 144, 145]
    assert kv.copies == kv.repositions == ()
    arrays = (
        inputs.tokens,
        inputs.positions,
        inputs.row_seq,
        inputs.out_rows,
        kv.entries,
        kv.entry_start,
        kv.store_row,
    )
    assert all(array.dtype == np.int32 for array in arrays)


# --- halves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("culprits", [set(), {0}, {6}, {2, 3}, {0, 3, 6}, set(range(7))])
def test_halving_finds_the_culprits_and_runs_nobody_else_twice_with_success(culprits: set[int]) -> None:
    sequences = [planned(s, [(1 + s, 0, 1)], 0, 1) for s in range(7)]
    done: list[int] = []

    def run(part: Sequence[PlannedSequence]) -> list[tuple[RowResult, ...]]:
        if culprits & {p.sequence for p in part}:
            raise ValueError("no")
        done.extend(p.sequence for p in part)
        return [(RowResult((p.sequence,)),) for p in part]

    outcomes = run_by_halves(sequences, run)
    assert {i for i, outcome in enumerate(outcomes) if isinstance(outcome, StepError)} == culprits
    assert all(outcomes[i] == (RowResult((i,)),) for i in set(range(7)) - culprits)
    assert done == sorted(set(range(7)) - culprits)


def test_a_path_that_the_cpu_lacks_is_refused_with_those_it_has() -> None:
    backend = pytest.importorskip("plait.ops.cpu.backend").CpuBackend
    for path in CPU_PATHS[1:]:
        options = EngineOptions(device="cpu", cpu_path=path)
        if path in backend.paths():
            assert make_backend(options).path == path
        else:
            with pytest.raises(BackendError, match=rf"'{path}'; choose one of .*scalar"):
                make_backend(options)
    assert set(backend.paths()) < set(CPU_PATHS)
    with pytest.raises(OptionError, match=r"--cpu-path is 'sse9'; choose one of auto, scalar, avx2"):
        EngineOptions(cpu_path="sse9")
