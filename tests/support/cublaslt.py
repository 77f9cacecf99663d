"""A cuBLASLt of the tests: C functions with the signatures of cublasLt.h, over tensors in the host's memory.

An algorithm's 64 bytes are sixteen 32-bit numbers here, the first nine its attributes in the header's order.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

import torch

SUCCESS, INVALID_VALUE, EXECUTION_FAILED, NOT_SUPPORTED = 0, 7, 13, 15
TYPES = {0: torch.float32, 2: torch.float16, 14: torch.bfloat16}
CONFIG_BYTES = (4, 4, 4, 4, 4, 4, 4, 2, 2)
TILE, SPLIT, REDUCTION, CLUSTER = 1, 2, 3, 8
P = c_void_p


def algorithm(*attributes: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in attributes).ljust(64, b"\0")


def attributes(code: bytes) -> list[int]:
    return [int.from_bytes(code[4 * i : 4 * i + 4], "little") for i in range(9)]


class FakeCublasLt:
    """`offered` is what its heuristic offers; `caps` its algorithms' capabilities by the header's numbers: an int or a
    list; `ids` those of all algorithms. `refuses` says which algorithms (as attributes) cannot do these rows, and
    `workspace` how much one needs. `fail_matmul` is the status of the next launch."""

    def __init__(self) -> None:
        self.version, self.calls, self.launched = 120804, Counter[str](), list[dict[str, Any]]()
        self.live: dict[int, Any] = {}
        self.offered: list[bytes] = [algorithm(7, 1, 1)]
        self.ids: Sequence[int] = (7, 9)
        self.caps: dict[int, int | list[int]] = {0: 1, 1: 7, 2: 1, 6: [1, 2, 3], 7: 0, 13: [4, 5]}
        self.caps |= dict.fromkeys(range(16, 20), 16)
        self.refuses: Callable[[list[int], int], bool] = lambda config, rows: False
        self.workspace, self.fail_matmul, self.preferred = 0, SUCCESS, dict[int, int]()
        self._next = 0x1000
        self._define("cublasLtGetVersion", (), lambda: self.version, c_size_t)
        self._define("cublasLtCreate", (P,), lambda out: self._create(out, "handle"))
        self._define("cublasLtMatmulDescCreate", (P, c_int, c_int), lambda out, *types: self._create(out, {-1: types}))
        self._define("cublasLtMatrixLayoutCreate", (P, c_int, c_uint64, c_uint64, c_int64), self._create)
        self._define("cublasLtMatmulPreferenceCreate", (P,), lambda out: self._create(out, self.preferred))
        for what in ("Destroy", "MatmulDescDestroy", "MatrixLayoutDestroy", "MatmulPreferenceDestroy"):
            self._define(f"cublasLt{what}", (P,), self._destroy)
        for what in ("MatmulDesc", "MatmulPreference"):
            self._define(f"cublasLt{what}SetAttribute", (P, c_int, P, c_size_t), self._set)
        self._define("cublasLtMatmulAlgoGetHeuristic", (P,) * 7 + (c_int, P, P), self._heuristic)
        self._define("cublasLtMatmulAlgoGetIds", (P,) + (c_int,) * 7 + (P, P), self._get_ids)
        self._define("cublasLtMatmulAlgoInit", (P,) + (c_int,) * 7 + (P,), self._init)
        self._define("cublasLtMatmulAlgoCheck", (P,) * 8, self._check)
        self._define("cublasLtMatmulAlgoCapGetAttribute", (P, c_int, P, c_size_t, P), self._cap)
        self._define("cublasLtMatmulAlgoConfigSetAttribute", (P, c_int, P, c_size_t), self._configure)
        self._define("cublasLtMatmulAlgoConfigGetAttribute", (P, c_int, P, c_size_t, P), self._config)
        self._define("cublasLtMatmul", (P,) * 14 + (c_size_t, P), self._matmul)

    def _define(self, name: str, types: tuple[Any, ...], body: Callable[..., int], result: Any = c_int) -> None:
        def counted(*arguments: Any) -> int:
            self.calls[name] += 1
            return body(*arguments)

        setattr(self, name, CFUNCTYPE(result, *types)(counted))

    # --- descriptors ----------------------------------------------------------------------------------------------

    def _create(self, out: int, *content: Any) -> int:
        self._next += 16
        self.live[self._next] = content if len(content) > 1 else content[0]
        c_void_p.from_address(out).value = self._next
        return SUCCESS

    def _destroy(self, pointer: int) -> int:
        del self.live[pointer]
        return SUCCESS

    def _set(self, pointer: int, attribute: int, value: int, size: int) -> int:
        self.live[pointer][attribute] = int.from_bytes(ctypes.string_at(value, size), "little")
        return SUCCESS

    # --- algorithms -----------------------------------------------------------------------------------------------

    def _heuristic(self, handle: int, *rest: int) -> int:
        most, results, count = rest[-3:]
        found = self.offered[:most]
        for i, code in enumerate(found):
            ctypes.memmove(results + 96 * i, code + bytes(32), 96)
        c_int.from_address(count).value = len(found)
        return SUCCESS

    def _get_ids(self, handle: int, *rest: int) -> int:
        assert rest[:2] == (68, 0)  # sums and scales in float32
        most, ids, count = rest[-3:]
        for i, number in enumerate(self.ids[:most]):
            c_int.from_address(ids + 4 * i).value = number
        c_int.from_address(count).value = len(self.ids[:most])
        return SUCCESS

    def _init(self, handle: int, *rest: int) -> int:
        number, out = rest[-2:]
        ctypes.memmove(out, algorithm(number, 0, 1), 64)
        return SUCCESS

    def _check(self, handle: int, descriptor: int, w: int, x: int, c: int, d: int, code: int, result: int) -> int:
        if self.refuses(attributes(ctypes.string_at(code, 64)), self.live[x][2]):
            return NOT_SUPPORTED
        c_size_t.from_address(result + 64).value = self.workspace
        return SUCCESS

    def _cap(self, code: int, attribute: int, out: int | None, size: int, written: int) -> int:
        if attribute not in self.caps:
            return INVALID_VALUE
        value = self.caps[attribute]
        data = b"".join(each.to_bytes(4, "little") for each in (value if isinstance(value, list) else [value]))
        if out is not None and len(data) != size:
            return INVALID_VALUE
        if out is not None:
            ctypes.memmove(out, data, size)
        c_size_t.from_address(written).value = len(data)
        return SUCCESS

    def _configure(self, code: int, attribute: int, value: int, size: int) -> int:
        if attribute == 0 or size != CONFIG_BYTES[attribute]:
            return INVALID_VALUE
        number = int.from_bytes(ctypes.string_at(value, size), "little")
        ctypes.memmove(code + 4 * attribute, number.to_bytes(4, "little"), 4)
        return SUCCESS

    def _config(self, code: int, attribute: int, out: int, size: int, written: int) -> int:
        if size != CONFIG_BYTES[attribute]:
            return INVALID_VALUE
        ctypes.memmove(out, ctypes.string_at(code + 4 * attribute, size), size)
        c_size_t.from_address(written).value = size
        return SUCCESS

    # --- the product ----------------------------------------------------------------------------------------------

    def _matmul(
        self, handle: int, descriptor: int, alpha: int, a: int, a_layout: int, b: int, b_layout: int, beta: int, c: int,
        c_layout: int, d: int, d_layout: int, code: int, workspace: int, size: int, stream: int | None,
    ) -> int:  # fmt: skip
        if self.fail_matmul:
            return self.fail_matmul
        assert (c, c_layout) == (d, d_layout)
        assert self.live[descriptor] == {-1: (68, 0), 3: 1}  # float32 within; the first matrix transposed
        assert (c_float.from_address(alpha).value, c_float.from_address(beta).value) == (1, 0)
        product = self._matrix(a, a_layout).float().T @ self._matrix(b, b_layout).float()
        self._matrix(d, d_layout).copy_(product)
        self.launched.append({"algorithm": ctypes.string_at(code, 64), "size": size, "stream": stream or 0})
        return SUCCESS

    def _matrix(self, pointer: int, layout: int) -> torch.Tensor:
        """(rows, columns), its columns one after another in memory."""
        kind, rows, columns, distance = self.live[layout]
        assert distance == rows
        dtype = TYPES[kind]
        memory = (ctypes.c_char * (rows * columns * dtype.itemsize)).from_address(pointer)
        return torch.frombuffer(memory, dtype=dtype).view(columns, rows).T
