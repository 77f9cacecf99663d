"""The arithmetic of vs_peers.py: pairs into ratios, rates into shares of the machine's ceilings, both into a table.

Pure functions of numbers and records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TypeAlias

PREFILL, DECODE = "prefill", "decode"
OURS = "plait"
NEEDS_FLOAT = ("F32", "F16", "BF16")

Key: TypeAlias = tuple[str, int, int, int]
"""PREFILL or DECODE, PP, TG, B."""
Rates: TypeAlias = Mapping[Key, float]
"""Tokens per second, of one round."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a model asks for: bytes of all matrices read in a step, multiply-adds of one token in the layers and in the
    output matrix, and whether they are of 8-bit integers."""

    step_bytes: int
    layer_macs: int
    head_macs: int
    integer: bool

    @staticmethod
    def of(tensors: Sequence[tuple[str, str, tuple[int, ...], int]]) -> Work:
        """From a file's tensors (name, format, shape, bytes). A tied embedding is the output matrix; else reading its
        rows is not counted."""
        matrices = [t for t in tensors if len(t[2]) == 2]
        heads = [t for t in matrices if t[0] == "output.weight"] or [t for t in matrices if t[0] == "token_embd.weight"]
        layers = [t for t in matrices if t[0].startswith("blk.")]
        return Work(
            step_bytes=sum(t[3] for t in layers + heads),
            layer_macs=sum(t[2][0] * t[2][1] for t in layers),
            head_macs=sum(t[2][0] * t[2][1] for t in heads),
            integer=all(t[1] not in NEEDS_FLOAT for t in layers),
        )


def ceiling(key: Key, work: Work, ceilings: Mapping[str, float], n_batch: int = 2048) -> float | None:
    """Tokens per second that reading the weights and the multiply-adds allow; None without a measurement of both.

    Attention and KV memory are left out, so no kernel reaches it with long contexts; nor are caches in it, so a model
    that fits one may pass it."""
    what, prompt, _, sequences = key
    operations = ceilings.get("int8_gop_s" if work.integer else "f32_gflop_s")
    bandwidth = ceilings.get("read_gb_s")
    if not operations or not bandwidth:
        return None
    if what == DECODE:
        tokens, outputs = sequences, sequences
    else:
        tokens = min(n_batch, prompt * sequences)
        outputs = max(1, tokens // prompt)
    macs = tokens * work.layer_macs + outputs * work.head_macs
    return tokens / max(2 * macs / (operations * 1e9), work.step_bytes / (bandwidth * 1e9))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the report. `ratios` are Plait's rate over the peer's, pair by pair; `better` is the peer with the
    higher median, the one that `ratio` (the median of its pairs) is about."""

    what: str
    pp: int
    tg: int
    b: int
    medians: dict[str, float]
    ratios: dict[str, list[float]]
    better: str | None
    ratio: float | None
    ceiling: float | None
    share_of_ceiling: float | None


def compare(key: Key, rounds: Mapping[str, Sequence[Rates]], limit: float | None) -> Comparison:
    """`rounds[name][i]` is the i-th round of a contender; the i-th rounds of all are a pair."""
    ours = [rates[key] for rates in rounds[OURS]]
    theirs = {name: [rates[key] for rates in runs] for name, runs in rounds.items() if name != OURS}
    medians = {OURS: median(ours)} | {name: median(values) for name, values in theirs.items()}
    ratios = {name: _ratios(ours, values) for name, values in theirs.items()}
    better = max(theirs, key=lambda name: medians[name], default=None)
    ratio = median(ratios[better]) if better is not None and ratios[better] else None
    share = medians[OURS] / limit if limit else None
    return Comparison(*key, medians, ratios, better, ratio, limit, share)


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True) if b > 0]


def keys_of(rows: Sequence[tuple[int, int, int]]) -> list[Key]:
    """Every figure that rows (PP, TG, B) yield."""
    return [(what, *row) for row in rows for what in (PREFILL, DECODE) if what == PREFILL or row[1]]


def rates_of(lines: Sequence[Mapping[str, float]]) -> dict[Key, float]:
    """From the JSON lines that every contender prints."""
    rates: dict[Key, float] = {}
    for line in lines:
        row = (int(line["pp"]), int(line["tg"]), int(line["pl"]))
        rates[PREFILL, *row] = line["speed_pp"]
        if row[1]:
            rates[DECODE, *row] = line["speed_tg"]
    return rates


def best_settings(tried: Mapping[str, Rates]) -> dict[Key, str]:
    """The setting with the highest rate, for each figure by itself."""
    return {key: max(tried, key=lambda name: tried[name][key]) for key in next(iter(tried.values()))}


def table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: medians of all contenders in tokens per second, then the ratio to the better peer."""
    names = list(comparisons[0].medians)
    head = ["", "PP", "TG", "B", *names, "ratio", "pairs", "ceiling", "share"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for c in comparisons:
        cells = [c.what, str(c.pp), str(c.tg), str(c.b), *(_number(c.medians[name]) for name in names)]
        pairs = c.ratios[c.better] if c.better else []
        spread = f"{min(pairs):.2f} to {max(pairs):.2f}" if pairs else ""
        cells += [f"{c.ratio:.2f}" if c.ratio else "", spread, _number(c.ceiling)]
        lines.append([*cells, f"{c.share_of_ceiling:.0%}" if c.share_of_ceiling else ""])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def records(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    return [asdict(c) for c in comparisons]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
