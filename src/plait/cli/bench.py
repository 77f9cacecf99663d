"""`plait bench`: tokens per second against the number of sequences, in llama-batched-bench's columns."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plait.cli.chart import Point, chart
from plait.cli.options import command, engine_options, model_option, refused_options, take_engine_options
from plait.errors import OptionError

if TYPE_CHECKING:
    from plait.api.bench import Bench, BenchCase, BenchTimes
    from plait.config import EngineOptions

COLUMNS = ("PP", "TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s")
WIDTHS = (6, 6, 4, 7, 9, 9, 9, 9, 9, 9)
MOST_VALUES = 1000
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?")


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One case and its median times."""

    case: BenchCase
    times: BenchTimes

    @property
    def prompt_rate(self) -> float:
        """S_PP: prompt tokens computed per second."""
        return _rate(self.case.prompt_tokens, self.times.prompt_s)

    @property
    def generate_rate(self) -> float:
        """S_TG: tokens decoded per second, all sequences together."""
        return _rate(self.case.generated_tokens, self.times.generate_s)

    @property
    def seconds(self) -> float:
        return self.times.prompt_s + self.times.generate_s

    def markdown(self) -> str:
        case, times = self.case, self.times
        counts = (case.prompt, case.generate, case.sequences, case.kv_tokens)
        cells = [*map(str, counts), f"{times.prompt_s:.3f}", f"{self.prompt_rate:.2f}"]
        cells += [f"{times.generate_s:.3f}", f"{self.generate_rate:.2f}", f"{self.seconds:.3f}"]
        return _line([*cells, f"{_rate(case.kv_tokens, self.seconds):.2f}"])

    def as_dict(self) -> dict[str, Any]:
        """llama-batched-bench's names, and what part of the time Python and sampling took."""
        case, times = self.case, self.times
        values = {
            "t_pp": times.prompt_s,
            "speed_pp": self.prompt_rate,
            "t_tg": times.generate_s,
            "speed_tg": self.generate_rate,
            "t": self.seconds,
            "speed": _rate(case.kv_tokens, self.seconds),
            "python_share_pp": _rate(times.prompt_host_s, times.prompt_s),
            "python_share_tg": _rate(times.generate_host_s, times.generate_s),
            "sample_share_tg": _rate(times.sample_s, times.generate_s),
        }
        counts = {"pp": case.prompt, "tg": case.generate, "pl": case.sequences, "n_kv": case.kv_tokens}
        return {**counts, "is_pp_shared": case.shared} | {name: round(value, 6) for name, value in values.items()}


def bench(
    model: str | None,
    prompts: str,
    generates: str,
    sequences: str,
    shared: bool,
    sample: bool,
    as_json: bool,
    plot: str | None,
    repeat: int,
    **rest: Any,
) -> None:
    """Measure prefill and decode speed against the number of sequences.

    Each case computes a prompt of PP tokens for each of B sequences, then decodes TG tokens of each. The tokens are
    random and given in advance, as in llama-batched-bench; --sample draws them from the logits instead. Lists are
    comma-separated; an element may be a range: 1-4 is 1,2,3,4, 128-512+128 goes in steps, 1-32*2 doubles.
    """
    values = [
        parse_counts("-npp", prompts, 1), parse_counts("-ntg", generates, 0), parse_counts("-npl", sequences, 1)
    ]  # fmt: skip
    if not 1 <= repeat <= MOST_VALUES:
        raise OptionError(f"--repeat is {repeat}; give 1 to {MOST_VALUES}")
    options = take_engine_options(rest)
    target = None if plot is None else _writable(plot)

    from plait.api.bench import BenchCase  # here, so that a wrong option is answered at once

    cases = [BenchCase(pp, tg, b, shared) for pp in values[0] for tg in values[1] for b in values[2]]
    runner, facts = _load(model, options, cases, sample)
    show = _show_json if as_json else _show_line
    if not as_json:
        _show_head(facts, repeat)
    rows = []
    for row in _measure(runner, cases, repeat):
        rows.append(row)
        show(facts | {"repeat": repeat}, row)
    if not as_json:
        _say(_shares(rows, sample))
    if target is not None:
        target.write_text(chart(str(facts["model"]), _points(rows)), encoding="utf-8")


def _load(
    model: str | None, options: EngineOptions, cases: list[BenchCase], sample: bool
) -> tuple[Bench, dict[str, Any]]:
    """The model, ready to be measured, and what one has to know to compare its figures with others."""
    from plait.api.bench import Bench
    from plait.cli.loading import loading_bar
    from plait.formats.hub import resolve_model
    from plait.formats.open import open_weights
    from plait.models.registry import load_model

    started = time.perf_counter()
    path = resolve_model(model)
    with loading_bar() as progress:
        loaded = load_model(open_weights(path, options.load_format), options.n_ctx)
        runner = Bench(loaded, options, cases, sample=sample, progress=progress)
    facts: dict[str, Any] = {"model": path.name, "device": runner.device, "n_threads": runner.threads}
    facts |= {"n_batch": options.n_batch, "kv_type": options.kv_type, "kv_bytes": runner.kv_bytes, "sampled": sample}
    return runner, facts | {"load_s": round(time.perf_counter() - started, 3)}


def _measure(runner: Bench, cases: list[BenchCase], repeat: int) -> Iterator[BenchRow]:
    from plait.api.bench import BenchTimes

    for case in cases:
        runner.warm_up(case)
        yield BenchRow(case, BenchTimes.medians([runner.measure(case) for _ in range(repeat)]))


def _show_head(facts: dict[str, Any], repeat: int) -> None:
    threads = f", {facts['n_threads']} thread(s)" if facts["n_threads"] else ""
    _say(
        f"{facts['model']}: {facts['device']}{threads}, loaded in {facts['load_s']:.1f} s, at most {facts['n_batch']} "
        f"tokens a step, KV memory {facts['kv_type']}, {facts['kv_bytes'] / 2**20:.0f} MiB; median of {repeat}"
    )
    print(_line(list(COLUMNS)), "|" + "|".join("-" * width + ":" for width in WIDTHS) + "|", sep="\n", flush=True)


def _show_line(facts: dict[str, Any], row: BenchRow) -> None:
    print(row.markdown(), flush=True)


def _show_json(facts: dict[str, Any], row: BenchRow) -> None:
    from plait.cli.summary import peak_memory_mib

    print(json.dumps(facts | row.as_dict() | {"peak_memory_mib": round(peak_memory_mib(), 1)}), flush=True)


def parse_counts(flag: str, text: str, low: int) -> list[int]:
    """Whole numbers from a list such as "128,512", "1-4", "128-512+128" or "1-32*2", in that order.

    Raises `OptionError` for anything else, and for a number under `low`."""
    values: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or len(part) > 64:
            raise OptionError(
                f"{flag} is '{text}'; give whole numbers as 128,512 or a range as 1-4, 128-512+128, 1-32*2"
            )
        first, last, sign, step = match.groups()
        values += _range(flag, part, int(first), int(last or first), sign or "+", int(step or 1))
    if min(values) < low or max(values) > 2**31 - 1:
        raise OptionError(f"{flag} is '{text}'; each number must be at least {low} and less than 2^31")
    if len(values) > MOST_VALUES:
        raise OptionError(f"{flag} is '{text}', which is {len(values)} numbers; give at most {MOST_VALUES}")
    return values


def _range(flag: str, text: str, first: int, last: int, sign: str, step: int) -> list[int]:
    if last < first or step < (2 if sign == "*" else 1) or (sign == "*" and first < 1):
        raise OptionError(f"{flag}: the range '{text}' does not go upwards; write it as 128-512+128 or 1-32*2")
    values: list[int] = []
    while first <= last and len(values) <= MOST_VALUES:
        values.append(first)
        first = first * step if sign == "*" else first + step
    return values


def _writable(name: str) -> Path:
    """Refuse before the measuring, not after it."""
    path = Path(name)
    if path.suffix.lower() != ".svg":
        raise OptionError(f"--plot is '{name}'; the chart is an SVG file, give a name that ends in .svg")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OptionError(f"--plot: cannot write {name}; give a file in a folder that exists and is writable")
    return path


def _points(rows: list[BenchRow]) -> list[Point]:
    return [
        Point(f"PP {r.case.prompt}, TG {r.case.generate}", r.case.sequences, r.prompt_rate, r.generate_rate)
        for r in rows
    ]


def _shares(rows: list[BenchRow], sample: bool) -> str:
    """What one looks for when the kernels should be fast and the figures are not."""
    sums = [sum(getattr(row.times, name) for row in rows) for name in type(rows[0].times).__slots__]
    prompt, generate, prompt_host, generate_host, sampling = sums
    said = f"Python planned and packed for {_rate(prompt_host, prompt):.1%} of prefill"
    said += f" and {_rate(generate_host, generate):.1%} of decode"
    return said + (f"; sampling took {_rate(sampling, generate):.1%} of decode" if sample else "")


def _line(cells: list[str]) -> str:
    return "|" + "|".join(f"{cell:>{width}} " for cell, width in zip(cells, WIDTHS, strict=True)) + "|"


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 and amount else 0.0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_OWN: list[click.Parameter] = [
    model_option(),
    click.Option(["prompts", "-npp"], default="128", help="PP: prompt tokens of a sequence, a list. Default: 128."),
    click.Option(["generates", "-ntg"], default="128", help="TG: tokens to decode, a list. Default: 128."),
    click.Option(["sequences", "-npl"], default="1,2,4,8", help="B: sequences at once, a list. Default: 1,2,4,8."),
    click.Option(["shared", "-pps"], is_flag=True, help="All sequences share one prompt, which is computed once."),
    click.Option(["sample", "--sample"], is_flag=True, help="Draw the tokens with the default sampler chain."),
    click.Option(["repeat", "--repeat"], type=int, default=1, help="Measure so often, show the median. Default: 1."),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object a line for each case."),
    click.Option(["plot", "--plot"], help="Draw S_PP and S_TG against B into this SVG file."),
]

COMMAND = command(
    "bench",
    [
        *_OWN,
        *engine_options(
            frozenset(
                {
                    "n_parallel",
                    "prefix_cache",
                    "kv_cache_dir",
                    "kv_cache_size",
                    "profile",
                    "slo",
                    "hours",
                    "adaptive",
                    "calibrate",
                }
            )
        ),
        *refused_options(),
    ],
    bench,
)
