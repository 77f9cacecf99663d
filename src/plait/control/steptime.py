"""How long a step takes, as a function of what is in it. Four numbers; knows not where they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds: of any step, of each row of a decoding sequence, of each prompt token, and of each key that a row looks
    at (summed over the rows). None is negative."""

    step: float
    decode_row: float
    prompt_token: float
    key_read: float

    def seconds(self, decode_rows: float, prompt_tokens: float, key_reads: float) -> float:
        """The time of one step."""
        return (
            self.step
            + self.decode_row * decode_rows
            + self.prompt_token * prompt_tokens
            + self.key_read * key_reads
        )  # fmt: skip

    def terms(self) -> dict[str, float]:
        """By the labels of the metric."""
        return {
            "step": self.step,
            "decode_row": self.decode_row,
            "prompt_token": self.prompt_token,
            "key_read": self.key_read,
        }
