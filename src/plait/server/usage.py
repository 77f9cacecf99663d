"""Usage and timings of an answer, as OpenAI and llama.cpp name them. Knows what generations count; no routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.server.generation import Generation, Usage


def total(generations: Sequence[Generation]) -> Usage:
    """What several came to that ran side by side: counts are sums, times are the longest."""
    usages = [one.usage for one in generations]
    return Usage(
        prompt_tokens=sum(one.prompt_tokens for one in usages),
        cached_tokens=sum(one.cached_tokens for one in usages),
        generated_tokens=sum(one.generated_tokens for one in usages),
        prompt_s=max(one.prompt_s for one in usages),
        decode_s=max(one.decode_s for one in usages),
        queue_s=max(one.queue_s for one in usages),
        batch_tokens=tuple(batch for one in usages for batch in one.batch_tokens),
        samples=sum(one.samples for one in usages),
    )


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage, and in `plait` how it was served."""
    prompt, made = usage.prompt_tokens, usage.generated_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "plait": served(usage),
    }


def served(usage: Usage) -> dict[str, Any]:
    """The longest wait in the engine's queue, the mean of the tokens in the steps that ran meanwhile, its own among
    them, and the timings."""
    batches = usage.batch_tokens
    return {
        "queue_ms": 1000 * usage.queue_s,
        "mean_batch_tokens": sum(batches) / len(batches) if batches else 0.0,
        "timings": timings_of(usage),
    }


def timings_of(usage: Usage) -> dict[str, Any]:
    """llama.cpp's timings. Milliseconds; the prompt's include its wait in the queue."""
    computed, made = usage.prompt_tokens - usage.cached_tokens, usage.generated_tokens
    steps = max(made - usage.samples, 0)  # the first token of each comes out of the prompt
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
