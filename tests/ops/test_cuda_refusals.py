"""What a machine may lack for CUDA: one clear sentence each, and the CPU works on."""

from __future__ import annotations

import builtins
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from plait.config import EngineOptions
from plait.engine import build
from plait.errors import BackendError
from plait.ops.cuda import open_cuda

torch = pytest.importorskip("torch")
GIB = 2**30


def hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if the package were not installed."""
    for module in [m for m in sys.modules if m.startswith("plait.ops.cuda.")]:
        monkeypatch.delitem(sys.modules, module)
    real: Callable[..., object] = builtins.__import__

    def find(module: str, *args: object, **kwargs: object) -> object:
        if module.split(".")[0] == name:
            raise ImportError(f"No module named '{name}'")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", find)


def test_torch_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch")
    with pytest.raises(BackendError, match=r"needs torch and triton .*pip install 'plait\[cuda\]'"):
        open_cuda()


def test_auto_takes_the_cpu_where_torch_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide(monkeypatch, "torch")
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(build, "NVIDIA_DRIVER", tmp_path / "nvidiactl")
    monkeypatch.setattr(build, "_cpu_backend", lambda options: "the CPU")
    assert build.make_backend(EngineOptions()) == "the CPU"


def test_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="it finds no NVIDIA GPU; use --device cpu"):
        open_cuda()


def test_torch_is_built_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendError, match="it is built without CUDA; use --device cpu"):
        open_cuda()


def test_the_driver_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver is too old (found version 11040).", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    with pytest.raises(BackendError, match=r"driver is too old for its CUDA 13\.0; install a newer driver"):
        open_cuda()


def a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], free: float, total: float) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, value in {
        "is_available": True, "device_count": 1, "get_device_capability": capability,
        "get_device_name": "A GPU", "mem_get_info": (int(free * GIB), int(total * GIB)),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)


def test_the_gpu_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, (7, 0), 10, 16)
    with pytest.raises(BackendError, match=r"A GPU has compute capability 7\.0; the kernels need 8\.0; use"):
        open_cuda()


def test_too_little_memory_beside_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, (9, 0), 10, 80)
    backend = open_cuda()
    program = SimpleNamespace(instructions=())
    with pytest.raises(BackendError, match=r"10\.0 GiB free of 80\.0; .* for KV memory within --gpu-memory 0\.9"):
        backend.kv_bytes(program, 0.9)  # type: ignore[attr-defined]
    a_gpu(monkeypatch, (9, 0), 80, 80)
    assert backend.kv_bytes(program, 0.9) == int(80 * GIB * 0.9) - 3 * GIB  # type: ignore[attr-defined]
