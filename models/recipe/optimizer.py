"""Muon for the layers' matrices, AdamW for the rest, in one object with one learning rate.

Muon (K. Jordan, 2024) replaces a matrix's momentum by the nearest orthogonal matrix; the scale 0.2 sqrt(max(rows,
columns)) gives its updates AdamW's size (Liu et al., 2025, "Muon is scalable for LLM training").
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration on a stack [n, rows, columns]: singular values go to about 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonAdamW:
    """Both optimizers over one model; `step(rate)` takes the learning rate of this step."""

    def __init__(self, model: nn.Module, decay: float, momentum: float = 0.95) -> None:
        self.decay, self.momentum = decay, momentum
        groups: defaultdict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        rest: list[nn.Parameter] = []
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embedding" not in name:
                groups[tuple(weight.shape)].append(weight)
            else:
                rest.append(weight)
        self.groups = list(groups.values())
        self.buffers = [torch.zeros((len(group), *group[0].shape), device=group[0].device) for group in self.groups]
        matrices = [weight for weight in rest if weight.ndim == 2]
        vectors = [weight for weight in rest if weight.ndim < 2]
        cuda = rest[0].is_cuda
        self.adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=0.0, betas=(0.9, 0.95), eps=1e-10, fused=cuda,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at learning rate `rate`, and gradients cleared."""
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradients = torch.stack([weight.grad for weight in group if weight.grad is not None])
            buffer.lerp_(gradients, 1 - self.momentum)
            update = orthogonalise(gradients.lerp(buffer, self.momentum))
            scale = 0.2 * max(update.shape[-2:]) ** 0.5
            weights = list(group)
            torch._foreach_mul_(weights, 1 - rate * self.decay)
            torch._foreach_add_(weights, list((update.float() * scale).unbind(0)), alpha=-rate)
        for settings in self.adam.param_groups:
            settings["lr"] = rate
        self.adam.step()
        for weight in (weight for group in self.groups for weight in group):
            weight.grad = None
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {"buffers": self.buffers, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` left off."""
        for mine, theirs in zip(self.buffers, state["buffers"], strict=True):
            mine.copy_(theirs)
        self.adam.load_state_dict(state["adam"])
