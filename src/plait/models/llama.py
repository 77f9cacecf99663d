"""The Llama family: pre-norm decoder, RMS norm, rotary attention with grouped heads, gated MLP (arXiv:2302.13971).

One definition for every container, quantisation and backend. Composes ops over opaque values; knows neither files nor
kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.models.config import DecoderConfig
from plait.models.names import DecoderNames
from plait.models.weights import WeightReader
from plait.ops.api import Program, Value, Weight
from plait.ops.recorder import Ops


def record_llama(config: DecoderConfig, names: DecoderNames, weights: WeightReader) -> Program:
    """Records one step of the model. Raises ModelFileError for a tensor that is missing or does not fit `config`."""
    return _Llama(config, names, weights, Ops(config.kv_shape(), config.n_heads)).record()


@dataclass(frozen=True, slots=True)
class _Llama:
    config: DecoderConfig
    names: DecoderNames
    weights: WeightReader
    ops: Ops

    def record(self) -> Program:
        ops, config = self.ops, self.config
        table = self.weights.take(f"{self.names.embedding}.weight", config.vocab, config.d_model)
        x = ops.embed(table)
        normed = ops.rms_norm(x, self._norm(0, self.names.attention_norm), config.eps)
        for layer in range(config.n_layers):
            last = layer == config.n_layers - 1
            mixed = self._attention(layer, normed)
            if last:
                # After the last attention rows are on their own: only those that want logits go on.
                mixed, x = ops.take_rows(mixed), ops.take_rows(x)
            mixed = self._attention_out(layer, mixed)
            normed, x = ops.add_rms_norm(mixed, x, self._norm(layer, self.names.mlp_norm), config.eps)
            following = self._final_norm() if last else self._norm(layer + 1, self.names.attention_norm)
            normed, x = ops.add_rms_norm(self._mlp(layer, normed), x, following, config.eps)
        output = (
            table if config.tied else self.weights.take(f"{self.names.output}.weight", config.vocab, config.d_model)
        )
        return ops.finish(ops.linear(normed, output))

    def _attention(self, layer: int, x: Value) -> Value:
        config, names = self.config, self.names
        widths = (
            (names.q, config.n_heads * config.head_dim),
            (names.k, config.n_kv_heads * config.head_dim),
            (names.v, config.n_kv_heads * config.v_head_dim),
        )
        weights = tuple(self._matrix(layer, name, width, config.d_model) for name, width in widths)
        biases = tuple(self._bias(layer, name, width, config.qkv_bias) for name, width in widths)
        q, k, v = self.ops.linears(x, weights, biases)
        q = self.ops.rope_and_store(q, k, v, layer=layer, rope=config.rope)
        return self.ops.attention(q, layer=layer, scale=config.attention_scale)

    def _attention_out(self, layer: int, x: Value) -> Value:
        config, name = self.config, self.names.attention_out
        weight = self._matrix(layer, name, config.d_model, config.n_heads * config.v_head_dim)
        return self.ops.linear(x, weight, self._bias(layer, name, config.d_model, config.out_bias))

    def _mlp(self, layer: int, x: Value) -> Value:
        config, names = self.config, self.names
        gate, up = (self._matrix(layer, name, config.ff, config.d_model) for name in (names.gate, names.up))
        down = self._matrix(layer, names.down, config.d_model, config.ff)
        biases = (
            self._bias(layer, names.gate, config.ff, config.mlp_bias),
            self._bias(layer, names.up, config.ff, config.mlp_bias),
            self._bias(layer, names.down, config.d_model, config.mlp_bias),
        )
        return self.ops.gated_mlp(x, gate, up, down, config.activation, biases)

    def _matrix(self, layer: int, name: str, out: int, width: int) -> Weight:
        return self.weights.take(f"{self.names.layer.format(layer)}{name}.weight", out, width)

    def _bias(self, layer: int, name: str, width: int, present: bool) -> Weight | None:
        return self.weights.take(f"{self.names.layer.format(layer)}{name}.bias", width) if present else None

    def _norm(self, layer: int, name: str) -> Weight:
        return self.weights.take(f"{self.names.layer.format(layer)}{name}.weight", self.config.d_model)

    def _final_norm(self) -> Weight:
        return self.weights.take(f"{self.names.final_norm}.weight", self.config.d_model)
