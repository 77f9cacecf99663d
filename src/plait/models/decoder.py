"""The dense decoder: one definition for every family that is embeddings, layers of attention and MLP, a norm and an
output matrix (arXiv:1706.03762, arXiv:2302.13971). What families differ in is data: `DecoderConfig`.

Composes ops over opaque values; knows neither files nor kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.models.config import DecoderConfig, NormPlace
from plait.models.names import DecoderNames
from plait.models.parts import Parts
from plait.models.weights import WeightReader
from plait.ops.api import Program, Value
from plait.ops.recorder import Ops


def record_decoder(config: DecoderConfig, names: DecoderNames, weights: WeightReader) -> Program:
    """Records one step of the model. Raises ModelFileError for a tensor that is missing or does not fit `config`."""
    ops = Ops(config.kv_shape(), config.n_heads)
    return _Decoder(config, names, ops, Parts(config, names, weights, ops)).record()


@dataclass(frozen=True, slots=True)
class _Decoder:
    config: DecoderConfig
    names: DecoderNames
    ops: Ops
    parts: Parts

    def record(self) -> Program:
        x = self.parts.embedding()
        normed = self.parts.norm(x, self._read_norm(0))
        for layer in range(self.config.n_layers):
            normed, x = self._layer(layer, normed, x)
        return self.ops.finish(self.parts.logits(normed))

    def _layer(self, layer: int, normed: Value, x: Value) -> tuple[Value, Value]:
        """What the next layer reads, and the residual stream."""
        config, parts = self.config, self.parts
        mixed = parts.attention(layer, normed)
        if layer == config.n_layers - 1:
            # After the last attention rows are on their own: only those that want logits go on.
            mixed, x = self.ops.take_rows(mixed), self.ops.take_rows(x)
            normed = self.ops.take_rows(normed) if config.parallel and config.shared_norm else normed
        attended = self._branch(parts.attention_out(layer, mixed), layer, self.names.attention_post_norm)
        if config.parallel:
            read = normed if config.shared_norm else parts.norm(x, self._in_layer(layer, self.names.mlp_norm))
            added = self.ops.add(attended, self._branch(parts.mlp(layer, read), layer, self.names.mlp_post_norm))
        else:
            before_mlp = self._in_layer(layer, self.names.mlp_norm) if self._norms_before else None
            read, x = parts.add_norm(attended, x, before_mlp)
            added = self._branch(parts.mlp(layer, read), layer, self.names.mlp_post_norm)
        return parts.add_norm(added, x, self._read_norm(layer + 1))

    def _branch(self, out: Value, layer: int, post_norm: str) -> Value:
        """What attention or MLP give to the residual stream."""
        if self.config.norm_place is not NormPlace.PRE:
            out = self.parts.norm(out, self._in_layer(layer, post_norm))
        return out if self.config.residual_scale == 1 else self.ops.scale(out, self.config.residual_scale)

    @property
    def _norms_before(self) -> bool:
        return self.config.norm_place is not NormPlace.POST

    def _read_norm(self, layer: int) -> str | None:
        """The norm before a layer's attention; after the last layer, the final one."""
        if layer == self.config.n_layers:
            return self.names.final_norm
        return self._in_layer(layer, self.names.attention_norm) if self._norms_before else None

    def _in_layer(self, layer: int, name: str) -> str:
        return self.names.layer.format(layer) + name
