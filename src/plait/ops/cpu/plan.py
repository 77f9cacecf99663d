"""What the CPU library would do with a model's weights, asked of a native program that prepares none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plait.ops.api import KVConfig, Program
from plait.ops.cpu.backend import CpuBackend
from plait.ops.cpu.record import new_program, record
from plait.ops.program import program_weights


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """`kernels` says for each matrix which kernel multiplies with it, or looks it up. `repacked_bytes` lie in memory of
    their own; `mapped_bytes` are read from the file's mapping at every step."""

    kernels: Mapping[str, str]
    repacked_bytes: int
    mapped_bytes: int


def plan_weights(program: Program) -> WeightPlan:
    """Takes milliseconds. Raises BackendError for a model that the CPU kernels cannot run."""
    kv = KVConfig(1, (1,) * len(program.kv.groups))
    native = new_program(program, kv, CpuBackend.paths()[0], 1)
    native.plan_only()
    matrices = record(program, native, planned=True)
    weights = [weight for weight in program_weights(program) if weight.name in matrices]
    mapped = sum(weight.tensor.nbytes for weight in weights if not native.packed(matrices[weight.name]))
    return WeightPlan({name: native.kernel_of(i) for name, i in matrices.items()}, native.packed_total, mapped)
