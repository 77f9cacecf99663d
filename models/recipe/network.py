"""The Llama architecture, small, for training: shapes and arithmetic only.

Rotation is of neighbouring pairs, as GGUF's `llama` architecture expects; convert.py re-orders rows for Hugging Face.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model; written into every checkpoint."""

    vocab: int = 8192
    width: int = 512
    layers: int = 8
    heads: int = 8
    kv_heads: int = 2
    hidden: int = 1024
    context: int = 8192
    theta: float = 100_000.0
    epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Features of one attention head."""
        return self.width // self.heads

    def to_dict(self) -> dict[str, int | float]:
        """Plain data for a checkpoint."""
        return asdict(self)


def rotary(config: ModelConfig, length: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """cos and sin, each [length, head_width / 2], float32."""
    powers = torch.arange(0, config.head_width, 2, dtype=torch.float32, device=device) / config.head_width
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), config.theta**-powers)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates neighbouring pairs of the last axis; x is [batch, time, heads, head_width]."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[None, :, None, :], sin[None, :, None, :]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm, each added to the stream."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.config = config
        kv = config.kv_heads * config.head_width
        self.attn_norm = nn.RMSNorm(config.width, config.epsilon)
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.k = nn.Linear(config.width, kv, bias=False)
        self.v = nn.Linear(config.width, kv, bias=False)
        self.o = nn.Linear(config.width, config.width, bias=False)
        self.ffn_norm = nn.RMSNorm(config.width, config.epsilon)
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch, time, width] -> the same shape."""
        batch, time, width = x.shape
        normed = self.attn_norm(x)
        q = rotate(self.q(normed).view(batch, time, self.config.heads, -1), cos, sin).transpose(1, 2)
        k = rotate(self.k(normed).view(batch, time, self.config.kv_heads, -1), cos, sin).transpose(1, 2)
        v = self.v(normed).view(batch, time, self.config.kv_heads, -1).transpose(1, 2)
        # Repeated by hand: every fast attention kernel takes equal head counts.
        k, v = (kv.repeat_interleave(self.config.heads // self.config.kv_heads, dim=1) for kv in (k, v))
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + functional.dropout(
            self.o(seen.transpose(1, 2).reshape(batch, time, width)), self.dropout, self.training
        )
        normed = self.ffn_norm(x)
        fed = self.down(functional.silu(self.gate(normed)) * self.up(normed))
        return x + functional.dropout(fed, self.dropout, self.training)


class Model(nn.Module):
    """Token ids to hidden states; the head is the embedding table itself."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.epsilon)
        self.dropout = dropout
        #: Passes by compiled layers: a held-out batch has another shape, not worth a compilation.
        self.eager = False
        self.reset()

    def reset(self) -> None:
        """GPT-2's initialisation: what adds to the stream starts smaller the more layers there are."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                scale = (2 * self.config.layers) ** -0.5 if name.endswith(("o.weight", "down.weight")) else 1.0
                nn.init.normal_(weight, std=0.02 * scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [batch, time] -> normed hidden states [batch, time, width]."""
        cos, sin = rotary(self.config, tokens.shape[1], tokens.device)
        x = functional.dropout(self.embedding(tokens), self.dropout, self.training)
        for block in self.blocks:
            x = block.forward(x, cos, sin) if self.eager else block(x, cos, sin)
        hidden: Tensor = self.norm(x)
        return hidden

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens [batch, time] -> logits [batch, time, vocab]; for sampling and tests."""
        return functional.linear(self(tokens), self.embedding.weight)


def next_token_loss(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the targets that count (those not negative)."""
    logits = functional.linear(hidden, table).flatten(0, 1).float()
    return functional.cross_entropy(logits, targets.flatten(), ignore_index=-100)
