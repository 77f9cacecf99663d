"""Token ids of one sample to the text its reader sees: detokenised, cut at a stop string.

One function for every face. The end is a token index, so what counts as used does not depend on when a step was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plait.tokenizer.stop import StopChecker
from plait.tokenizer.tokenizer import Tokenizer
from plait.types import FinishReason, Logprob, TokenEvent, TokenId


class Shown(NamedTuple):
    """What an event means to the reader of its sample. `finish`: the engine is to end the sample, whose stop string
    came."""

    text: str
    tokens: tuple[TokenId, ...]
    logprobs: tuple[tuple[Logprob, ...], ...]
    finish_reason: FinishReason | None
    error: Exception | None
    finish: bool


class OutputText:
    """The text of one sample as it grows. `hit` once a stop string was found, `ended` then or after the final push.
    `keep` are texts of special tokens that who reads on must see."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), keep: frozenset[str] = frozenset()) -> None:
        self._decoder = tokenizer.stream_decoder(skip_special=True, continuing=True, keep=keep)
        self._stop, self._stops = StopChecker(stop), bool(stop)
        self.ended = self.hit = False

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found."""
        return self._stop.hit

    def plain(self, token: TokenId) -> str | None:
        """The text of the sample's next token, where nothing else is to be thought of: it spells whole characters, none
        of which may begin a stop string, and nothing is held back. Else None, and nothing has changed. After it the
        token is taken in."""
        text = self._decoder.plain(token)
        if text is None or self.ended:
            return None
        return text if not self._stops or self._stop.passes(text) else None

    def push(self, tokens: Sequence[TokenId], final: bool) -> tuple[str, int, bool]:
        """Take the next tokens; returns (text that may be shown, how many of the tokens belong to the sample, whether a
        stop string was found). A character or a possible stop string that is not complete yet is held back; `final`
        releases it."""
        shown = []
        for taken, token in enumerate(tokens, 1):
            plain = self.plain(token)
            if plain is not None:
                shown.append(plain)
                continue
            text, hit = self._stop.push(self._decoder.push(token))
            shown.append(text)
            if hit is not None:
                self.ended = self.hit = True
                return "".join(shown), taken, True
        if final:
            self.ended = True
            text, hit = self._stop.push(self._decoder.flush())
            shown.append(text)
            self.hit = hit is not None
            shown.append(self._stop.flush())
            return "".join(shown), len(tokens), self.hit
        return "".join(shown), len(tokens), False

    def see(self, event: TokenEvent) -> Shown | None:
        """Take in the sample's next event; None where it says nothing to the reader. Raises what `push` raises."""
        if len(event.tokens) == 1 and not event.final and (plain := self.plain(event.tokens[0])) is not None:
            return Shown(plain, event.tokens, event.logprobs, None, None, False)
        text, taken, finish = "", 0, False
        if not self.ended:
            text, taken, hit = self.push(event.tokens, event.final)
            finish = hit and not event.final
        elif not event.final:  # a stop string was found; steps in flight may bring more, and then the end
            return None
        if not (text or taken or event.final):
            return None
        reason = FinishReason.STOP if self.hit else event.finish_reason
        return Shown(
            text,
            event.tokens[:taken],
            event.logprobs[:taken],
            reason if event.final else None,
            None if self.hit else event.error,
            finish,
        )
