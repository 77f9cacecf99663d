"""Tiny random models of the Llama family, as both containers hold them. Weights come from a seed alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plait.formats.tensor import F32Array
from support.tensors import ArrayTensor, MemorySource

Arrays = dict[str, F32Array]


@dataclass(frozen=True)
class TinyLlama:
    """`rope` is what transformers 5 writes in rope_parameters, without rope_theta. `window` makes it a Mistral."""

    n_layers: int = 2
    d_model: int = 32
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 8
    ff: int = 48
    vocab: int = 40
    eps: float = 1e-5
    theta: float = 10000.0
    context: int = 128
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: Mapping[str, object] | None = None
    window: int | None = None

    @property
    def hf_class(self) -> str:
        return "LlamaForCausalLM" if self.window is None else "MistralForCausalLM"

    def hf_config(self) -> dict[str, object]:
        """config.json as transformers 5 writes it."""
        rope = {"rope_theta": self.theta, **(self.rope or {"rope_type": "default"})}
        return {**self._common_hf_config(), "rope_parameters": rope}

    def old_hf_config(self) -> dict[str, object]:
        """config.json as transformers 4 wrote it."""
        return {**self._common_hf_config(), "rope_theta": self.theta, "rope_scaling": self.rope and dict(self.rope)}

    def _common_hf_config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "architectures": [self.hf_class],
            "model_type": "llama" if self.window is None else "mistral",
            "hidden_size": self.d_model,
            "intermediate_size": self.ff,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "rms_norm_eps": self.eps,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
        }
        if self.window is not None:
            return {**config, "sliding_window": self.window}
        return {**config, "attention_bias": self.attention_bias, "mlp_bias": self.mlp_bias}

    def gguf_metadata(self) -> dict[str, object]:
        metadata: dict[str, object] = {
            "general.architecture": "llama",
            "llama.block_count": self.n_layers,
            "llama.context_length": self.context,
            "llama.embedding_length": self.d_model,
            "llama.feed_forward_length": self.ff,
            "llama.attention.head_count": self.n_heads,
            "llama.attention.head_count_kv": self.n_kv_heads,
            "llama.attention.key_length": self.head_dim,
            "llama.attention.value_length": self.head_dim,
            "llama.attention.layer_norm_rms_epsilon": self.eps,
            "llama.rope.freq_base": self.theta,
            "llama.rope.dimension_count": self.head_dim,
            "llama.vocab_size": self.vocab,
        }
        if self.rope and self.rope["rope_type"] == "linear":
            metadata["llama.rope.scaling.type"] = "linear"
            metadata["llama.rope.scaling.factor"] = self.rope["factor"]
        if self.window is not None:
            metadata["llama.attention.sliding_window"] = self.window
        return metadata

    def hf_tensors(self, seed: int = 0) -> Arrays:
        """Weights by their Hugging Face names. RandomState's stream is frozen: the golden files depend on it."""
        random = np.random.RandomState(seed)
        norms = {name for name in self._shapes() if "norm" in name}
        return {
            name: (random.standard_normal(shape) * (0.1 if name in norms else 0.3) + (name in norms)).astype(np.float32)
            for name, shape in self._shapes().items()
        }

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        d, q, kv = self.d_model, self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        matrices = {"self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
                    "self_attn.o_proj": (d, q), "mlp.gate_proj": (self.ff, d), "mlp.up_proj": (self.ff, d),
                    "mlp.down_proj": (d, self.ff)}  # fmt: skip
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, d), "model.norm.weight": (d,)}
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab, d)
        for layer in range(self.n_layers):
            prefix = f"model.layers.{layer}."
            for name, shape in matrices.items():
                shapes[f"{prefix}{name}.weight"] = shape
                if self.attention_bias if name.startswith("self_attn") else self.mlp_bias:
                    shapes[f"{prefix}{name}.bias"] = shape[:1]
            shapes[f"{prefix}input_layernorm.weight"] = (d,)
            shapes[f"{prefix}post_attention_layernorm.weight"] = (d,)
        return shapes

    def gguf_tensors(self, seed: int = 0) -> Arrays:
        """Weights by their GGUF names, q and k permuted from rotary halves to interleaved pairs."""
        tensors = {gguf_name(name): self._permuted(name, array) for name, array in self.hf_tensors(seed).items()}
        if self.rope and self.rope["rope_type"] == "llama3":
            tensors["rope_freqs.weight"] = self._llama3_divisors()
        return tensors

    def _permuted(self, name: str, array: F32Array) -> F32Array:
        heads = {"q_proj": self.n_heads, "k_proj": self.n_kv_heads}.get(name.split(".")[-2])
        if heads is None:
            return array
        order = np.arange(heads * self.head_dim).reshape(heads, 2, self.head_dim // 2).transpose(0, 2, 1).ravel()
        return np.ascontiguousarray(array[order])

    def _llama3_divisors(self) -> F32Array:
        """What converters write: by wavelength, as Meta's formula was first published."""
        assert self.rope is not None
        factor, low, high, context = (
            float(self.rope[key])  # type: ignore[arg-type]
            for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        )
        divisors = []
        for i in range(self.head_dim // 2):
            wavelength = 2 * math.pi * self.theta ** (2 * i / self.head_dim)
            smooth = (context / wavelength - low) / (high - low)
            if wavelength < context / high:
                divisors.append(1.0)
            elif wavelength > context / low:
                divisors.append(factor)
            else:
                divisors.append(1 / ((1 - smooth) / factor + smooth))
        return np.array(divisors, np.float32)

    def source(self, container: str, seed: int = 0) -> MemorySource:
        """The model as an opened file would give it."""
        gguf = container == "gguf"
        arrays = self.gguf_tensors(seed) if gguf else self.hf_tensors(seed)
        metadata = self.gguf_metadata() if gguf else self.hf_config()
        return MemorySource(metadata, {name: ArrayTensor(name, array) for name, array in arrays.items()}, container)

    def save(self, container: str, directory: Path, seed: int = 0) -> Path:
        """Writes the model with the containers' own packages; returns the file or directory to open."""
        if container == "gguf":
            return save_gguf(directory / "tiny.gguf", self.gguf_metadata(), self.gguf_tensors(seed))
        from safetensors.numpy import save_file

        save_file(self.hf_tensors(seed), directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text(json.dumps(self.hf_config()))
        return directory


GGUF_PARTS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(hf_name: str) -> str:
    stem, kind = hf_name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{GGUF_PARTS[stem]}.{kind}"
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{GGUF_PARTS[part]}.{kind}"


def save_gguf(path: Path, metadata: dict[str, object], tensors: Arrays) -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif key != "general.architecture":  # the writer has added that
            writer.add_string(key, str(value))
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip

VARIANTS: Mapping[str, TinyLlama] = {
    "gqa": TinyLlama(),
    "mha": TinyLlama(n_kv_heads=4),
    "mqa": TinyLlama(n_kv_heads=1, n_layers=1),
    "tied": TinyLlama(tied=True),
    "linear": TinyLlama(rope={"rope_type": "linear", "factor": 4.0}),
    "llama3": TinyLlama(rope=LLAMA3),
    "theta": TinyLlama(theta=500.0, eps=1e-2, n_layers=3),
    "attention-bias": TinyLlama(attention_bias=True),
    "mlp-bias": TinyLlama(mlp_bias=True),
    "head-dim": TinyLlama(head_dim=12),
    "window": TinyLlama(window=8),
}

PROMPTS: Mapping[str, tuple[int, ...]] = {
    "a": tuple(np.random.RandomState(11).randint(0, 40, 24).tolist()),
    "b": tuple(np.random.RandomState(12).randint(0, 40, 17).tolist()),
    "c": (7,),
}
