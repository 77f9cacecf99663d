"""A model with GGUF's names to a GGUF file of other tensor types, over threads.

Knows the mixes and the writer; runs no model.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from plait.errors import ModelFileError
from plait.formats.gguf_reader import encoded_pairs
from plait.formats.gguf_writer import TensorPlan, encode_u32, write_gguf
from plait.formats.mixes import FLOATS, Mix, ModelFacts, chosen_format
from plait.formats.quant import KNOWN_TYPES, TensorType, dequantize, quantize
from plait.formats.tensor import LazyTensor, ModelSource, U8Array, raw_rows

_PIECE_VALUES = 1 << 21  # 8 MB as float32; some of these are in flight for each thread
_QUANTIZATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Conversion:
    """A tensor and the type it gets."""

    tensor: LazyTensor
    plan: TensorPlan


def plan_conversion(source: ModelSource, mix: Mix, allow_requantize: bool) -> list[Conversion]:
    """What becomes of each tensor of a source with GGUF's names. Raises `UnsupportedModelError` for a tensor that Plait
    cannot read, `ModelFileError` for one that is quantised already, unless `allow_requantize`."""
    facts = _facts(source)
    return [_convert(source.path, tensor, mix, facts, allow_requantize) for tensor in source.tensors.values()]


def _facts(source: ModelSource) -> ModelFacts:
    architecture = source.metadata.get("general.architecture", "")

    def number(key: str, default: int) -> int:
        value = source.metadata.get(f"{architecture}.{key}", default)
        return value if isinstance(value, int) else default

    heads = number("attention.head_count", 1)
    heads_per_kv = heads // max(number("attention.head_count_kv", heads), 1)
    tied = "output.weight" not in source.tensors
    return ModelFacts(number("block_count", 0), number("expert_count", 0), tied, heads_per_kv)


def _convert(path: Path, tensor: LazyTensor, mix: Mix, facts: ModelFacts, allow_requantize: bool) -> Conversion:
    wanted = chosen_format(tensor.name, tensor.shape, mix, facts)
    if wanted is None or wanted.name == tensor.format:
        return Conversion(tensor, TensorPlan(tensor.name, tensor.shape, _type_of(tensor)))
    tensor.raw()  # says so if its type cannot be read
    if tensor.format not in FLOATS and not allow_requantize:
        reason = f"is {tensor.format} already, and quantising again loses more; --allow-requantize does it all the same"
        raise ModelFileError(path, reason, tensor.name)
    return Conversion(tensor, TensorPlan(tensor.name, tensor.shape, wanted))


def _type_of(tensor: LazyTensor) -> TensorType:
    return next(known for known in KNOWN_TYPES.values() if known.name == tensor.format)


def copied_pairs(path: Path) -> dict[str, bytes]:
    """The key-value pairs of a GGUF file that a new one keeps."""
    pairs = {key: value for key, value in encoded_pairs(path).items() if not key.startswith("split.")}
    pairs.pop("general.alignment", None)  # the writer keeps the usual 32
    return pairs


def write_conversion(
    path: Path,
    kept: Mapping[str, bytes],
    out: Path,
    mix: Mix,
    work: Sequence[Conversion],
    threads: int,
    progress: Progress,
) -> None:
    """Write `out` as planned, with the pairs `kept`, on `threads` threads. `path` is the model's, for messages.
    `progress` hears of each piece the number of values in it.

    Raises `ModelFileError` if a value is not finite or the file cannot be written; then nothing is left of it.
    """
    pairs = dict(kept)
    pairs["general.file_type"] = encode_u32(mix.file_type)
    pairs["general.quantization_version"] = encode_u32(_QUANTIZATION_VERSION)
    with ThreadPoolExecutor(threads, "plait-quantize") as pool:
        pieces = _pieces(pool, work, 2 * threads, path, progress)
        try:
            write_gguf(out, pairs, [one.plan for one in work], pieces)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _pieces(
    pool: ThreadPoolExecutor, work: Sequence[Conversion], ahead: int, path: Path, progress: Progress
) -> Iterator[U8Array]:
    """The pieces of all tensors in order; at most `ahead` are made before they are wanted."""
    waiting: deque[tuple[Future[U8Array], int]] = deque()
    for one in work:
        for rows in _row_ranges(one.tensor):
            if len(waiting) == ahead:
                yield _next(waiting, progress)
            values = (rows.stop - rows.start) * one.tensor.shape[-1]
            waiting.append((pool.submit(_piece, one, rows, path), values))
    while waiting:
        yield _next(waiting, progress)


def _next(waiting: deque[tuple[Future[U8Array], int]], progress: Progress) -> U8Array:
    future, values = waiting.popleft()
    piece = future.result()
    progress(values)
    return piece


def _row_ranges(tensor: LazyTensor) -> Iterator[slice]:
    rows = math.prod(tensor.shape[:-1])
    step = max(1, _PIECE_VALUES // tensor.shape[-1])
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _piece(one: Conversion, rows: slice, path: Path) -> U8Array:
    stored = raw_rows(one.tensor, rows)
    if one.plan.type.name == one.tensor.format:
        return stored.reshape(-1)
    try:
        return quantize(dequantize(stored, one.tensor.format), one.plan.type.name).reshape(-1)
    except ValueError as error:
        raise ModelFileError(path, str(error), one.tensor.name) from None


def default_threads() -> int:
    """As many threads as this process may use cores."""
    return len(os.sched_getaffinity(0))
