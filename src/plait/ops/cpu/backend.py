"""The CPU backend: a step is one call into the native program, without the GIL.

Implements the contract in `ops.api`. Every row's result is bit-identical whatever else is in the step, for any number
of threads and on any SIMD path (design, section 5). Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plait.config import MOST_THREADS
from plait.errors import BackendError
from plait.formats.tensor import F32Array
from plait.ops.api import I32Array, KVConfig, KVInputs, Program, Progress, StepInputs
from plait.ops.cores import CAN_BIND, allowed_cpus, by_core, usable_cores
from plait.ops.cpu import _native
from plait.ops.cpu.record import new_program, record
from plait.ops.cpu.repack_cache import open_kept
from plait.ops.cpu.sampling import PackedParams, sample_natively
from plait.ops.program import program_weights
from plait.ops.sampling import Sampled, SampleRow


class CpuBackend:
    """`threads` None takes the physical cores that this process may use. `path` is the SIMD path, one of `paths()`;
    None takes the fastest that this CPU can run.

    `cpus` limits the threads to these CPUs, by the system's numbers; `strict` gives each thread one of its own, of
    `cpus` or of all, physical cores first. `repack_cache` is a folder that keeps repacked weights for the next start.

    Raises BackendError for a path that this CPU cannot run, CPUs that this process may not use, and more threads than
    CPUs where each is to have its own."""

    name = "cpu"

    def __init__(
        self,
        threads: int | None = None,
        path: str | None = None,
        *,
        cpus: Sequence[int] = (),
        strict: bool = False,
        repack_cache: Path | None = None,
    ) -> None:
        usable = self.paths()
        if path is not None and path not in usable:
            raise BackendError(f"this CPU cannot run the kernels '{path}'; choose one of {', '.join(usable)}")
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise BackendError(f"threads is {threads}; give 1 to {MOST_THREADS}, or leave it out for one for each core")
        _check_cpus(cpus)
        self.threads = threads or usable_cores(within=cpus)
        self.path = path or usable[0]
        self._cpus, self._strict = by_core(cpus or sorted(allowed_cpus())) if strict else list(cpus), strict
        if strict and self.threads > len(self._cpus):
            raise BackendError(
                f"{self.threads} threads cannot have one each of {len(self._cpus)} CPUs; give fewer threads, or "
                "more CPUs"
            )
        self._repack_cache = repack_cache

    @staticmethod
    def paths() -> tuple[str, ...]:
        """SIMD paths that this CPU can run, fastest first."""
        return tuple(_native.usable_paths())

    def compile(self, program: Program, kv: KVConfig, progress: Progress | None = None) -> CpuExecutable:
        """Weights that integer kernels multiply with are repacked, on all threads, tensor by tensor, and the pages of
        the mapped file given back behind; the others stay where they are (a file's mapping is held). KV memory takes
        real memory when first used. `progress` hears of each instruction; what it raises ends the work.

        Raises BackendError for a weight format or KV type without kernels, or too little memory."""
        kept = None if self._repack_cache is None else open_kept(self._repack_cache, program_weights(program))
        try:
            native = new_program(program, kv, self.path, self.threads)
            native.bind(self._cpus, self._strict)
            record(program, native, kept, progress)
        except MemoryError:
            raise BackendError("there is too little memory for weights and the KV cache; give it fewer pages") from None
        finally:
            if kept is not None:
                kept.close()
        return CpuExecutable(native)


def _check_cpus(cpus: Sequence[int]) -> None:
    if cpus and not CAN_BIND:
        raise BackendError("this system does not bind threads to CPUs")
    allowed = allowed_cpus()
    refused = [cpu for cpu in cpus if cpu not in allowed]
    if refused:
        usable = ", ".join(map(str, sorted(allowed)))
        raise BackendError(f"this process may not use CPU {', '.join(map(str, refused))}; it may use {usable}")


class CpuExecutable:
    """A native program with its KV memory. Made by `CpuBackend.compile`."""

    def __init__(self, native: _native.Program) -> None:
        self._native = native
        self._packed_params = PackedParams()

    def run(self, step: StepInputs) -> F32Array:
        """Logits (rows that want them, vocabulary), valid until the next run. Raises ValueError for a step that
        addresses tokens, rows, slots or pages that do not exist, or stores two rows to one slot; nothing has changed
        then."""
        groups = [_group_inputs(inputs) for inputs in step.kv]
        return self._native.run(
            _vector(step.tokens),
            _vector(step.positions),
            _vector(step.row_seq),
            _vector(step.out_rows),
            groups,
            step.hidden_only,
        )

    def hidden(self) -> F32Array:
        """Valid until the next run."""
        try:
            return self._native.hidden()
        except ValueError as error:
            raise BackendError(str(error)) from None

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        """All rows in one native call. Raises ValueError for a row of the logits that is not there."""
        return sample_natively(self._native, self._packed_params, logits, picks, rows)

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        return self._native.read_slots(group, _vector(slots))

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        self._native.write_slots(group, _vector(slots), data)

    def kv_bytes(self) -> int:
        return self._native.kv_bytes

    def measure(self, on: bool) -> None:
        """Starts (from zero) or stops measuring how long instructions take; costs a microsecond an instruction."""
        self._native.measure(on)

    def measured(self) -> dict[str, float]:
        """Seconds by kind of instruction, over the steps since `measure(True)`; "before" is what precedes them. In
        steps that are run portion by portion they are one thread's; "wait" is how long it waited for the others."""
        return self._native.measured

    def set_threads(self, threads: int) -> None:
        """From the next step on. Raises ValueError unless it is 1 to 1024."""
        self._native.set_threads(threads)


def _group_inputs(inputs: KVInputs) -> _native.GroupInputs:
    return _native.GroupInputs(
        _vector(inputs.entry_start),
        _table(inputs.entries, 3),
        _vector(inputs.store_row),
        _vector(inputs.store_slot),
        _table([(c.src, c.dst, c.count) for c in inputs.copies], 3),
        _table([(r.slot, r.position) for r in inputs.repositions], 2),
    )


def _vector(values: I32Array) -> I32Array:
    array = np.ascontiguousarray(values, dtype=np.int32)
    if array.ndim != 1:
        raise ValueError(f"an array of shape {array.shape} where a vector is needed")
    return array


def _table(rows: I32Array | Sequence[tuple[int, ...]], width: int) -> I32Array:
    array: I32Array = np.ascontiguousarray(rows, dtype=np.int32)
    if array.size == 0:
        return np.zeros((0, width), np.int32)
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"an array of shape {array.shape} where rows of {width} are needed")
    return array
