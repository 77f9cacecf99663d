"""Draws gpu_load.py's rows as SVG: goodput against the rate of arrivals, and below it the 99th percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH, LEFT, TOP, PANEL, GAP = 480, 70, 60, 180, 50
STYLE = "text{font:12px sans-serif;fill:#333} .t{font-size:15px;font-weight:bold} .g{stroke:#ddd}"
GOOD, TTFT, ITL = "#1b6ca8", "#d1495b", "#66a182"


def draw(rows: Sequence[dict[str, Any]], ttft_s: float, itl_s: float) -> str:
    most = max(row["rate"] for row in rows) * 1.05
    first, second = TOP, TOP + PANEL + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 40}" height="{second + PANEL + 50}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="t" x="{LEFT}" y="24">Requests in time a second, against arrivals a second</text>',
        f'<text x="{LEFT}" y="{second - 12}">p99 over its bound: '
        f'<tspan fill="{TTFT}">TTFT / {1e3 * ttft_s:.0f} ms</tspan>, '
        f'<tspan fill="{ITL}">ITL / {1e3 * itl_s:.0f} ms</tspan></text>',
        *_grid(first, most, most), *_grid(second, most, 2.0),
        _curve([(0, 0), (most, most)], first, most, most, "#b0b0b0", marks=False),
        _curve([(r["rate"], r["goodput"]) for r in rows], first, most, most, GOOD),
        _curve([(r["rate"], r["ttft_p99_ms"] / 1e3 / ttft_s) for r in rows], second, most, 2.0, TTFT),
        _curve([(r["rate"], r["itl_p99_ms"] / 1e3 / itl_s) for r in rows], second, most, 2.0, ITL),
    ]  # fmt: skip
    return "\n".join([*parts, "</svg>", ""])


def _at(x: float, y: float, top: float, x_most: float, y_most: float) -> tuple[float, float]:
    return LEFT + WIDTH * x / x_most, top + PANEL * (1 - min(y / y_most, 1.0))


def _curve(
    points: Sequence[tuple[float, float]], top: float, x_most: float, y_most: float, colour: str, marks: bool = True
) -> str:
    """What lies above the panel is drawn on its edge."""
    places = [_at(x, y, top, x_most, y_most) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places)
    return drawn + (dots if marks else "")


def _grid(top: float, x_most: float, y_most: float) -> list[str]:
    parts = []
    for part in range(5):
        share = part / 4
        x, y = _at(share * x_most, share * y_most, top, x_most, y_most)
        parts.append(f'<line class="g" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share * y_most:.3g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{top + PANEL + 18}" text-anchor="middle">{share * x_most:.3g}</text>')
    return parts
