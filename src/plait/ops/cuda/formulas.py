"""The formulas of the ops in torch. Knows tensors; knows neither programs nor KV memory.

Norms, rotations, softmax and attention are computed in float32 and rounded once, to the type of their input. Nothing
here waits for the device or has a shape that depends on a number in a tensor, so that all of it can be captured.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch.nn import functional

from plait.ops.api import Activation, RopeLayout

Tensor: TypeAlias = torch.Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float, groups: int) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (weight + offset), over each of `groups` equal parts of a row; weight is float32."""
    parts = x.float().view(len(x), groups, x.shape[1] // groups)
    normed = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + eps) * (weight + offset)
    return normed.view(x.shape).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, groups: int = 1) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, with the biased variance, over each of `groups` equal parts of a
    row; weight and bias are float32 and have the width of a part or of the row."""
    part = x.shape[1] // groups
    normed = functional.layer_norm(x.float().view(len(x), groups, part), (part,), eps=eps) * weight.view(-1, part)
    return (normed if bias is None else normed + bias.view(-1, part)).view(x.shape).to(x.dtype)


def rope_table(positions: Tensor, inv_freq: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """cos and sin, (rows, 1, pairs), float32; the angles are float64, as is inv_freq."""
    angles = positions.double()[:, None, None] * inv_freq
    return torch.cos(angles).float() * scale, torch.sin(angles).float() * scale


def rotate(x: Tensor, table: tuple[Tensor, Tensor], layout: RopeLayout) -> Tensor:
    """Rotates heads x (rows, heads, dim) pair by pair; elements past the pairs of `table` pass unchanged."""
    cos, sin = table
    n = cos.shape[-1]
    head, rest = x[..., : 2 * n].float(), x[..., 2 * n :]
    if layout is RopeLayout.INTERLEAVED:
        a, b = head[..., 0::2], head[..., 1::2]
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    else:
        a, b = head[..., :n], head[..., n:]
        turned = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
    return torch.cat((turned.to(x.dtype), rest), -1)


def activate(x: Tensor, activation: Activation) -> Tensor:
    if activation is Activation.SILU:
        return functional.silu(x)
    return functional.gelu(x, approximate="tanh" if activation is Activation.GELU_TANH else "none")


def softcap(x: Tensor, cap: float) -> Tensor:
    return (cap * torch.tanh(x.float() / cap)).to(x.dtype)


def visible_keys(positions: Tensor, key_positions: Tensor, present: Tensor, window: int | None) -> Tensor:
    """Which keys each row attends to, (B, T, N), from row positions (B, T), key positions (B, N), and whether the key
    exists at all (B, N)."""
    distance = positions[:, :, None] - key_positions[:, None, :]
    visible = (distance >= 0) & present[:, None, :]
    return visible if window is None else visible & (distance < window)


def alibi(slopes: Tensor, positions: Tensor, key_positions: Tensor) -> Tensor:
    """slope * (key position - row position), (B, heads, T, N)."""
    distance = key_positions[:, None, :] - positions[:, :, None]
    return slopes.view(1, -1, 1, 1) * distance[:, None].float()


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    scale: float,
    cap: float | None,
    sinks: Tensor | None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention of q (B, T, heads, dim) over k (B, N, kv_heads, dim) and v (B, N, kv_heads, v_dim), in float32, with
    `bias` (B, heads, T, N) added to the scores; returns (B, T, heads, v_dim). Masked keys leave no trace, not even NaN;
    a row that sees no key gets zeros."""
    batch, rows, heads, dim = q.shape
    keys, kv_heads, v_dim = v.shape[1:]
    if keys == 0:
        return q.new_zeros((batch, rows, heads, v_dim), dtype=torch.float32)
    group = heads // kv_heads
    grouped = q.float().view(batch, rows, kv_heads, group, dim).permute(0, 2, 3, 1, 4)
    scores = grouped.reshape(batch, kv_heads, group * rows, dim) @ k.float().permute(0, 2, 3, 1)
    scores = scores.view(batch, kv_heads, group, rows, keys) * scale
    if cap is not None:
        scores = softcap(scores, cap)
    if bias is not None:
        scores = scores + bias.view(scores.shape)
    scores = scores.masked_fill(~visible[:, None, None], -math.inf)
    top = scores.amax(-1, keepdim=True)
    sink = None if sinks is None else sinks.view(1, kv_heads, group, 1, 1)
    if sink is not None:
        top = torch.maximum(top, sink)
    top = top.masked_fill(top == -math.inf, 0)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    if sink is not None:
        total = total + torch.exp(sink - top)
    # 0 * NaN is NaN: a key that is not finite is taken out, and spoils only the rows that see it.
    finite = v.float().nan_to_num(0, 0, 0).transpose(1, 2)
    out = (weights.view(batch, kv_heads, group * rows, keys) @ finite).view(batch, kv_heads, group, rows, v_dim)
    out = (out / total.masked_fill(total == 0, 1)).permute(0, 3, 1, 2, 4).reshape(batch, rows, heads, v_dim)
    spoiled = (visible & ~torch.isfinite(v).all(-1).all(-1)[:, None, :]).any(-1)
    return out.masked_fill(spoiled[:, :, None, None], math.nan)


def gated_mlp(
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    activation: Activation,
) -> Tensor:
    """down @ (act(gate @ x) * (up @ x)); weights and biases are (gate, up, down)."""
    gate, up = (functional.linear(x, weights[i], biases[i]) for i in (0, 1))
    return functional.linear(activate(gate, activation) * up, weights[2], biases[2])


def moe(
    x: Tensor,
    router: Tensor,
    experts: tuple[Tensor, Tensor, Tensor],
    top_k: int,
    normalise: bool,
    activation: Activation,
) -> Tensor:
    """Sum over the `top_k` most probable experts (ties: lower index), each weighted by its probability.

    Few rows gather the weights of their experts; many rows go through every expert, and keep what they chose."""
    p, ranked = torch.sort(torch.softmax(functional.linear(x.float(), router), -1), descending=True, stable=True)
    share, chosen = p[:, :top_k], ranked[:, :top_k]
    if normalise:
        share = share / share.sum(-1, keepdim=True)
    out = torch.zeros_like(x, dtype=torch.float32)
    if len(x) * top_k <= len(router):
        for rank in range(top_k):
            gate, up, down = (weight[chosen[:, rank]] for weight in experts)
            hidden = activate(_each(gate, x), activation) * _each(up, x)
            out = out + share[:, rank, None] * _each(down, hidden).float()
        return out.to(x.dtype)
    for expert in range(len(router)):
        gate, up, down = (weight[expert] for weight in experts)
        picked = chosen == expert
        part = (share * picked).sum(-1, keepdim=True) * gated_mlp(x, (gate, up, down), (None, None, None), activation)
        out = out + part.masked_fill(~picked.any(-1, keepdim=True), 0)
    return out.to(x.dtype)


def _each(matrices: Tensor, x: Tensor) -> Tensor:
    """Row r of x through matrices[r]."""
    return torch.bmm(matrices, x[:, :, None])[:, :, 0]
