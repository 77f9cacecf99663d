"""AWQ, GPTQ and compressed-tensors checkpoints on the torch backend: dequantised as they are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from plait.formats.open import open_model
from plait.models.registry import load_model
from plait.ops.cuda import open_cuda
from plait.ops.reference import ReferenceBackend
from support.families import close, new_driver
from support.packed_checkpoints import KINDS, Packed
from support.steps import Chunk
from support.tiny_llama import PROMPTS
from support.triton_interpreter import DEVICE

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]


@pytest.mark.parametrize("name", ["awq", "gptq", "gptq-order", "packed-4-asymmetric", "w8a8"])
def test_the_logits_are_those_of_the_float_model(name: str, tmp_path: Path) -> None:
    packed, chunk = Packed(KINDS[name]), {"a": Chunk.every(PROMPTS["a"])}
    want = new_driver(load_model(packed.floats()), ReferenceBackend()).step(chunk)["a"]
    model = load_model(open_model(packed.save(tmp_path)))
    got = new_driver(model, open_cuda(DEVICE, "f32", kernels=False)).step(chunk)["a"]
    if name == "gptq-order":  # stored as halves
        assert np.linalg.norm(got - want) < 2e-3 * np.linalg.norm(want)
    else:
        close(got, want)
