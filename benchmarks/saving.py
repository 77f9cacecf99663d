"""Where the small benchmarks put their results: benchmarks/results/DATE-NAME.json, with the facts of the machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import ceilings

RESULTS = Path(__file__).resolve().parent / "results"


def save(name: str, figures: dict[str, object], folder: Path = RESULTS) -> Path:
    """Write the figures; returns where they lie."""
    path = folder / f"{datetime.now(UTC):%Y-%m-%d}-{name}.json"
    path.write_text(json.dumps({"machine": ceilings.machine_facts(), **figures}, indent=1) + "\n")
    return path
