"""cuBLASLt through ctypes: products by an algorithm that is named, and the algorithms that there are.

Knows the library that torch has loaded, device pointers and sizes; knows no tensors and no files. Numbers are those of
cublasLt.h, versions 12 and 13. An algorithm is 64 bytes that mean something to one version of the library alone.

The library thinks in columns: rows (rows, depth) times weights (columns, depth) transposed is, to it, the transposed
`a` (depth, columns) times `b` (depth, rows), which makes `d` (columns, rows).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from itertools import islice, product, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from plait.errors import BackendError

TYPES = {"f32": 0, "f16": 2, "bf16": 14}
"""cudaDataType_t."""
ALIGNMENT = 16
"""Bytes; what every tensor's first value is a multiple of, for an algorithm to be asked for."""
MOST_WORKSPACE = 64 * 2**20
"""Bytes that an algorithm may keep its partial sums in."""
_COMPUTE_32F, _OP_T = 68, 1
_DESC_TRANS_A = 3
_PREFER_WORKSPACE, _PREFER_REDUCTION, _PREFER_ALIGNMENTS = 1, 3, (5, 6, 7, 8)
_COMPUTE_TYPE = 2
_REPEATABLE = (0, _COMPUTE_TYPE)
"""Reduction schemes: none, and partial sums in float32 that a kernel of its own adds. The others round partial sums to
the output's type."""
_CAP_SPLIT, _CAP_REDUCTIONS, _CAP_SWIZZLE, _CAP_TILES, _CAP_CUSTOM, _CAP_STAGES = 0, 1, 2, 6, 7, 13
_CAP_ALIGNMENTS = (16, 17, 18, 19)
_SPLITS = (1, 2, 3, 4, 6, 8)
_CLUSTERS = (2, 3, 5, 6, 4, 8, 7, 9, 0)
"""1x1, 2x1, 1x2, 2x2, 4x1, 1x4, 4x2, 2x4, and as the library likes."""
_MOST_IDS = 128
_MOST_TRIES = 200
"""Of one id: it may know hundreds of tiles, none of which can be used."""


class Algorithm(ctypes.Structure):
    _fields_ = (("data", c_uint64 * 8),)


class _Result(ctypes.Structure):
    _fields_ = (("algorithm", Algorithm), ("workspace", c_size_t), ("state", c_int), ("waves", c_float),
                ("reserved", c_int * 4))  # fmt: skip


class ProductShape(NamedTuple):
    """x (rows, depth) times w (columns, depth) transposed; `inputs` and `output` are keys of TYPES."""

    rows: int
    columns: int
    depth: int
    inputs: str
    output: str


class Config(NamedTuple):
    """What an algorithm is made of, as far as the library tells; numbers of cublasLt.h. In their order there."""

    id: int
    tile: int
    split: int
    reduction: int
    swizzle: int
    custom: int
    stages: int
    inner: int
    cluster: int


_CONFIG_TYPES = Config(c_int32, c_uint32, c_int32, c_uint32, c_uint32, c_uint32, c_uint32, c_uint16, c_uint16)  # type: ignore[arg-type]

_SIX_TYPES = (c_int,) * 6
_ATTRIBUTE = (c_void_p, c_int, c_void_p, c_size_t)
_QUESTION = (*_ATTRIBUTE, POINTER(c_size_t))
_LAYOUTS = (c_void_p,) * 4
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (POINTER(c_void_p),),
    "cublasLtDestroy": (c_void_p,),
    "cublasLtMatmulDescCreate": (POINTER(c_void_p), c_int, c_int),
    "cublasLtMatmulDescDestroy": (c_void_p,),
    "cublasLtMatmulDescSetAttribute": _ATTRIBUTE,
    "cublasLtMatrixLayoutCreate": (POINTER(c_void_p), c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceCreate": (POINTER(c_void_p),),
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": _ATTRIBUTE,
    "cublasLtMatmulAlgoGetHeuristic": (c_void_p, c_void_p, *_LAYOUTS, c_void_p, c_int, POINTER(_Result),
                                       POINTER(c_int)),
    "cublasLtMatmulAlgoGetIds": (c_void_p, *_SIX_TYPES, c_int, POINTER(c_int), POINTER(c_int)),
    "cublasLtMatmulAlgoInit": (c_void_p, *_SIX_TYPES, c_int, POINTER(Algorithm)),
    "cublasLtMatmulAlgoCheck": (c_void_p, c_void_p, *_LAYOUTS, POINTER(Algorithm), POINTER(_Result)),
    "cublasLtMatmulAlgoCapGetAttribute": _QUESTION,
    "cublasLtMatmulAlgoConfigSetAttribute": _ATTRIBUTE,
    "cublasLtMatmulAlgoConfigGetAttribute": _QUESTION,
    "cublasLtMatmul": (c_void_p, c_void_p, POINTER(c_float), c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_float),
                       c_void_p, c_void_p, c_void_p, c_void_p, POINTER(Algorithm), c_void_p, c_size_t, c_void_p),
}  # fmt: skip


def loaded_library(maps: Path = Path("/proc/self/maps")) -> ctypes.CDLL | None:
    """The library that this process has loaded, which is torch's; None where there is none."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return None
    path = next((parts[5] for line in lines if "/libcublasLt.so" in line and len(parts := line.split(None, 5)) == 6),
                None)  # fmt: skip
    return None if path is None else ctypes.CDLL(path)


class _Owned:
    """Something of the library's, given back when nobody holds it any more; not at the end of the process, when the
    device may be gone already."""

    def __init__(self, pointer: int, destroy: Callable[[int], int]) -> None:
        self.pointer = pointer
        weakref.finalize(self, destroy, pointer).atexit = False


class Operation:
    """A product's descriptors. Made by `CublasLt.operation`."""

    def __init__(self, shape: ProductShape, descriptor: _Owned, w: _Owned, x: _Owned, y: _Owned) -> None:
        self.shape, self._kept = shape, (descriptor, w, x, y)
        self.pointers = (descriptor.pointer, w.pointer, x.pointer, y.pointer, y.pointer)


class CublasLt:
    """A handle of `library`, for the CUDA device that is current when it is made and must be so when it is used.

    What the library refuses raises BackendError with the function and the status."""

    def __init__(self, library: Any) -> None:
        for name, types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, c_int
        library.cublasLtGetVersion.argtypes, library.cublasLtGetVersion.restype = (), c_size_t
        self._library = library
        self.version = int(library.cublasLtGetVersion())
        self._handle = self._make("cublasLtCreate", "cublasLtDestroy")
        self._one, self._zero = c_float(1), c_float(0)

    # --- a product by a known algorithm ---------------------------------------------------------------------------

    def operation(self, shape: ProductShape) -> Operation:
        descriptor = self._make("cublasLtMatmulDescCreate", "cublasLtMatmulDescDestroy", _COMPUTE_32F, TYPES["f32"])
        self._set("cublasLtMatmulDescSetAttribute", descriptor.pointer, _DESC_TRANS_A, c_int32(_OP_T))
        w = self._layout(shape.inputs, shape.depth, shape.columns)
        x = self._layout(shape.inputs, shape.depth, shape.rows)
        return Operation(shape, descriptor, w, x, self._layout(shape.output, shape.columns, shape.rows))

    def workspace_of(self, operation: Operation, algorithm: Algorithm) -> int:
        """Bytes of workspace that the algorithm needs. BackendError: the device cannot run it for this product."""
        result = _Result()
        self._call("cublasLtMatmulAlgoCheck", self._handle.pointer, *operation.pointers, byref(algorithm),
                   byref(result))  # fmt: skip
        return int(result.workspace)

    def matmul(
        self, operation: Operation, algorithm: Algorithm, x: int, w: int, y: int, workspace: int, size: int, stream: int
    ) -> None:
        """Launches y = x @ w.T on a CUDA stream; pointers to contiguous values on the device, aligned to ALIGNMENT,
        and `size` bytes of workspace that nothing else uses on another stream meanwhile."""
        descriptor, a, b, c, d = operation.pointers
        self._call("cublasLtMatmul", self._handle.pointer, descriptor, self._one, w, a, x, b, self._zero, y, c, y, d,
                   algorithm, workspace, size, stream)  # fmt: skip

    # --- which algorithms there are -------------------------------------------------------------------------------

    def offers(self, operation: Operation, most: int) -> list[Algorithm]:
        """What the library would take, the best by its own estimate first; all give the same bits every time."""
        preference = self._make("cublasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceDestroy")
        values = {_PREFER_WORKSPACE: c_uint64(MOST_WORKSPACE), _PREFER_REDUCTION: c_uint32(_COMPUTE_TYPE)}
        for attribute, value in (values | {each: c_uint32(ALIGNMENT) for each in _PREFER_ALIGNMENTS}).items():
            self._set("cublasLtMatmulPreferenceSetAttribute", preference.pointer, attribute, value)
        found, count = (_Result * most)(), c_int()
        self._call("cublasLtMatmulAlgoGetHeuristic", self._handle.pointer, *operation.pointers, preference.pointer,
                   most, found, byref(count))  # fmt: skip
        offered = [_copy(each.algorithm) for each in found[: count.value] if each.state == 0]
        return [algorithm for algorithm in offered if self._usable(operation, algorithm)]

    def config(self, algorithm: Algorithm) -> Config:
        return Config(*(self._ask("Config", algorithm, attribute, kind) or 0
                        for attribute, kind in enumerate(_CONFIG_TYPES)))  # fmt: skip

    def neighbours(self, operation: Operation, algorithm: Algorithm) -> Iterator[Algorithm]:
        """Usable algorithms that differ from this one in one thing, the kinds of things in turn."""
        config, changes = self.config(algorithm), self._changes(algorithm)
        for turn in zip_longest(*([(name, value) for value in values] for name, values in changes.items())):
            for name, value in filter(None, turn):
                if value != getattr(config, name):
                    yield from self._changed(operation, algorithm, **{name: value})

    def others(self, operation: Operation, known: set[int], most: int) -> Iterator[Algorithm]:
        """Usable algorithms of the ids that are not in `known`, up to `most` of each."""
        for number in self._ids(operation.shape):
            if number not in known:
                yield from self._of_id(operation, number, most)

    def _of_id(self, operation: Operation, number: int, most: int) -> Iterator[Algorithm]:
        base = Algorithm()
        try:
            self._call("cublasLtMatmulAlgoInit", self._handle.pointer, *_six(operation.shape), number, byref(base))
        except BackendError:
            return
        # The largest first: on matrices of this size, what is small is slow.
        both = product(*(self._list(base, each)[::-1] or [0] for each in (_CAP_TILES, _CAP_STAGES)))
        for tile, stages in islice(both, _MOST_TRIES):
            for changed in self._changed(operation, base, tile=tile, stages=stages):
                yield changed
                most -= 1
                if not most:
                    return

    def _ids(self, shape: ProductShape) -> list[int]:
        ids, count = (c_int * _MOST_IDS)(), c_int()
        self._call("cublasLtMatmulAlgoGetIds", self._handle.pointer, *_six(shape), _MOST_IDS, ids, byref(count))
        return list(ids[: count.value])

    def _changes(self, algorithm: Algorithm) -> dict[str, list[int]]:
        """Values that things of an algorithm could have."""
        splits = self._ask("Cap", algorithm, _CAP_SPLIT, c_int32)
        schemes = self._ask("Cap", algorithm, _CAP_REDUCTIONS, c_uint32) or 0
        return {
            "cluster": list(_CLUSTERS),
            "tile": self._list(algorithm, _CAP_TILES),
            "stages": self._list(algorithm, _CAP_STAGES),
            "split": list(_SPLITS) if splits and schemes & _COMPUTE_TYPE else [],
            "swizzle": [0, 1] if self._ask("Cap", algorithm, _CAP_SWIZZLE, c_uint32) else [],
            "custom": list(range(1 + (self._ask("Cap", algorithm, _CAP_CUSTOM, c_int32) or 0))),
        }

    def _changed(self, operation: Operation, algorithm: Algorithm, **values: int) -> Iterator[Algorithm]:
        """The algorithm with other values, or nothing where that cannot be used."""
        if "split" in values:
            values["reduction"] = _COMPUTE_TYPE if values["split"] > 1 else 0
        changed = _copy(algorithm)
        try:
            for name, value in values.items():
                attribute = Config._fields.index(name)
                self._set("cublasLtMatmulAlgoConfigSetAttribute", ctypes.addressof(changed), attribute,
                          _CONFIG_TYPES[attribute](value))  # type: ignore[operator] # fmt: skip
        except BackendError:
            return
        if self._usable(operation, changed):
            yield changed

    def _usable(self, operation: Operation, algorithm: Algorithm) -> bool:
        """Runs here, within the workspace and the alignment, and adds in the same order every time."""
        try:
            if self.workspace_of(operation, algorithm) > MOST_WORKSPACE:
                return False
        except BackendError:
            return False
        aligned = all((self._ask("Cap", algorithm, each, c_uint32) or 0) <= ALIGNMENT for each in _CAP_ALIGNMENTS)
        return aligned and self.config(algorithm).reduction in _REPEATABLE

    # --- calls ----------------------------------------------------------------------------------------------------

    def _ask(self, about: str, algorithm: Algorithm, attribute: int, kind: Any) -> int | None:
        """An attribute's value, None where this algorithm or version does not have it."""
        value, written = kind(), c_size_t()
        function = getattr(self._library, f"cublasLtMatmulAlgo{about}GetAttribute")
        status = function(byref(algorithm), attribute, byref(value), ctypes.sizeof(value), byref(written))
        return None if status else int(value.value)

    def _list(self, algorithm: Algorithm, attribute: int) -> list[int]:
        """The values of a capability that is a list."""
        ask, written = self._library.cublasLtMatmulAlgoCapGetAttribute, c_size_t()
        if ask(byref(algorithm), attribute, None, 0, byref(written)):
            return []
        values = (c_uint32 * (written.value // 4))()
        status = ask(byref(algorithm), attribute, values, written.value, byref(written)) if len(values) else 0
        return [] if status else list(values)

    def _layout(self, kind: str, rows: int, columns: int) -> _Owned:
        """A matrix whose columns lie one after another."""
        return self._make("cublasLtMatrixLayoutCreate", "cublasLtMatrixLayoutDestroy", TYPES[kind], rows, columns, rows)

    def _make(self, create: str, destroy: str, *arguments: int) -> _Owned:
        pointer = c_void_p()
        self._call(create, byref(pointer), *arguments)
        return _Owned(int(pointer.value or 0), getattr(self._library, destroy))

    def _set(self, function: str, pointer: int, attribute: int, value: Any) -> None:
        self._call(function, pointer, attribute, byref(value), ctypes.sizeof(value))

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise BackendError(f"{function}: status {status}")


def _six(shape: ProductShape) -> tuple[int, ...]:
    inputs, output = TYPES[shape.inputs], TYPES[shape.output]
    return _COMPUTE_32F, TYPES["f32"], inputs, inputs, output, output


def _copy(algorithm: Algorithm) -> Algorithm:
    return Algorithm.from_buffer_copy(algorithm)
