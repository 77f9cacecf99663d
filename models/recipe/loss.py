"""The two losses: of the next token, and of the next token as a teacher sees it."""

from __future__ import annotations

import torch.nn.functional as F
from batches import IGNORE
from torch import Tensor


def next_token(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the targets that count."""
    logits = F.linear(hidden, table).flatten(0, 1).float()
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE)


def distilled(
    hidden: Tensor, table: Tensor, targets: Tensor, teacher_hidden: Tensor, teacher_table: Tensor, share: float
) -> Tensor:
    """(1 - share) x cross-entropy with the text + share x cross-entropy with the teacher's distribution.

    Hinton, Vinyals, Dean (2015) at temperature 1. With far fewer tokens than the usual twenty per parameter the soft
    targets keep a small model from learning the texts by heart.
    """
    logits = F.linear(hidden, table).flatten(0, 1).float()
    wanted = F.linear(teacher_hidden, teacher_table).flatten(0, 1).float().softmax(-1)
    flat = targets.flatten()
    counts = (flat != IGNORE).float()
    total = logits.logsumexp(-1)
    hard = total - logits.gather(1, flat.clamp(min=0)[:, None]).squeeze(1)
    soft = total - (wanted * logits).sum(-1)
    return (((1 - share) * hard + share * soft) * counts).sum() / counts.sum()
