"""Products by the cuBLASLt algorithms that measuring chose, from a file for each card; no others.

What was measured holds for one card and one version of the library: for others a file is as if it were not there.
`benchmarks/gpu_lt.py` writes the files.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from plait.errors import BackendError
from plait.ops.cuda.cublaslt import (
    ALIGNMENT,
    MOST_WORKSPACE,
    TYPES,
    Algorithm,
    CublasLt,
    Operation,
    ProductShape,
    loaded_library,
)

Tensor: TypeAlias = torch.Tensor
_NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_log = logging.getLogger("plait")


@dataclass(frozen=True, slots=True)
class LtChoices:
    """Which algorithm a product takes, as the 64 bytes of `Algorithm`; None where torch's own choice was as good."""

    measured: Mapping[ProductShape, bytes | None] = field(default_factory=dict)

    @staticmethod
    def read(file: Path, device: str, version: int) -> LtChoices:
        """What `file` holds for a card of this name and this version of the library. Nothing, with a warning, where it
        cannot be read or holds anything else than that."""
        try:
            return LtChoices(_parse(json.loads(file.read_text()), device, version))
        except FileNotFoundError:
            return LtChoices()
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("%s is not used: %s: %s", file, type(error).__name__, error)
            return LtChoices()

    def text(self, device: str, version: int) -> str:
        """What `read` reads: a choice a line."""
        lines = [json.dumps([*shape, None if choice is None else choice.hex()])
                 for shape, choice in sorted(self.measured.items())]  # fmt: skip
        return (f'{{"device": {json.dumps(device)}, "cublaslt": {version}, "choices": [\n' + ",\n".join(lines)
                + "\n]}\n")  # fmt: skip

    def of(self, shape: ProductShape) -> bytes | None:
        """The choice for the least number of rows that was measured and is not below these, nor a quarter above them:
        what is best for 256 rows took 160 longer than torch's own choice."""
        found = [
            each for each in self.measured if each[1:] == shape[1:] and shape.rows <= each.rows <= 1.25 * shape.rows
        ]
        return self.measured[min(found)] if found else None


def _parse(content: Any, device: str, version: int) -> dict[ProductShape, bytes | None]:
    """Raises ValueError, TypeError or KeyError."""
    if (content["device"], content["cublaslt"]) != (device, version):
        return {}
    return dict(map(_choice, content["choices"]))


def _choice(line: Any) -> tuple[ProductShape, bytes | None]:
    rows, columns, depth, inputs, output, code = line
    shape = ProductShape(int(rows), int(columns), int(depth), inputs, output)
    if not {inputs, output} <= TYPES.keys() or min(shape[:3]) < 1:
        raise ValueError(f"{line} is no product")
    choice = None if code is None else bytes.fromhex(code)
    if choice is not None and len(choice) != len(bytes(Algorithm())):
        raise ValueError(f"{line} is no algorithm")
    return shape, choice


class _Run(NamedTuple):
    operation: Operation
    algorithm: Algorithm


class LtProducts:
    """x @ w.T where something was chosen for it; looks each shape up once. `workspace` lies on the device: streams that
    `stream` names one after another must wait for each other."""

    def __init__(self, lt: CublasLt, choices: LtChoices, workspace: Tensor, stream: Callable[[], int]) -> None:
        self._lt, self._choices, self._workspace, self._stream = lt, choices, workspace, stream
        self._runs: dict[tuple[int, int, int, torch.dtype, torch.dtype], _Run | None] = {}

    @staticmethod
    def of_device(device: torch.device, file: Path) -> LtProducts | None:
        """By what `file` holds for the card; None where that is nothing, or cuBLASLt cannot be used."""
        library = loaded_library() if file.exists() else None
        if library is None:
            return None
        try:
            with torch.cuda.device(device):
                lt = CublasLt(library)
        except (AttributeError, BackendError) as error:  # a library without one of the functions, or one that fails
            _log.warning("torch chooses the algorithms of products: %s", error)
            return None
        choices = LtChoices.read(file, torch.cuda.get_device_name(device), lt.version)
        if not any(choices.measured.values()):
            return None
        workspace = torch.empty(MOST_WORKSPACE, dtype=torch.uint8, device=device)
        return LtProducts(lt, choices, workspace, lambda: int(torch.cuda.current_stream(device).cuda_stream))

    def __call__(self, x: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor | None:
        """x (rows, depth) @ w (columns, depth).T as `dtype`, or None where torch shall compute it."""
        rows, (columns, depth) = len(x), w.shape
        key = (rows, columns, depth, x.dtype, dtype)
        if key not in self._runs:
            self._runs[key] = self._find(ProductShape(rows, columns, depth, _NAMES[x.dtype], _NAMES[dtype]))
        run = self._runs[key]
        if run is None or not (_plain(x) and _plain(w)):
            return None
        out = torch.empty((rows, columns), dtype=dtype, device=x.device)
        if x.device.type == "meta":  # a rehearsal, see `compiling`
            return out
        try:
            self._lt.matmul(
                run.operation, run.algorithm, x.data_ptr(), w.data_ptr(), out.data_ptr(), self._workspace.data_ptr(),
                len(self._workspace), self._stream(),
            )  # fmt: skip
        except BackendError as error:
            _log.warning("torch computes products %s: %s", run.operation.shape, error)
            self._runs[key] = None
            return None
        return out

    def _find(self, shape: ProductShape) -> _Run | None:
        choice = self._choices.of(shape)
        if choice is None:
            return None
        algorithm = Algorithm.from_buffer_copy(choice)
        try:
            operation = self._lt.operation(shape)
            if self._lt.workspace_of(operation, algorithm) > len(self._workspace):
                return None
        except BackendError:  # chosen for more rows, and not for as few
            return None
        return _Run(operation, algorithm)


def _plain(x: Tensor) -> bool:
    """What algorithms were asked for."""
    return bool(x.is_contiguous()) and x.data_ptr() % ALIGNMENT == 0
