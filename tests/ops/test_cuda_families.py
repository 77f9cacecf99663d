"""Every family on the torch backend: op by op, and with the Triton kernels (interpreted where there is no GPU)."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from plait.ops.cuda import open_cuda
from plait.ops.reference import ReferenceBackend
from support.families import close, load_tiny, new_driver
from support.schedules import chunked, whole
from support.steps import Chunk
from support.tiny_models import GOLDEN_ROWS, PROMPTS, golden_logits, tiny_models
from support.triton_interpreter import DEVICE

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]

SHORT_PROMPTS = {"a": PROMPTS["a"][:12], "c": PROMPTS["c"]}
WITH_KERNELS = ("qwen3", "gemma3", "gpt2", "falcon-40b", "mpt", "command-r-plus", "phi3-longrope", "olmo-clip", "glm4")
"""Each way of norming, rotating, fusing and windowing once: interpreted kernels are slow."""


@pytest.mark.parametrize("name", tiny_models())
def test_op_by_op(name: str) -> None:
    driver = new_driver(load_tiny(name, "safetensors"), open_cuda(DEVICE, "f32", kernels=False))
    close(driver.step({"a": Chunk(PROMPTS["a"], GOLDEN_ROWS)})["a"], golden_logits(name))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, where a gate is shut
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_with_kernels(name: str) -> None:
    model = load_tiny(name, "safetensors")
    want = whole(new_driver(model, ReferenceBackend()), SHORT_PROMPTS)
    for prompt, logits in chunked(new_driver(model, open_cuda(DEVICE, "f32", kernels=True)), SHORT_PROMPTS).items():
        close(logits, want[prompt])
