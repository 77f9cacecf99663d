"""Batching never changes a bit on the CPU (design, P1): random schedules, page orders, page sizes, thread counts and
SIMD paths against the sequence run alone, whole, on one thread with the scalar kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.formats.tensor import F32Array
from plait.ops.api import KVConfig, Program
from plait.ops.cpu import CpuBackend, CpuExecutable
from support.programs import VOCAB, everything
from support.steps import Chunk, Driver, i32

PATHS = CpuBackend.paths()
LONGEST = 200  # more than three blocks of 64 keys
PROGRAMS = {
    "small": everything(window=70),
    "grouped": everything(d=48, heads=6, kv_heads=1, dim=64, v_dim=32, ff=33, window=20),
}


KV_TYPES = ["f32", "f16", "bf16", "q8_0"]


def fits(program: str, kv_type: str) -> bool:
    """q8_0 needs heads of whole blocks."""
    return kv_type != "q8_0" or PROGRAMS[program].kv.head_dim % 32 == 0


@dataclass(frozen=True)
class Setting:
    """One way to run a program."""

    path: str = "scalar"
    threads: int = 1
    page_size: int = 16
    kv_type: str = "f16"

    @property
    def config(self) -> KVConfig:
        pages = 1 + 4 * -(-LONGEST // self.page_size)
        return KVConfig(self.page_size, (pages, pages), self.kv_type)


@cache
def compiled(program: str, path: str, page_size: int, kv_type: str, alone: bool) -> CpuExecutable:
    """`alone` sequences run in executables of their own: two drivers must not write into one memory."""
    setting = Setting(path, 1, page_size, kv_type)
    return CpuBackend(1, path).compile(PROGRAMS[program], setting.config)


def executable(program: str, setting: Setting, alone: bool = False) -> CpuExecutable:
    """With the setting's threads, and memory full of NaN."""
    found = compiled(program, setting.path, setting.page_size, setting.kv_type, alone)
    found.set_threads(setting.threads)
    poison(found, setting.config, PROGRAMS[program])
    return found


def poison(executable: CpuExecutable, config: KVConfig, program: Program) -> None:
    """NaN in every slot, at position 0, where every row would see it."""
    nan = {
        "f32": b"\x00\x00\xc0\x7f",
        "f16": b"\x00\x7e",
        "bf16": b"\xc0\x7f",
        "q8_0": b"\x00\x7e" + bytes(32),
    }[config.kv_type]
    for g, pages in enumerate(config.num_pages):
        slots = i32(range(config.page_size, pages * config.page_size))
        values = len(slots) * program.kv.layer_bytes(config.kv_type) * len(program.kv.groups[g].layers) // len(nan)
        executable.write_slots(g, slots, bytes(4 * len(slots)) + nan * values)


@cache
def alone(program: str, kv_type: str, prompt: tuple[int, ...]) -> F32Array:
    setting = Setting(kv_type=kv_type)
    return Driver(executable(program, setting, alone=True), setting.config).step({"alone": Chunk.every(prompt)})[
        "alone"
    ]


@st.composite
def prompts(draw: st.DrawFn) -> dict[str, tuple[int, ...]]:
    """Tokens come from a seed: their values matter little, and shrinking lengths says more."""
    lengths = draw(st.lists(st.integers(1, LONGEST), min_size=1, max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 3)))
    return {f"s{i}": tuple(random.integers(0, VOCAB, n).tolist()) for i, n in enumerate(lengths)}


settings_drawn = st.builds(
    Setting,
    threads=st.integers(1, 4),
    page_size=st.sampled_from([1, 5, 16, 64]),
    kv_type=st.sampled_from(KV_TYPES),
)


def check_schedule(program: str, prompts: dict[str, tuple[int, ...]], setting: Setting, data: st.DataObject) -> None:
    if not fits(program, setting.kv_type):
        setting = replace(setting, kv_type="f16")
    native = executable(program, setting)
    driver = Driver(native, setting.config, np.random.default_rng(data.draw(st.integers(0, 5))))
    done = dict.fromkeys(prompts, 0)
    while left := [name for name in prompts if done[name] < len(prompts[name])]:
        names = data.draw(st.lists(st.sampled_from(left), min_size=1, unique=True))
        native.set_threads(data.draw(st.integers(1, 4)))
        chunks = {}
        for name in names:
            rest = len(prompts[name]) - done[name]
            size = data.draw(st.one_of(st.just(rest), st.integers(1, min(rest, 70))))
            chunks[name] = Chunk.every(prompts[name][done[name] : done[name] + size])
        for name, got in driver.step(chunks).items():
            want = alone(program, setting.kv_type, prompts[name])[done[name] : done[name] + len(got)]
            np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
            done[name] += len(got)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("program", PROGRAMS)
@settings(max_examples=8, deadline=None)
@given(prompts=prompts(), setting=settings_drawn, data=st.data())
def test_any_schedule_gives_the_bits_of_the_sequence_alone(
    program: str, path: str, prompts: dict[str, tuple[int, ...]], setting: Setting, data: st.DataObject
) -> None:
    check_schedule(program, prompts, replace(setting, path=path), data)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("program", PROGRAMS)
@settings(max_examples=80, deadline=None)
@given(prompts=prompts(), setting=settings_drawn, data=st.data())
def test_very_many_schedules(
    program: str, path: str, prompts: dict[str, tuple[int, ...]], setting: Setting, data: st.DataObject
) -> None:
    check_schedule(program, prompts, replace(setting, path=path), data)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_path_gives_the_same_bits(path: str, kv_type: str) -> None:
    prompt = tuple(np.random.default_rng(0).integers(0, VOCAB, 130).tolist())
    for program in (program for program in PROGRAMS if fits(program, kv_type)):
        setting = Setting(path, 2, kv_type=kv_type)
        got = Driver(executable(program, setting), setting.config).step({"s": Chunk.every(prompt)})["s"]
        assert np.isfinite(got).all()
        np.testing.assert_array_equal(got.view(np.uint32), alone(program, kv_type, prompt).view(np.uint32))


def test_a_poisoned_slot_in_the_table_is_masked_by_its_position() -> None:
    """A sequence's own table may hold slots that no row sees: later positions, or past the window."""
    setting = Setting(page_size=4)
    for program in PROGRAMS:
        native = executable(program, setting)
        want = alone(program, "f16", (1, 2, 3))
        driver = Driver(native, setting.config)
        step = driver.pack({"s": Chunk.every((1, 2, 3))})
        later = np.arange(4, 8) + 1000  # positions of a page that holds NaN
        shape, groups = PROGRAMS[program].kv, []
        for g, kv in enumerate(step.kv):
            dims = shape.n_kv_heads * (shape.head_dim + shape.v_head_dim) * len(shape.groups[g].layers)
            slots = i32(range(4 * 9, 4 * 10))
            native.write_slots(g, slots, later.astype(np.int32).tobytes() + b"\x00\x7e" * (4 * dims))
            entries = i32([[9, 0, 4], *kv.entries.tolist(), [9, 1, 2]])
            groups.append(replace(kv, entries=entries, entry_start=i32([0, len(entries)])))
        got = native.run(replace(step, kv=tuple(groups)))
        assert np.isfinite(got).all()
        # The keys stand at other indices, so in other lanes: near, not equal.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
