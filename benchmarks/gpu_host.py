"""CPU milliseconds that a decoding step costs on the GPU backend, without a GPU:
`PYTHONPATH=src python benchmarks/gpu_host.py [--sequences 256] [--profile]`.

Prompts as token ids go through `LLM.generate` with the backend's kernel executable on torch's CPU device, and the
milliseconds are of the whole process: from one call of the engine to the next, everything between them included, in the
steps in which every sequence decodes. Of `--rounds` the one with the least median is told, and the quickest tenth of
its steps: a host that is shared changes its speed by a factor of two within seconds. A second run says how the time is
divided; its clocks cost something, too.

What it leaves out is what only a GPU has: the program is not run (its kernels and the drawing are replaced by a
function that writes tokens to where they would be drawn), so that the launch of a captured graph, of the two drawing
kernels, of the copies, and the events around them are missing, which take some 0.2 to 0.5 ms of the CPU; copies to the
device are copies within the host's memory; nothing waits for a device, so that no planning overlaps with one.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before the first kernel is imported

import numpy as np
import torch
from gpu_shapes import LLAMA_8B, write_model

from plait.api.llm import LLM
from plait.engine import build
from plait.ops.cuda import executable
from plait.ops.cuda.backend import CudaBackend
from plait.types import SamplingParams

SHAPE = LLAMA_8B | {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 64,
}  # fmt: skip
PROMPT = 200
STEPS = 150
WARM_UP = 20
KINDS: dict[str, dict[str, object]] = {
    "drawn": {"temperature": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    "greedy": {"temperature": 0.0},
    "top-p": {"temperature": 0.6, "top_k": 40, "top_p": 0.95, "min_p": 0.0},
    "stop string": {"temperature": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "stop": ("no token spells this",)},
}


class HostBackend(CudaBackend):
    """The GPU backend in the machine's memory."""

    def __init__(self) -> None:
        super().__init__("cpu", "f32", kernels=True)

    def kv_bytes(self, program: object, fraction: float) -> int:
        return 2**30


class Nothing:
    """Takes the place of the program and of the drawing."""

    def __init__(self, vocabulary: int) -> None:
        self._logits = torch.zeros((1, 1)).expand(4096, vocabulary)
        tokens = np.random.default_rng(1).integers(256, vocabulary, (64, 4096), dtype=np.int32)
        self._tokens, self._turn = torch.from_numpy(tokens), 0

    def run(self, *_: object) -> torch.Tensor:
        return self._logits

    def draw(self, logits: torch.Tensor, rows: Any, drawn: torch.Tensor, status: torch.Tensor) -> None:
        self._turn = (self._turn + 1) % len(self._tokens)
        drawn[: len(rows.ints)] = self._tokens[self._turn, : len(rows.ints)]


class Steps:
    """Process CPU seconds at each call of the engine, and by then of each of `parts`."""

    def __init__(self, llm: LLM, parts: dict[str, float] | None = None) -> None:
        self.times: list[tuple[float, int, dict[str, float]]] = []
        self._parts = {} if parts is None else parts
        self._step, self._engine = llm._engine.step, llm._engine
        llm._engine.step = self._timed

    def _timed(self) -> Any:
        running = len(self._engine.requests)
        self.times.append((time.process_time(), running, dict(self._parts)))
        return self._step()

    def of_decoding(self, sequences: int) -> list[dict[str, float]]:
        """Milliseconds of each part, and of all ("whole"), of the steps in the middle of the run."""
        times = [parts | {"whole": at} for at, running, parts in self.times if running == sequences][-STEPS:]
        return [
            {name: 1e3 * (seconds - before.get(name, 0.0)) for name, seconds in after.items()}
            for before, after in pairwise(times)
        ]


class Parts:
    """CPU seconds of each part, on whichever thread; what a part calls of another part counts there alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._local = threading.local()

    def enter(self) -> None:
        self._stack().append([time.thread_time(), 0.0])

    def leave(self, name: str) -> None:
        stack = self._stack()
        began, inner = stack.pop()
        spent = time.thread_time() - began
        self.seconds[name] += spent - inner
        if stack:
            stack[-1][1] += spent

    def _stack(self) -> list[list[float]]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        found: list[list[float]] = self._local.stack
        return found

    def wrap(self, owner: Any, method: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **fields: Any) -> Any:
            self.enter()
            try:
                return inner(*args, **fields)
            finally:
                self.leave(name)

        setattr(owner, method, timed)

    def collecting(self, phase: str, info: object) -> None:
        """For `gc.callbacks`."""
        if phase == "start":
            self.enter()
        else:
            self.leave("gc")


def watch(llm: LLM) -> Parts:
    """Clocks around the parts of a step."""
    parts, engine = Parts(), llm._engine
    runner: Any = engine._runner
    gpu: Any = runner._executable
    parts.wrap(engine._scheduler, "schedule", "plan")
    parts.wrap(engine._scheduler, "commit", "commit")
    parts.wrap(engine._observer, "planned", "metrics")
    parts.wrap(engine._observer, "landed", "metrics")
    parts.wrap(engine.meter, "events", "metrics")
    parts.wrap(runner, "_run", "sample bookkeeping")
    parts.wrap(runner._packer, "pack", "pack")
    parts.wrap(gpu, "launch", "launch, the rest of it")
    parts.wrap(executable, "check_step", "check")
    parts.wrap(executable, "pack_step", "pack for attention")
    parts.wrap(executable, "draw_arrays", "sampling parameters")
    parts.wrap(gpu, "_send", "stage")
    parts.wrap(gpu, "_upload_draws", "stage")
    parts.wrap(engine, "_land", "read results")
    parts.wrap(engine, "step", "loop")
    parts.wrap(llm, "_post", "detokenise and publish")
    gc.callbacks.append(parts.collecting)
    return parts


def at_once(work: Callable[[], Any]) -> Future[Any]:
    """Takes the place of the worker thread."""
    future: Future[Any] = Future()
    future.set_result(work())
    return future


def make(folder: Path, sequences: int) -> LLM:
    build.open_cuda = lambda dtype: HostBackend()
    nothing = Nothing(int(str(SHAPE["vocab_size"])))
    executable.run_program, executable.draw = nothing.run, nothing.draw
    llm = LLM(folder, load_format="random", device="cuda", adaptive="off", n_parallel=sequences, n_batch=2048)
    runner: Any = llm._engine._runner
    runner._executable.use_graphs = True  # laid out as for a captured step
    return llm


def run(llm: LLM, sequences: int, kind: str, parts: dict[str, float] | None = None) -> list[dict[str, float]]:
    """`Steps.of_decoding`, of the steps in which all decode."""
    rng = np.random.default_rng(2)
    prompts = [rng.integers(256, 4000, PROMPT).tolist() for _ in range(sequences)]
    longest = STEPS + WARM_UP + sequences * PROMPT // 2048 + 2
    params = SamplingParams(max_tokens=longest, seed=7, ignore_eos=True, **KINDS[kind])
    steps = Steps(llm, parts)
    answers = llm.generate(prompts, params)
    del llm._engine.step
    assert all(len(answer.samples[0].token_ids) == longest for answer in answers)
    return steps.of_decoding(sequences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="drawn", help=", ".join(KINDS))
    parser.add_argument("--profile", action="store_true", help="where the time goes, all on one thread")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = write_model(Path(tempfile.gettempdir()) / "plait-gpu-host", SHAPE)
    with make(folder, given.sequences) as llm:
        for kind in given.kinds.split(","):
            rounds = [[step["whole"] for step in run(llm, given.sequences, kind)] for _ in range(given.rounds)]
            times = min(rounds, key=median)
            tenth = sorted(times)[len(times) // 10]
            print(f"{kind}, {given.sequences} sequences: {median(times):.2f} ms of the CPU for a step, 10% {tenth:.2f}")
        if given.profile:
            llm._engine._runner._plain.queue = at_once
            profile = cProfile.Profile()
            profile.runcall(run, llm, given.sequences, "drawn")
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
            return
        parts = watch(llm)
        steps = run(llm, given.sequences, given.kinds.split(",")[0], parts.seconds)
        for step in steps:
            step["answers and the rest"] = 2 * step["whole"] - sum(step.values())
        middle = {name: median(step.get(name, 0.0) for step in steps) for name in steps[-1]}
        print("the median of each part over the steps, with the clocks' own time:")
        for name, ms in sorted(middle.items(), key=lambda each: -each[1]):
            print(f"  {name:<26}{ms:7.3f} ms")


if __name__ == "__main__":
    main()
