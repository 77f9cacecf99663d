"""The parts of a dense decoder: embeddings, norms, attention, MLP, logits, each with the weights it takes.

Composes ops over opaque values; does not know how a layer puts its parts together (`plait.models.decoder`).
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.models.config import DecoderConfig, Norm, QkNorm
from plait.models.fused import gate_up, qkv
from plait.models.names import DecoderNames
from plait.models.weights import WeightReader
from plait.ops.api import Value, Weight
from plait.ops.recorder import Ops


@dataclass(frozen=True, slots=True)
class Parts:
    config: DecoderConfig
    names: DecoderNames
    weights: WeightReader
    ops: Ops

    def embedding(self) -> Value:
        config, ops = self.config, self.ops
        x = ops.embed(self._table())
        if config.embedding_scale != 1:
            x = ops.scale(x, config.embedding_scale)
        if config.positions:
            table = self.weights.take(f"{self.names.positions}.weight", config.positions, config.d_model)
            x = ops.add(x, ops.embed_positions(table))
        return x

    def logits(self, normed: Value) -> Value:
        config, name = self.config, self.names.output
        output = self._table() if config.tied else self.weights.take(f"{name}.weight", config.vocab, config.d_model)
        bias = self.weights.take(f"{name}.bias", config.vocab) if config.output_bias else None
        logits = self.ops.linear(normed, output, bias)
        if config.logit_scale != 1:
            logits = self.ops.scale(logits, config.logit_scale)
        return logits if config.logit_softcap is None else self.ops.softcap(logits, config.logit_softcap)

    def norm(self, x: Value, name: str | None) -> Value:
        """x through the norm `name`; x itself if there is none."""
        if name is None:
            return x
        config, (weight, bias) = self.config, self._norm_weights(name, x.width)
        if config.norm is Norm.RMS:
            return self.ops.rms_norm(x, weight, config.eps, offset=config.norm_offset)
        return self.ops.layer_norm(x, weight, bias, config.eps)

    def add_norm(self, out: Value, x: Value, name: str | None) -> tuple[Value, Value]:
        """The sum through the norm `name`, and the sum."""
        config = self.config
        if name is not None and config.norm is Norm.RMS:
            weight, _ = self._norm_weights(name, x.width)
            return self.ops.add_rms_norm(out, x, weight, config.eps, offset=config.norm_offset)
        total = self.ops.add(out, x)
        return self.norm(total, name), total

    def attention(self, layer: int, x: Value) -> Value:
        """The heads' outputs side by side."""
        config, ops = self.config, self.ops
        q, k, v = ops.linears(x, *qkv(config, self.names, self.weights, layer))
        if config.clip_qkv is not None:
            q, k, v = (ops.clamp(value, config.clip_qkv) for value in (q, k, v))
        if config.qk_norm is not QkNorm.NONE:
            q = self._qk_norm(q, layer, self.names.q_norm, config.n_heads)
            k = self._qk_norm(k, layer, self.names.k_norm, config.n_kv_heads)
        q = ops.rope_and_store(q, k, v, layer=layer, rope=config.rope_of(layer))
        return ops.attention(
            q, layer=layer, scale=config.attention_scale, softcap=config.attention_softcap, slopes=config.slopes
        )

    def attention_out(self, layer: int, x: Value) -> Value:
        config, name = self.config, self.names.attention_out
        weight = self._matrix(layer, name, config.d_model, config.n_heads * config.v_head_dim)
        return self.ops.linear(x, weight, self._bias(layer, name, config.d_model, config.out_bias))

    def mlp(self, layer: int, x: Value) -> Value:
        config, names = self.config, self.names
        if config.gated:
            (gate, up), biases = gate_up(config, names, self.weights, layer)
            down, bias = self._down(layer)
            return self.ops.gated_mlp(x, gate, up, down, config.activation, (*biases, bias))
        up = self._matrix(layer, names.up, config.ff, config.d_model)
        hidden = self.ops.linear(x, up, self._bias(layer, names.up, config.ff, config.mlp_bias))
        down, bias = self._down(layer)
        return self.ops.linear(self.ops.activate(hidden, config.activation), down, bias)

    def _down(self, layer: int) -> tuple[Weight, Weight | None]:
        config, name = self.config, self.names.down
        return self._matrix(layer, name, config.d_model, config.ff), self._bias(
            layer, name, config.d_model, config.mlp_bias
        )

    def _table(self) -> Weight:
        return self.weights.take(f"{self.names.embedding}.weight", self.config.vocab, self.config.d_model)

    def _qk_norm(self, x: Value, layer: int, name: str, heads: int) -> Value:
        config, whole = self.config, self.names.layer.format(layer) + name
        groups = 1 if config.qk_norm is QkNorm.ROW else heads
        width = x.width // groups
        if config.qk_norm is not QkNorm.EACH_HEAD:
            weight = self.weights.take(f"{whole}.weight", width)
        elif "{}" in whole:
            weight = self.weights.stack(f"{whole}.weight", heads, width)
        else:
            weight = self.weights.take(f"{whole}.weight", heads, width)
        if config.norm is Norm.RMS:
            return self.ops.rms_norm(x, weight, config.eps, offset=config.norm_offset, groups=groups)
        bias = self.weights.take(f"{whole}.bias", width) if config.qk_norm_bias else None
        return self.ops.layer_norm(x, weight, bias, config.eps, groups=groups)

    def _norm_weights(self, name: str, width: int) -> tuple[Weight, Weight | None]:
        if not self.config.norm_weight:
            return self.weights.ones(width), None
        bias = self.weights.take(f"{name}.bias", width) if self.config.norm_bias else None
        return self.weights.take(f"{name}.weight", width), bias

    def _matrix(self, layer: int, name: str, out: int, width: int) -> Weight:
        full = f"{self.names.layer.format(layer)}{name}.weight"
        return self.weights.take(full, out, width, transposed=self.names.transposed)

    def _bias(self, layer: int, name: str, width: int, present: bool) -> Weight | None:
        return self.weights.take(f"{self.names.layer.format(layer)}{name}.bias", width) if present else None
