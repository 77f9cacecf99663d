"""Mends Triton's interpreter, in which kernels run on a machine without a GPU; and names the device for tensors."""

from __future__ import annotations

from typing import Any

import torch
from triton.runtime import interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _patch(tensor: Any, scope: Any) -> None:
    _original(tensor, scope)
    # Triton 3.6 asks numpy for int() of an array with one element and one dimension, which numpy 2.4 refuses.
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


_original = interpreter._patch_lang_tensor
interpreter._patch_lang_tensor = _patch
