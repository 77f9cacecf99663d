"""Tiny random models of every family, as both containers hold them, without torch: the configs and shapes that
transformers makes are kept in tests/golden/tiny_models.json, and a weight is a matter of its name and a seed.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from plait.formats.tensor import F32Array
from support.tensors import ArrayTensor, MemorySource
from support.tiny_names import Arrays, renamed

GOLDEN = Path(__file__).parent.parent / "golden"
PROMPTS = {
    "a": tuple(np.random.RandomState(11).randint(0, 40, 24).tolist()),
    "b": tuple(np.random.RandomState(12).randint(0, 40, 17).tolist()),
    "c": (7,),
}
GGUF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "InternLM3ForCausalLM": "llama",
    "SmolLM3ForCausalLM": "smollm3", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma", "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3",
    "PhiForCausalLM": "phi2", "Phi3ForCausalLM": "phi3", "Starcoder2ForCausalLM": "starcoder2",
    "FalconForCausalLM": "falcon", "GPT2LMHeadModel": "gpt2", "GPTNeoXForCausalLM": "gptneox",
    "MptForCausalLM": "mpt", "CohereForCausalLM": "command-r", "Cohere2ForCausalLM": "cohere2",
    "OlmoForCausalLM": "olmo", "Olmo2ForCausalLM": "olmo2", "StableLmForCausalLM": "stablelm",
    "GraniteForCausalLM": "granite", "Exaone4ForCausalLM": "exaone4", "ExaoneForCausalLM": "exaone",
    "GlmForCausalLM": "chatglm", "Glm4ForCausalLM": "glm4", "InternLM2ForCausalLM": "internlm2",
}  # fmt: skip
HF_ONLY = ("falcon-rw", "phi-qk-norm", "qwen2-window", "starcoder2-window", "llama-dynamic")
"""Variants that converters do not write, or of which they leave out what makes them differ."""

GOLDEN_ROWS = (0, 1, 9, 16, 23)
"""The rows of prompt "a" whose logits are kept."""


@dataclass(frozen=True)
class TinyModel:
    """`config` is its config.json, `shapes` those of the model that transformers computes; a family that transformers
    has no code for (`renames`) is Llama under other names."""

    name: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    renames: str = ""

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    def oracle_tensors(self, seed: int = 0) -> Arrays:
        return {name: random_array(name, shape, seed) for name, shape in self.shapes.items()}

    def hf_tensors(self, seed: int = 0) -> Arrays:
        return renamed(self.renames, self.oracle_tensors(seed), self.config)

    def source(self, container: str, seed: int = 0) -> MemorySource:
        """The model as an opened file would give it."""
        if container == "gguf":
            from support.tiny_gguf import gguf_metadata, gguf_tensors

            metadata, arrays = gguf_metadata(self), gguf_tensors(self, seed)
        else:
            metadata, arrays = dict(self.config), self.hf_tensors(seed)
        return MemorySource(metadata, {name: ArrayTensor(name, array) for name, array in arrays.items()}, container)

    def save(self, directory: Path, seed: int = 0) -> Path:
        """As a Hugging Face directory, with the container's own package."""
        from safetensors.numpy import save_file

        save_file(self.hf_tensors(seed), directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text(json.dumps(self.config))
        return directory


def random_array(name: str, shape: tuple[int, ...], seed: int) -> F32Array:
    """Norms are near 1, biases small. RandomState's stream is frozen: the golden files depend on it."""
    random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    norm = len(shape) == 1 or "_norm." in name
    centre = 1 if norm and name.endswith("weight") else 0
    return (random.standard_normal(shape) * (0.1 if norm else 0.3) + centre).astype(np.float32)


@cache
def tiny_models() -> dict[str, TinyModel]:
    stored = json.loads((GOLDEN / "tiny_models.json").read_text())
    return {
        name: TinyModel(name, entry["config"], {k: tuple(v) for k, v in entry["shapes"].items()}, entry["renames"])
        for name, entry in stored.items()
    }


def golden_logits(name: str) -> F32Array:
    """Of rows `GOLDEN_ROWS` of prompt "a", as transformers computes them."""
    with np.load(GOLDEN / "tiny_logits.npz") as file:
        logits: F32Array = file[name]
        return logits
