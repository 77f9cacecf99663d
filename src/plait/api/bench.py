"""Measures prefill and decode of many sequences, as llama-batched-bench does: given tokens, one case after another.

Drives KV memory and the compiled program with the engine's own packing, without scheduler and requests. Knows nothing
of how the figures are shown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.config import EngineOptions
from plait.engine.build import kv_config, make_backend
from plait.engine.packing import Packer, only_edits
from plait.errors import OptionError
from plait.formats.tensor import F32Array
from plait.models.registry import LoadedModel
from plait.ops.api import KVConfig, Progress
from plait.ops.cores import usable_cores
from plait.ops.sampling import SampleRow
from plait.scheduler.plan import FromStep, PlannedSequence
from plait.types import SamplingParams, TokenId

WARM_UP_S = 0.5
"""Prefill before a case is timed goes on for at most this long: it is there for page faults, caches and clocks."""
WARM_UP_DECODES = 2


@dataclass(frozen=True, slots=True)
class BenchCase:
    """`prompt` tokens, then `generate` tokens, for each of `sequences`; with `shared` all have the same prompt, which
    is computed once."""

    prompt: int
    generate: int
    sequences: int
    shared: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens that are computed, over all sequences."""
        return self.prompt * (1 if self.shared else self.sequences)

    @property
    def generated_tokens(self) -> int:
        return self.generate * self.sequences

    @property
    def kv_tokens(self) -> int:
        """Tokens in KV memory at the end: N_KV of the table."""
        return self.prompt_tokens + self.generated_tokens

    def __str__(self) -> str:
        return f"{self.sequences} x ({self.prompt} + {self.generate}) tokens"

    @property
    def context(self) -> int:
        """Tokens of the longest sequence."""
        return self.prompt + self.generate

    def pages(self, page_size: int) -> int:
        """Pages that the case takes at most in one KV group, page 0 not counted."""
        if self.shared:  # each sequence copies the prompt's last, ragged page before it writes to it
            return -(-self.prompt // page_size) + self.sequences * (-(-self.generate // page_size) + 1)
        return self.sequences * -(-self.context // page_size)


@dataclass(frozen=True, slots=True)
class BenchTimes:
    """Seconds of one run of a case: all of prefill, all of decode; and how much of each Python took to plan and pack
    the steps. Sampling is part of decode."""

    prompt_s: float
    generate_s: float
    prompt_host_s: float
    generate_host_s: float
    sample_s: float

    @staticmethod
    def medians(times: Sequence[BenchTimes]) -> BenchTimes:
        """The median of each figure by itself."""
        return BenchTimes(*(median(getattr(t, name) for t in times) for name in BenchTimes.__slots__))


class _Clock:
    """Seconds spent in the program and in sampling since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.program = self.sample = 0.0

    def elapsed(self) -> float:
        return time.perf_counter() - self.start

    def host(self) -> float:
        return self.elapsed() - self.program - self.sample


class Bench:
    """A model compiled with room for the largest of `cases`. `sample` draws each decoded token from the logits with the
    default sampler chain, where otherwise the tokens are given.

    Raises `OptionError` for a case that does not fit the context or the memory, `BackendError` as `make_backend` does.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        options: EngineOptions,
        cases: Sequence[BenchCase],
        *,
        sample: bool = False,
        progress: Progress | None = None,
    ) -> None:
        kv = bench_kv(loaded, options, cases)
        backend = make_backend(options)
        self.device = backend.name
        self.threads = (options.threads or usable_cores(within=options.cpus())) if backend.name == "cpu" else 0
        self._executable = backend.compile(loaded.program, kv, progress)
        self.kv_bytes = self._executable.kv_bytes()
        windows = tuple(group.window for group in loaded.kv.groups)
        self._cache = KVCache(CacheConfig(kv.page_size, kv.num_pages, windows))
        self._packer = Packer(len(kv.num_pages))
        self._n_batch, self._vocab, self._sample = options.n_batch, loaded.vocab_size, sample

    def measure(self, case: BenchCase) -> BenchTimes:
        """Run a case once, from empty sequences to empty sequences."""
        try:
            clock = _Clock()
            logits = self._prefill(case, clock)
            prompt_s, prompt_host_s = clock.elapsed(), clock.host()
            clock = _Clock()
            self._decode(case, case.generate, logits, clock)
            return BenchTimes(prompt_s, clock.elapsed(), prompt_host_s, clock.host(), clock.sample)
        finally:
            self._cache.seq_keep(-1)

    def warm_up(self, case: BenchCase) -> None:
        """The beginning of a case, untimed."""
        try:
            logits = self._prefill(case, _Clock(), WARM_UP_S)
            self._decode(case, min(WARM_UP_DECODES, case.generate), logits, _Clock())
        finally:
            self._cache.seq_keep(-1)

    def _prefill(self, case: BenchCase, clock: _Clock, seconds: float = float("inf")) -> F32Array | None:
        """Compute the prompts, in steps that take tokens of one sequence after the other; stop early after `seconds`.
        Returns the logits of each prompt's last token where the tokens are sampled."""
        owners = 1 if case.shared else case.sequences
        tokens = self._random_tokens(owners, case.prompt)
        for seq in range(owners):
            self._cache.open(seq, reuse=False)
        rows: list[F32Array] = []
        for start in range(0, owners * case.prompt, self._n_batch):
            parts = _cut(start, min(start + self._n_batch, owners * case.prompt), case.prompt)
            ends = [high == case.prompt for _, _, high in parts]
            logits = self._step([(seq, tuple(tokens[seq][low:high])) for seq, low, high in parts], ends, clock)
            if self._sample:
                rows.append(logits.copy())
            if clock.elapsed() > seconds:
                break
        for seq in range(owners, case.sequences):
            self._cache.fork(0, seq)
        # A prefill that stopped early has too few rows: its sequences go on with given tokens.
        known = np.concatenate(rows) if rows else None
        if known is None or len(known) < owners:
            return None
        return np.repeat(known, case.sequences, axis=0) if case.shared else known

    def _decode(self, case: BenchCase, steps: int, logits: F32Array | None, clock: _Clock) -> None:
        given = self._random_tokens(steps, case.sequences)
        wanted = [True] * case.sequences
        for tokens in given:
            if self._sample and logits is not None:
                tokens = self._draw(logits, clock)
            logits = self._step([(seq, (token,)) for seq, token in enumerate(tokens)], wanted, clock)

    def _draw(self, logits: F32Array, clock: _Clock) -> list[TokenId]:
        start = time.perf_counter()
        params = SamplingParams(seed=0)
        rows = [SampleRow(params, seq, self._cache.length(seq), ()) for seq in range(len(logits))]
        drawn = self._executable.sample(logits, range(len(rows)), rows)
        for sampled in drawn:
            if sampled.error is not None:
                raise sampled.error
        clock.sample += time.perf_counter() - start
        return [sampled.token for sampled in drawn]

    def _step(
        self, parts: Sequence[tuple[int, tuple[TokenId, ...]]], wanted: Sequence[bool], clock: _Clock
    ) -> F32Array:
        """Run the next tokens of some sequences; logits of the last token of those that are `wanted`."""
        planned: list[PlannedSequence] = []
        out_rows: list[int] = []
        rows = 0
        cache = self._cache
        for (seq, tokens), wants in zip(parts, wanted, strict=True):
            first = cache.length(seq)
            place = cache.extend_one(seq) if len(tokens) == 1 else None
            if place is None:
                reserved = cache.reserve(seq, len(tokens))
                assert reserved is not None, f"the KV memory has no room for sequence {seq} at {first}"
                place = (reserved, cache.all_parted(seq))
            slots, tables = place
            planned.append(PlannedSequence(seq, tokens, first, tables, slots))
            rows += len(tokens)
            if wants:
                out_rows.append(rows - 1)
        inputs, edits = self._packer.pack(planned, out_rows, _no_token), cache.take_edits()
        start = time.perf_counter()
        if any(edits):
            self._executable.run(only_edits(edits))
        logits = self._executable.run(inputs)
        clock.program += time.perf_counter() - start
        for seq, tokens in parts:
            cache.commit(seq, tokens, cacheable=False)
        return logits

    def _random_tokens(self, rows: int, columns: int) -> list[list[TokenId]]:
        """The same for every run of a case."""
        drawn: list[list[TokenId]] = np.random.default_rng(0).integers(0, self._vocab, (rows, columns)).tolist()
        return drawn


def bench_kv(loaded: LoadedModel, options: EngineOptions, cases: Sequence[BenchCase]) -> KVConfig:
    """KV memory with room for each case by itself. Raises `OptionError` for a case that has none."""
    context = options.n_ctx or loaded.context_length
    for case in cases:
        if case.context > context:
            raise OptionError(
                f"{case}: a sequence takes {case.context} tokens, the context is {context}; raise it with -c"
            )
    tokens = options.page_size * max(case.pages(options.page_size) for case in cases)
    most = max(case.sequences for case in cases)
    kv = kv_config(loaded.kv, replace(options, n_parallel=most), loaded.context_length, tokens)
    for case in cases:
        if case.pages(options.page_size) >= min(kv.num_pages):
            raise OptionError(
                f"{case}: the KV memory holds {(min(kv.num_pages) - 1) * options.page_size} tokens; give more with "
                "--kv-memory, or fewer sequences"
            )
    return kv


def _cut(start: int, end: int, prompt: int) -> list[tuple[int, int, int]]:
    """Tokens start..end of all prompts, one after the other, as (sequence, first, end in the sequence)."""
    parts = []
    while start < end:
        seq, low = divmod(start, prompt)
        high = min(prompt, low + end - start)
        parts.append((seq, low, high))
        start += high - low
    return parts


def _no_token(source: FromStep) -> TokenId:
    raise AssertionError(f"{source} in a step whose tokens are all known")
