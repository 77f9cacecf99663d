"""Usage and timings of an answer, as OpenAI and llama.cpp name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.server.generation import Generation, Usage


def usage_of(generations: Sequence[Generation]) -> dict[str, Any]:
    """OpenAI's usage, over all of them."""
    usages = [one.usage for one in generations]
    prompt, made = sum(u.prompt_tokens for u in usages), sum(u.generated_tokens for u in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(u.cached_tokens for u in usages)},
        "plait": service_of(usages),
    }


def service_of(usages: Sequence[Usage]) -> dict[str, Any]:
    """How it was served: the longest wait in the engine's queue, and the mean of the tokens in the steps that ran
    meanwhile, its own among them."""
    batches = [batch for usage in usages for batch in usage.batch_tokens]
    return {
        "queue_ms": 1000 * max((usage.queue_s for usage in usages), default=0.0),
        "mean_batch_tokens": sum(batches) / len(batches) if batches else 0.0,
    }


def timings_of(usage: Usage) -> dict[str, Any]:
    """llama.cpp's timings. Milliseconds; the prompt's include its wait in the queue."""
    computed, made = usage.prompt_tokens - usage.cached_tokens, usage.generated_tokens
    steps = max(made - 1, 0)  # the first token comes out of the prompt
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": 1000 * usage.prompt_s,
        "prompt_per_token_ms": 1000 * usage.prompt_s / max(computed, 1),
        "prompt_per_second": computed / usage.prompt_s if usage.prompt_s else 0.0,
        "predicted_n": made,
        "predicted_ms": 1000 * usage.decode_s,
        "predicted_per_token_ms": 1000 * usage.decode_s / max(steps, 1),
        "predicted_per_second": steps / usage.decode_s if usage.decode_s else 0.0,
    }
