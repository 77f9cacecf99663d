"""Holding a file's tensors against what a config says. Knows the errors and `LazyTensor`; knows no model."""

from __future__ import annotations

from pathlib import Path

from plait.errors import ModelFileError
from plait.formats.tensor import LazyTensor, ModelSource


def require_tensor(source: ModelSource, name: str, shape: tuple[int, ...] | None = None) -> LazyTensor:
    """The tensor `name`, of shape `shape` if given. Raises `ModelFileError` if it is missing or of another shape."""
    tensor = source.tensors.get(name)
    if tensor is None:
        raise ModelFileError(source.path, "is missing; the file is incomplete or of another architecture", name)
    if shape is not None:
        require_shape(tensor, shape, source.path)
    return tensor


def require_shape(tensor: LazyTensor, shape: tuple[int, ...], file: Path) -> None:
    """Raises `ModelFileError` unless `tensor` has this shape (numpy's order)."""
    if tensor.shape != shape:
        raise ModelFileError(file, f"shape {tensor.shape} contradicts the config: expected {shape}", tensor.name)
