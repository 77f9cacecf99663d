"""Puts an engine together: options, a loaded model, a backend, KV memory, scheduler and runner.

The one place that knows them all. Chooses sizes; does no work itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.config import LIMITS, EngineOptions, NotNamed, crash_token, parse_hours, parse_slo
from plait.control.controller import Controller
from plait.control.goals import Hours, Schedule, goals_of, start_of
from plait.control.records import Goals, Setting
from plait.engine.calibrate import calibrate
from plait.engine.core import Engine
from plait.engine.crash import crashing
from plait.engine.fingerprint import Fingerprint, fingerprint
from plait.engine.grammar import Grammars
from plait.engine.kvdisk import KVDisk
from plait.engine.kvstore import KVStore
from plait.engine.launching import LaunchingExecutable, LaunchingRunner
from plait.engine.prefixes import Prefixes
from plait.engine.runner import Masks, Runner
from plait.errors import BackendError, OptionError
from plait.metrics.meter import Meter
from plait.metrics.records import Bounds
from plait.models.registry import LoadedModel
from plait.ops.api import Backend, Executable, KVConfig, KVGroup, KVShape, Program, Progress
from plait.ops.cuda import open_cuda
from plait.scheduler.limits import Limits, QueueBounds
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest

if TYPE_CHECKING:  # takes longer to import than a small model to load
    from plait.tokenizer import Tokenizer

_log = logging.getLogger("plait")
Ready: TypeAlias = Callable[[EngineRequest], bool]

RAM_SHARE = 4
"""Without `--kv-memory`, KV memory takes at most one part in this many of the RAM."""
MIB = 1024 * 1024
BLOCK_TOKENS = 64
"""Tokens that are kept on disk as one file, at least: of shorter prompts nothing is kept."""
POSITION_BYTES = 4
NVIDIA_DRIVER = Path("/dev/nvidiactl")
"""Looked for before torch is, which takes seconds to import."""


def build_engine(
    loaded: LoadedModel,
    options: EngineOptions,
    progress: Progress | None = None,
    tokenizer: str = "",
    load_tokenizer: Callable[[], Tokenizer] | None = None,
) -> Engine:
    """An engine for this model. Prepares the weights, which may take a while; `progress` hears of it. `tokenizer` is
    the tokenizer's fingerprint, for what is kept on disk; `load_tokenizer` is asked for it by the first grammar, and
    without it the engine takes none.

    Raises `BackendError` where the device cannot be used or cannot run the model, `OptionError` where the KV memory
    would not hold a page.
    """
    return open_engine(loaded, options, progress, tokenizer, load_tokenizer).engine


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine, and what it came of: the kernel library's name, the KV memory, and what its bits depend on."""

    engine: Engine
    backend: str
    kv: KVConfig
    mark: Fingerprint


def open_engine(
    loaded: LoadedModel,
    options: EngineOptions,
    progress: Progress | None = None,
    tokenizer: str = "",
    load_tokenizer: Callable[[], Tokenizer] | None = None,
) -> Opened:
    """`build_engine`, and what is known of the engine besides."""
    backend = make_backend(options)
    if isinstance(backend, OwnMemory):
        if isinstance(options.kv_type, NotNamed):
            options = replace(options, kv_type=backend.dtype_name)
        kv = gpu_kv_config(loaded, options, backend)
    else:
        kv = kv_config(loaded.kv, options, loaded.context_length)
    start = time.perf_counter()
    executable = backend.compile(loaded.program, kv, progress)
    _log.info("weights prepared in %.1f s", time.perf_counter() - start)
    if (token := crash_token()) is not None:
        executable = crashing(executable, token)
    mark = fingerprint(loaded, options.kv_type, backend.name, tokenizer)
    grammars = None if load_tokenizer is None else Grammars(load_tokenizer, loaded.vocab_size)
    engine = assemble_engine(executable, loaded.kv, kv, options, loaded.context_length, mark, grammars)
    return Opened(engine, backend.name, kv, mark)


@runtime_checkable
class Preparing(Protocol):
    """An executable that may do before the first request what the first steps would wait for."""

    def prepare(self, parallel: int, batch: int) -> None:
        """For steps of up to `parallel` sequences and `batch` tokens."""
        ...


@runtime_checkable
class OwnMemory(Protocol):
    """A backend whose KV memory is not in the machine's RAM."""

    dtype_name: str

    def kv_bytes(self, program: Program, fraction: float) -> int:
        """Bytes that KV memory may take beside the weights, within `fraction` of the device's memory."""
        ...


def gpu_kv_config(loaded: LoadedModel, options: EngineOptions, backend: OwnMemory) -> KVConfig:
    """As large as the device has room for, or `options.kv_memory`.

    Raises `BackendError` where nothing is left beside the weights, `OptionError` where that holds no page."""
    room = backend.kv_bytes(loaded.program, options.gpu_memory)
    if options.kv_memory * MIB > room:
        raise OptionError(f"--kv-memory is {options.kv_memory} MiB; the GPU has room for {room // MIB} MiB")
    return pages_of(loaded.kv, options, options.kv_memory * MIB or room)


def pages_of(shape: KVShape, options: EngineOptions, nbytes: int) -> KVConfig:
    """KV memory of so many bytes; all groups have the same number of pages."""
    page_bytes = sum(group_page_bytes(shape, group, options) for group in shape.groups)
    pages = nbytes // page_bytes
    if pages < 2:
        raise OptionError(
            f"the KV memory does not hold a single page of {options.page_size} tokens, which takes "
            f"{-(-page_bytes // MIB)} MiB beside a reserved one; give more with --kv-memory or --gpu-memory"
        )
    return KVConfig(options.page_size, (pages,) * len(shape.groups), options.kv_type)


def assemble_engine(
    executable: Executable,
    shape: KVShape,
    kv: KVConfig,
    options: EngineOptions,
    context_length: int,
    mark: Fingerprint | None = None,
    grammars: Grammars | None = None,
) -> Engine:
    """An engine around a compiled program, with `kv` the KV memory it was compiled for. With `mark`, what is cached can
    be written to files, and prompts are kept in `options.kv_cache_dir`."""
    config = CacheConfig(kv.page_size, kv.num_pages, tuple(group.window for group in shape.groups))
    controller = make_controller(options)
    setting = controller.setting if controller else Setting(options.n_batch, None, options.n_parallel)
    context = options.n_ctx or context_length
    limits = Limits(
        n_batch=setting.n_batch, n_parallel=setting.n_parallel, context_length=context, n_draft=options.draft_max
    )
    if isinstance(executable, Preparing):
        executable.prepare(*_most(options, setting, controller is not None))
    if controller and options.calibrate:
        calibrate(executable, config, context, controller.fit, options.calibrate)
    queue = QueueBounds(max_requests=options.max_queue_requests, max_tokens=options.max_queue_tokens)
    cache = KVCache(config)
    runner = make_runner(executable, len(shape.groups), grammars)
    keep = bool(options.kv_cache_dir) and options.prefix_cache
    disk = _kv_disk(cache, runner, shape, options, mark) if mark and keep else None
    ready = _all_ready([part.ready for part in (grammars, disk) if part is not None])
    scheduler = Scheduler(cache, limits, reuse=options.prefix_cache, queue=queue, ready=ready)
    meter = Meter(_bounds(options) if controller else None)
    engine = Engine(
        scheduler,
        runner,
        in_flight=options.in_flight,
        meter=meter,
        controller=controller,
        disk=disk,
        grammars=grammars,
    )
    engine.prefixes = Prefixes(cache, runner, mark) if mark else None
    return engine


def _all_ready(parts: list[Ready]) -> Ready | None:
    return (lambda request: all(ready(request) for ready in parts)) if parts else None


def make_runner(executable: Executable, num_groups: int, masks: Masks | None = None) -> Runner | LaunchingRunner:
    """Steps are launched ahead where the executable can do that."""
    if isinstance(executable, LaunchingExecutable):
        return LaunchingRunner(executable, num_groups, masks)
    return Runner(executable, num_groups, masks)


def _kv_disk(
    cache: KVCache, runner: Runner | LaunchingRunner, shape: KVShape, options: EngineOptions, mark: Fingerprint
) -> KVDisk:
    block = lcm(BLOCK_TOKENS, options.page_size)
    store = KVStore(Path(options.kv_cache_dir), mark, block, options.kv_cache_size * MIB)
    slot_bytes = [group_page_bytes(shape, group, options) // options.page_size for group in shape.groups]
    return KVDisk(cache, runner, store, slot_bytes)


def make_controller(options: EngineOptions) -> Controller | None:
    """The controller that these options ask for; None where it would have nothing to adapt. Explicit bounds hold at all
    hours. Where both limits are given, it still learns what a row costs if tokens are to be guessed."""
    if options.adaptive == "off" or (options.fixed == frozenset(LIMITS) and not options.draft_max):
        return None
    hours = [Hours(start, end, _goals(options, name)) for start, end, name in parse_hours(options.hours)]
    start = start_of(options.profile)
    if "n_batch" in options.fixed:
        start = replace(start, n_batch=options.n_batch)
    if "n_parallel" in options.fixed:
        start = replace(start, n_parallel=options.n_parallel)
    return Controller(Schedule(_goals(options, options.profile), hours), start, minute_of_day=_minute_of_day)


def _goals(options: EngineOptions, profile: str) -> Goals:
    slo, fixed = parse_slo(options.slo), options.fixed
    goals = goals_of(profile, ttft_s=slo.get("ttft"), itl_s=slo.get("itl"))
    return replace(
        goals,
        fixed_batch="n_batch" in fixed,
        fixed_parallel="n_parallel" in fixed,
        guesses=options.draft_max > 0,
    )


def _most(options: EngineOptions, setting: Setting, adaptive: bool) -> tuple[int, int]:
    """How many sequences and tokens a step may ever have."""
    goals = _goals(options, options.profile)
    return (
        goals.most_parallel if adaptive and not goals.fixed_parallel else setting.n_parallel,
        goals.most_batch if adaptive and not goals.fixed_batch else setting.n_batch,
    )


def _bounds(options: EngineOptions) -> Bounds:
    goals = _goals(options, options.profile)
    return Bounds(goals.ttft_s, goals.itl_s)


def _minute_of_day() -> int:
    now = time.localtime()
    return 60 * now.tm_hour + now.tm_min


def make_backend(options: EngineOptions) -> Backend:
    """The kernel library for `options.device`; "auto" is CUDA on a machine that has it, else the CPU.

    Raises `BackendError`, with what was tried and why it cannot be had.
    """
    if options.device == "reference":
        from plait.ops.reference import ReferenceBackend

        return ReferenceBackend()
    if options.device == "cuda":
        return open_cuda(dtype=options.gpu_type)
    if options.device == "cpu" or not NVIDIA_DRIVER.exists():
        return _cpu_backend(options)
    try:
        return open_cuda(dtype=options.gpu_type)
    except BackendError as cuda_error:
        try:
            return _cpu_backend(options)
        except BackendError as cpu_error:
            raise BackendError(f"no device can be used: {cuda_error}; {cpu_error}") from None


def _cpu_backend(options: EngineOptions) -> Backend:
    try:
        from plait.ops.cpu.backend import CpuBackend
    except ImportError as error:
        raise BackendError(f"--device cpu: the kernels are not built ({error}); run make build") from None
    return CpuBackend(
        options.threads or None,
        None if options.cpu_path == "auto" else options.cpu_path,
        cpus=options.cpus(),
        strict=bool(options.cpu_strict),
        repack_cache=Path(options.repack_cache) if options.repack_cache else None,
    )


def kv_config(shape: KVShape, options: EngineOptions, context_length: int, kv_tokens: int = 0) -> KVConfig:
    """The size of the KV memory: `options.kv_memory`, or room for `n_parallel` sequences at full context (for
    `kv_tokens` in all, if given), as far as a quarter of the RAM holds them. All groups have the same number of pages.

    Raises `OptionError` where that is less than one page, or more than all memory.
    """
    if options.page_size < 1:
        raise OptionError(f"page_size is {options.page_size}; give at least 1")
    page_bytes = sum(group_page_bytes(shape, group, options) for group in shape.groups)
    if options.kv_memory * MIB > physical_memory():
        raise OptionError(f"--kv-memory is {options.kv_memory} MiB; there are {physical_memory() // MIB} MiB of memory")
    if options.kv_memory:
        pages = options.kv_memory * MIB // page_bytes
    else:
        context = options.n_ctx or context_length
        each = -(-context // options.page_size)
        wanted = -(-kv_tokens // options.page_size) if kv_tokens else options.n_parallel * each
        # One page more for each sequence: each may end in a ragged one, and a prefix shared to the middle of a page is
        # copied before it is written.
        wanted += options.n_parallel
        pages = min(wanted, physical_memory() // RAM_SHARE // page_bytes)
    if pages < 1:
        raise OptionError(
            f"the KV memory does not hold a single page of {options.page_size} tokens, which takes "
            f"{-(-page_bytes // MIB)} MiB; give more with --kv-memory"
        )
    return KVConfig(options.page_size, (pages + 1,) * len(shape.groups), options.kv_type)


def group_page_bytes(shape: KVShape, group: KVGroup, options: EngineOptions) -> int:
    """Bytes of one page of a KV group: K and V of its layers, and the position of each token."""
    return options.page_size * (len(group.layers) * shape.layer_bytes(options.kv_type) + POSITION_BYTES)


def physical_memory() -> int:
    """Bytes of RAM this process may use: the machine's, or its control group's limit where that is lower."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        text = limit.read_text().strip()
    except OSError:
        return total
    return min(total, int(text)) if text.isdigit() else total
