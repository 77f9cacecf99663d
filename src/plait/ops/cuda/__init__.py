"""The PyTorch kernel library. Importing this package does not import torch: `open_cuda` does, when asked."""

from __future__ import annotations

from plait.errors import BackendError
from plait.ops.api import Backend


def open_cuda(device: str = "cuda", dtype: str = "bf16", kernels: bool | None = None) -> Backend:
    """The backend on a device that torch names, computing in `dtype` (bf16, f16 or f32); see `CudaBackend`.

    Raises BackendError, with what was tried, when torch or the device is missing."""
    try:
        from plait.ops.cuda.backend import CudaBackend
    except ImportError as error:
        raise BackendError(f"--device {device} needs torch and triton ({error}); pip install 'plait[cuda]'") from None
    return CudaBackend(device, dtype, kernels)
