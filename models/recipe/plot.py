"""Draws the log of train.py: held-out loss against tokens, one line a pool, phases marked."""

from __future__ import annotations

import argparse
import csv
from itertools import groupby
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

#: Column -> label; in the order of the legend.
LINES = {
    "books": "novels",
    "tales": "children's books and tales",
    "talk": "dialogue",
    "tiny": "simple stories",
    "validation": "TinyStories validation",
    "chat": "answers in chat",
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path, help="SVG file")
    args = parser.parse_args()
    with args.log.open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["tokens"]) > 20e6]
    tokens = [int(row["tokens"]) / 1e6 for row in rows]
    mpl.rcParams.update({"svg.hashsalt": "plait", "font.size": 9})
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for column, label in LINES.items():
        axes.plot(tokens, [float(row[column]) for row in rows], label=label, linewidth=1.4)
    for phase, part in groupby(zip(rows, tokens, strict=True), key=lambda pair: pair[0]["phase"]):
        start = next(part)[1]
        axes.axvline(start, color="0.8", linewidth=0.8, zorder=0)
        axes.text(start, 1.01, phase, transform=axes.get_xaxis_transform(), rotation=30, color="0.4")
    axes.set(xlabel="tokens trained on, million", ylabel="held-out loss, nats a token")
    axes.legend(frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
