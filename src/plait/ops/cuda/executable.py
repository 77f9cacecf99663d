"""A compiled program that runs with the Triton kernels: steps by graph, tokens drawn and kept on the device.

`run` and `sample` follow the protocol, the logits going over the host. `launch` starts a step with its draws and does
not wait: what it draws stays on the device for the next step, and comes to the host when it is asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from plait.errors import BackendError
from plait.formats.tensor import F32Array
from plait.ops.api import I32Array, StepInputs
from plait.ops.check import check_step
from plait.ops.cuda.compiling import compile_together
from plait.ops.cuda.draws import DrawArrays, KnownFacts, draw_arrays
from plait.ops.cuda.graphs import DECODE_ROWS, MIXED_OUTPUTS, MIXED_ROWS, Graphs, round_up
from plait.ops.cuda.interpreter import Interpreter
from plait.ops.cuda.kernel_run import Model, run_program
from plait.ops.cuda.kernels.prefill import rows_of_tile
from plait.ops.cuda.kernels.sample import Draws, draw
from plait.ops.cuda.pending import Pending, ReadBack
from plait.ops.cuda.sharing import LEAST_MEMBERS
from plait.ops.cuda.staging import (
    Capacity,
    Layout,
    Packed,
    Staging,
    StepTensors,
    aligned,
    decode_capacity,
    exact_capacity,
    fits,
    mixed_capacity,
    pack_step,
)
from plait.ops.cuda.step import upload
from plait.ops.program import vocabulary
from plait.ops.sampling import Sampled, SampleRow, sample_picks
from plait.types import SamplingParams

_log = logging.getLogger("plait")
Tensor: TypeAlias = torch.Tensor
MOST_DRAWS = 4096
"""Rows drawn in one step."""
ENTRIES_A_ROW = 512
"""Entries of page tables that a graph has room for, for each of its rows; a step with more runs without one."""
LEAST_ENTRIES = 16384


class KernelExecutable:
    """Made by `CudaBackend.compile`. Without `use_graphs` every step is launched kernel by kernel."""

    def __init__(self, model: Model) -> None:
        self.model, self._memory, self._device = model, model.memory, model.memory.device
        self._vocab = vocabulary(model.program)
        heads, kv = model.program.n_heads, model.memory.shape
        self._interpreter = Interpreter(model.program, model.weights.each, model.memory)
        self._tile_rows = rows_of_tile(heads // kv.n_kv_heads)
        self._known = KnownFacts(MOST_DRAWS)
        self._moved = [False] * len(kv.groups)
        self._drawn = torch.zeros(MOST_DRAWS, dtype=torch.int32, device=self._device)
        self._status = torch.zeros(MOST_DRAWS, dtype=torch.int32, device=self._device)
        self._staging, self._read_back = Staging(self._device), ReadBack(self._device)
        self.use_graphs = self._device.type == "cuda"
        self.graphs = Graphs(self._body, self._device, self._memory.config.page_size)

    # --- the protocol ---------------------------------------------------------------------------------------------

    def run(self, step: StepInputs) -> F32Array:
        """Logits, fresh. Raises ValueError for a step that addresses tokens, rows, slots or pages that do not exist."""
        check_step(step, self._memory.config, self._vocab)
        with torch.no_grad():
            self._edit(step)
            if step.hidden_only:
                return self._plainly(step)
            if not len(step.tokens) or not len(step.out_rows):
                if len(step.tokens):
                    self._forward(self._pack(step))
                return np.empty((0, self.model.program.logits.width), np.float32)
            result: F32Array = self._forward(self._pack(step)).float().cpu().numpy()
            return result

    def _plainly(self, step: StepInputs) -> F32Array:
        """A step that shows hidden states, op by op."""
        logits = self._interpreter(upload(step, self._memory.config.page_size, self._device))
        result: F32Array = logits.cpu().numpy()
        return result

    def hidden(self) -> F32Array:
        if self._interpreter.hidden is None:
            raise BackendError("the program has no hidden states to show, or no step has asked for them")
        result: F32Array = self._interpreter.hidden.float().cpu().numpy()
        return result

    def sample(self, logits: F32Array, picks: Sequence[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        return sample_picks(logits, picks, rows)

    def read_slots(self, group: int, slots: I32Array) -> bytes:
        return self._memory.read(group, slots)

    def write_slots(self, group: int, slots: I32Array, data: bytes) -> None:
        self._memory.write(group, slots, data)

    def kv_bytes(self) -> int:
        return self._memory.nbytes()

    # --- steps whose tokens stay on the device --------------------------------------------------------------------

    def launches(self, rows: Sequence[SampleRow]) -> bool:
        """Whether all these rows can be drawn on the device."""
        return len(rows) <= MOST_DRAWS and self._known.drawn_on_device(rows)

    def launch(self, step: StepInputs, picks: Sequence[int], rows: Sequence[SampleRow]) -> Pending:
        """Starts a step and its draws, rows[i] from row picks[i] of the logits. A token -1 - i, in `step.tokens` or in
        a history, stands for the i-th draw of the launch before this one. Raises as `run` does."""
        check_step(replace(step, tokens=np.maximum(step.tokens, 0)), self._memory.config, self._vocab)
        with torch.no_grad():
            self._edit(step)
            packed = self._pack(step) if len(step.tokens) else None
            # From here on the device has work: what was before is not part of the step's time there.
            pending = self._read_back.begin(len(rows), self.model.program.logits.width)
            if packed is not None:
                logits = self._forward(packed)
                if rows:
                    draw(logits, self._upload_draws(draw_arrays(picks, rows, self._known)), self._drawn, self._status)
            pending.end(self._drawn, self._status)
            return pending

    def prepare(self, parallel: int, batch: int) -> None:
        """Captures what steps of up to `parallel` sequences and `batch` tokens replay, and compiles what draws, so that
        no request waits for it. What does not fit the memory is captured when it is needed, or never."""
        if not self.use_graphs:
            return
        with torch.no_grad():
            with torch.cuda.device(self._device):
                compile_together(lambda: self.rehearse(parallel, batch), self._device)
            start = time.perf_counter()
            try:
                for capacity, several in self._capacities(parallel, batch):
                    self.graphs.of(capacity, True, several)
                self._try_draws()
                torch.cuda.synchronize(self._device)
            except torch.cuda.OutOfMemoryError:
                self._free()
            _log.info("%d steps captured in %.1f s", len(self.graphs), time.perf_counter() - start)

    def rehearse(self, parallel: int, batch: int) -> None:
        """The launches of `prepare`, and of steps like them, on tensors without numbers, for `compiling.rehearse`."""
        double = KernelExecutable(self.model.without_numbers())
        double._try_draws()  # first, since its kernels take longest
        for capacity, several in (*self._capacities(parallel, batch), *self._sharing(parallel, batch)):
            double.graphs.of(capacity, True, several).replay()

    def _sharing(self, parallel: int, batch: int) -> Iterator[tuple[Capacity, bool]]:
        """Steps whose rows share a beginning, one of each kind. They are captured when they come, which is quick once
        their kernels are compiled."""
        if parallel < LEAST_MEMBERS:
            return
        for size in {DECODE_ROWS[0], round_up(parallel, DECODE_ROWS) or DECODE_ROWS[-1]}:
            yield self._decode(size, True), False
        rows, outputs = round_up(batch, MIXED_ROWS) or MIXED_ROWS[-1], round_up(parallel, MIXED_OUTPUTS)
        yield self._mixed(rows, min(rows, outputs or MIXED_OUTPUTS[-1]), True), True

    def _capacities(self, parallel: int, batch: int) -> Iterator[tuple[Capacity, bool]]:
        """Those of `_bucket`, the largest first: the graphs' memory is one pool."""
        rows, most = (round_up(n, sizes) or sizes[-1] for n, sizes in ((batch, MIXED_ROWS), (parallel, DECODE_ROWS)))
        outputs = round_up(min(parallel, MIXED_OUTPUTS[-1]), MIXED_OUTPUTS) or 0
        for size in reversed(MIXED_ROWS):
            wanted = {min(each, size) for each in MIXED_OUTPUTS if each <= outputs and size <= rows}
            yield from ((self._mixed(size, each), True) for each in sorted(wanted, reverse=True))
        yield from ((self._decode(size), False) for size in reversed(DECODE_ROWS) if size <= most)

    def _try_draws(self) -> None:
        """Draws nobody asked for: the kernels are compiled at the first one."""
        logits = torch.zeros((1, self.model.program.logits.width), dtype=torch.float32, device=self._device)
        for params in (SamplingParams(seed=1, samplers=()), SamplingParams(seed=1, top_k=2)):
            rows = [SampleRow(params, 0, 0, ())]
            draw(logits, self._upload_draws(draw_arrays([0], rows)), self._drawn, self._status)

    # --- one pass -------------------------------------------------------------------------------------------------

    def _edit(self, step: StepInputs) -> None:
        for group, inputs in enumerate(step.kv):
            self._memory.edit(group, inputs)
            self._moved[group] = self._moved[group] or bool(inputs.repositions)

    def _pack(self, step: StepInputs) -> Packed:
        config, groups = self._memory.config, self._memory.shape.groups
        masked = tuple(moved or group.window is not None for moved, group in zip(self._moved, groups, strict=True))
        return pack_step(step, config.page_size, self._tile_rows, masked, self._memory.shape.n_kv_heads)

    def _forward(self, packed: Packed) -> Tensor:
        """Logits on the device, (outputs, vocabulary), valid until the next pass."""
        single = any(work.items.shape[1] for work in packed.work) or not packed.work
        several = any(work.tiles.shape[1] for work in packed.work)
        capacity = self._bucket(packed, several)
        try:
            if capacity is None:
                return self._eager(packed, single, several)
            graph = self.graphs.of(capacity, True, several)
            self._send(graph.layout, packed, graph.input)
            return graph.replay()[: len(packed.step.out_rows)]
        except torch.cuda.OutOfMemoryError:
            # Once more without what graphs hold; should that fail, too, whoever runs the step tries less of it.
            self._free()
            return self._eager(packed, single, several)

    def _free(self) -> None:
        self.graphs.drop()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    def _bucket(self, packed: Packed, several: bool) -> Capacity | None:
        """The captured step that this one fits, None for none."""
        if not self.use_graphs or packed.page != self._memory.config.page_size:
            return None
        size = round_up(len(packed.step.tokens), MIXED_ROWS if several else DECODE_ROWS)
        if size is None:
            return None
        sharing = any(work.shared.items.shape[1] for work in packed.work)
        able = (
            (self._mixed(size, min(outputs, size), sharing) for outputs in MIXED_OUTPUTS)
            if several
            else (self._decode(size, sharing),)
        )
        return next((capacity for capacity in able if fits(packed, capacity)), None)

    def _mixed(self, rows: int, outputs: int, sharing: bool = False) -> Capacity:
        groups = len(self._memory.shape.groups)
        return mixed_capacity(rows, outputs, self._tile_rows, groups, self._entries(rows), sharing)

    def _decode(self, rows: int, sharing: bool = False) -> Capacity:
        return decode_capacity(rows, len(self._memory.shape.groups), self._entries(rows), sharing)

    def _entries(self, rows: int) -> int:
        return max(LEAST_ENTRIES, ENTRIES_A_ROW * rows) * len(self._memory.shape.groups)

    def _eager(self, packed: Packed, single: bool, several: bool) -> Tensor:
        layout = Layout(exact_capacity(packed))
        data = torch.empty(layout.size * 4, dtype=torch.uint8, device=self._device)
        self._send(layout, packed, data)
        return self._body(layout.tensors(data.view(torch.int32), packed.page), single, several)

    def _body(self, step: StepTensors, single: bool, several: bool) -> Tensor:
        return run_program(self.model, step, self._drawn, single, several)

    def _send(self, layout: Layout, packed: Packed, target: Tensor) -> None:
        host = self._staging.take(layout.size * 4)
        used = layout.fill(host[: layout.size * 4].view(torch.int32).numpy(), packed)
        self._staging.send(target, used * 4)

    def _upload_draws(self, arrays: DrawArrays) -> Draws:
        between = np.zeros(aligned(arrays.ints.nbytes) - arrays.ints.nbytes, np.uint8)  # see `staging.Layout`
        parts = (arrays.floats.view(np.uint8).reshape(-1), arrays.ints.view(np.uint8).reshape(-1), between,
                 arrays.history.view(np.uint8))  # fmt: skip
        ends = np.cumsum([len(part) for part in parts]).tolist()
        host = self._staging.take(ends[-1])
        np.concatenate(parts, out=host[: ends[-1]].numpy())
        data = torch.empty(ends[-1], dtype=torch.uint8, device=self._device)
        self._staging.send(data, ends[-1])
        floats = data[: ends[0]].view(torch.float64).view(arrays.floats.shape)
        ints = data[ends[0] : ends[1]].view(torch.int32).view(arrays.ints.shape)
        return Draws(ints, floats, data[ends[2] :].view(torch.int32), arrays.copy)
