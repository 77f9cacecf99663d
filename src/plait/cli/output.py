"""How `plait run` shows sequences: one stream, plain text, JSON lines, or panes (in a module of their own)."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType

from plait.api import Delta
from plait.cli.summary import RunSummary


@dataclass
class Shown:
    """One sequence, as far as it has come."""

    prompt: str
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    end: Delta | None = None

    def see(self, delta: Delta) -> None:
        self.text.append(delta.text)
        self.tokens.extend(delta.token_ids)
        if delta.final:
            self.end = delta

    @property
    def reason(self) -> str:
        if self.end is None:
            return ""
        return f"failed: {self.end.error}" if self.end.error else str(self.end.finish_reason)


class Printer(ABC):
    """Shows deltas as they come, then the summary. Sequences are numbered over all prompts."""

    def __init__(self, prompts: list[str], samples: int, gap: str) -> None:
        self._samples = samples
        self.gap = gap  # between a prompt and its text, for people
        self.shown = [Shown(prompt) for prompt in prompts for _ in range(samples)]

    def see(self, delta: Delta) -> None:
        number = delta.prompt_index * self._samples + delta.index
        self.shown[number].see(delta)
        self.show(number, delta)

    @abstractmethod
    def show(self, number: int, delta: Delta) -> None: ...

    def __enter__(self) -> Printer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self, summary: RunSummary) -> None:
        """The figures go to standard error, so that a pipe gets the text alone."""
        print("\n" + "\n".join(summary.lines()), file=sys.stderr)


class StreamPrinter(Printer):
    """One sequence: its prompt, then the text as it comes."""

    def __enter__(self) -> Printer:
        print(self.shown[0].prompt, end=self.gap, flush=True)
        return self

    def show(self, number: int, delta: Delta) -> None:
        print(delta.text, end="", flush=True)
        if delta.error:
            print(f"\n[failed: {delta.error}]", end="")
        if delta.final:
            print(flush=True)


class PlainPrinter(Printer):
    """Several sequences into a pipe: each whole, in order, as soon as it and those before it are done."""

    def __enter__(self) -> Printer:
        self._printed = 0
        return self

    def show(self, number: int, delta: Delta) -> None:
        while self._printed < len(self.shown) and self.shown[self._printed].end is not None:
            one = self.shown[self._printed]
            self._printed += 1
            failed = f"\n[{one.reason}]" if one.end is not None and one.end.error else ""
            print(f"[{self._printed}] {one.prompt}{self.gap}{''.join(one.text)}{failed}\n", flush=True)


class JsonPrinter(Printer):
    """One JSON object a line for each sequence when it ends, then one with the summary."""

    def show(self, number: int, delta: Delta) -> None:
        if not delta.final:
            return
        one = self.shown[number]
        record: dict[str, object] = {
            "index": number,
            "prompt": one.prompt,
            "text": "".join(one.text),
            "token_ids": one.tokens,
            "finish_reason": None if delta.finish_reason is None else str(delta.finish_reason),
            "prompt_tokens": delta.prompt_tokens,
            "cached_tokens": delta.cached_tokens,
        }
        if delta.error is not None:
            record["error"] = str(delta.error)
        print(json.dumps(record), flush=True)

    def close(self, summary: RunSummary) -> None:
        print(json.dumps({"summary": summary.as_dict()}), flush=True)


def make_printer(prompts: list[str], samples: int, as_json: bool, gap: str = "") -> Printer:
    """The printer that fits where standard output goes. `gap` is shown between a prompt and its text."""
    if as_json:
        return JsonPrinter(prompts, samples, gap)
    if len(prompts) * samples == 1:
        return StreamPrinter(prompts, samples, gap)
    if not sys.stdout.isatty():
        return PlainPrinter(prompts, samples, gap)
    from plait.cli.panes import PanePrinter  # rich takes longer to import than a small model to load

    return PanePrinter(prompts, samples, gap)
