"""Draws the chart of `plait bench` as SVG: two panels, prefill and decode rate against the number of sequences.

Plain text out of numbers; knows nothing of models and options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#b8860b", "#7b4fa3", "#4a4a4a")
PANEL_WIDTH, PANEL_HEIGHT = 360, 240
LEFT, TOP, GAP = 64, 64, 76
LEGEND_LINE = 18
STYLE = "text{font:12px sans-serif;fill:#333} .t{font-size:15px;font-weight:bold} .g{stroke:#ddd} .a{stroke:#888}"


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: which line it belongs to, how many sequences, and tokens per second."""

    label: str
    sequences: int
    prompt_rate: float
    generate_rate: float


def chart(title: str, points: Sequence[Point]) -> str:
    """An SVG document: a line for each label, the horizontal axis logarithmic, the vertical ones from 0."""
    labels = list(dict.fromkeys(point.label for point in points))
    width = 2 * PANEL_WIDTH + LEFT + GAP + 24
    height = TOP + PANEL_HEIGHT + 56 + LEGEND_LINE * len(labels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="t" x="{LEFT}" y="24">{escape(title)}</text>',
    ]
    for number, name in enumerate(("Prefill, S_PP", "Decode, S_TG")):
        rates = [point.generate_rate if number else point.prompt_rate for point in points]
        panel = _Panel(LEFT + number * (PANEL_WIDTH + GAP), name, [point.sequences for point in points], rates)
        parts += panel.axes()
        for i, label in enumerate(labels):
            line = [(p.sequences, rate) for p, rate in zip(points, rates, strict=True) if p.label == label]
            parts += panel.line(sorted(line), COLOURS[i % len(COLOURS)])
    for i, label in enumerate(labels):
        y = TOP + PANEL_HEIGHT + 56 + LEGEND_LINE * i
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="14" height="4" fill="{COLOURS[i % len(COLOURS)]}"/>')
        parts.append(f'<text x="{LEFT + 22}" y="{y - 2}">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>", ""])


class _Panel:
    """One pair of axes, whose left edge is at `left`."""

    def __init__(self, left: int, name: str, sequences: Sequence[int], rates: Sequence[float]) -> None:
        self._left, self._name = left, name
        self._counts = sorted(set(sequences))
        self._ticks = nice_ticks(max(rates, default=0.0))

    def axes(self) -> list[str]:
        right, bottom = self._left + PANEL_WIDTH, TOP + PANEL_HEIGHT
        parts = [f'<text x="{self._left}" y="{TOP - 14}">{self._name}, tokens/s</text>']
        for tick in self._ticks:
            y = self._y(tick)
            parts.append(f'<line class="g" x1="{self._left}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{self._left - 8}" y="{y + 4}" text-anchor="end">{tick:,g}</text>')
        parts.append(f'<line class="a" x1="{self._left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts += [
            f'<text x="{self._x(count)}" y="{bottom + 18}" text-anchor="middle">{count}</text>'
            for count in self._labelled()
        ]
        middle = self._left + PANEL_WIDTH // 2
        return [*parts, f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">sequences, B</text>']

    def line(self, points: Sequence[tuple[int, float]], colour: str) -> list[str]:
        places = [(self._x(count), self._y(rate)) for count, rate in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        dots = [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
        return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]

    def _x(self, count: int) -> float:
        low, high = math.log2(self._counts[0]), math.log2(self._counts[-1])
        share = (math.log2(count) - low) / (high - low) if high > low else 0.5
        return round(self._left + 12 + share * (PANEL_WIDTH - 24), 1)

    def _y(self, rate: float) -> float:
        return round(TOP + PANEL_HEIGHT * (1 - rate / self._ticks[-1]), 1)

    def _labelled(self) -> list[int]:
        """Counts far enough from each other for their numbers to be read."""
        kept: list[int] = []
        for count in self._counts:
            if not kept or self._x(count) - self._x(kept[-1]) >= 26:
                kept.append(count)
        return kept


def nice_ticks(largest: float) -> list[float]:
    """0 and up to six round numbers, the last not under `largest`; 0 and 1 for (next to) nothing."""
    if not 1e-6 < largest < math.inf:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 6 >= largest)
    return [step * i for i in range(math.ceil(largest / step - 1e-9) + 1)]
