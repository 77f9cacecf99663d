"""Draws replay.py's results as SVG: a row for each trace, a mark for each policy, further right is better."""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

WIDTH, LEFT, TOP, ROW = 480, 150, 76, 26
STYLE = "text{font:12px sans-serif;fill:#333} .t{font-size:15px;font-weight:bold} .g{stroke:#ddd}"
FIXED, DEFAULT, ADAPTIVE = "#b0b0b0", "#1b6ca8", "#d1495b"


def draw(title: str, shares: Mapping[str, Mapping[str, float]], default: str, adaptive: str) -> str:
    """`shares[trace][policy]` are 0 to 1. `default` and `adaptive` are the policies that get a colour of their own."""
    bottom = TOP + ROW * len(shares)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 40}" height="{bottom + 40}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="t" x="{LEFT}" y="24">{escape(title)}</text>',
    ]
    legend = ((FIXED, "fixed limits"), (DEFAULT, f"the default ({default})"), (ADAPTIVE, "adaptive"))
    for number, (colour, text) in enumerate(legend):
        x = LEFT + 150 * number
        parts.append(f'<circle cx="{x}" cy="44" r="5" fill="{colour}"/><text x="{x + 10}" y="48">{text}</text>')
    for tick in range(0, 101, 20):
        x = LEFT + WIDTH * tick / 100
        parts.append(f'<line class="g" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{tick}%</text>')
    for row, (trace, of_policy) in enumerate(shares.items()):
        y = TOP + ROW * row + ROW / 2
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(trace)}</text>')
        ordered = sorted(of_policy.items(), key=lambda item: (item[0] == adaptive, item[0] == default))
        for policy, share in ordered:
            colour = ADAPTIVE if policy == adaptive else DEFAULT if policy == default else FIXED
            radius = 3 if colour == FIXED else 5
            parts.append(f'<circle cx="{LEFT + WIDTH * share:.1f}" cy="{y}" r="{radius}" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>", ""])
