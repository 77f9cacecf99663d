"""What generation gives back: typed records."""

from __future__ import annotations

from dataclasses import dataclass

from plait.types import FinishReason, Logprob, TokenId


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """News of one sample while it streams. `prompt_index` counts the prompts of the call, `index` the samples of that
    prompt. `text` never splits a character and never shows a part of a stop string. The last delta of a sample is
    `final` and carries its counters."""

    prompt_index: int
    index: int
    text: str
    token_ids: tuple[TokenId, ...]
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    embedding: tuple[float, ...] = ()

    @property
    def final(self) -> bool:
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One finished continuation. `finish_reason` is None where `error` says why it failed. `token_ids` end with the
    token that completed a stop string, whose text `text` leaves out; an end-of-text token is in neither."""

    index: int
    text: str
    token_ids: tuple[TokenId, ...]
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """All samples of one prompt. `prompt` is None for a prompt given as token ids; `seed` is what its draws used."""

    prompt: str | None
    prompt_token_ids: tuple[TokenId, ...]
    samples: tuple[Sample, ...]
    seed: int

    @property
    def text(self) -> str:
        """The first sample's text."""
        return self.samples[0].text

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens of all samples that were not computed for them but found in memory."""
        return sum(sample.cached_tokens for sample in self.samples)
