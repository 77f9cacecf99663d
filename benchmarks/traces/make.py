"""Makes the sample traces beside this file: `python benchmarks/traces/make.py`. They are synthetic, see README.md.

The formats are Mooncake's and BurstGPT's; the requests come from `plait.sim.load`.
"""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path

from plait.control.steptime import StepTime
from plait.sim.load import make_trace, quiet_to_peak
from plait.sim.trace import MOONCAKE_BLOCK, TraceRequest

HERE = Path(__file__).parent
MACHINE = StepTime(step=0.00035, decode_row=0.0001, prompt_token=0.00008, key_read=2e-8)
REQUESTS = 200


def mooncake(requests: list[TraceRequest]) -> str:
    """One hash for each block of 512 tokens and all before it, numbered in order of appearance."""
    numbers: dict[tuple[int, ...], int] = {}
    lines = []
    for request in requests:
        ids = request.tokens()
        ends = range(MOONCAKE_BLOCK, len(ids) + MOONCAKE_BLOCK, MOONCAKE_BLOCK)
        hashes = [numbers.setdefault(ids[:end], len(numbers)) for end in ends]
        entry = {
            "timestamp": round(1000 * request.at_s),
            "input_length": len(ids),
            "output_length": request.output_tokens,
            "hash_ids": hashes,
        }
        lines.append(json.dumps(entry))
    return "\n".join([*lines, ""])


def burstgpt(requests: list[TraceRequest], file: Path) -> None:
    with file.open("w", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"])
        for number, request in enumerate(requests):
            output = 0 if number % 40 == 39 else request.output_tokens  # the real trace has failures, too
            kind = "API log" if request.tenant in ("code", "documents", "short") else "Conversation log"
            prompt = request.prompt_tokens
            rows.writerow([round(request.at_s, 3), "Synthetic", prompt, output, prompt + output, kind])


def sample(kind: str, bursty: bool) -> list[TraceRequest]:
    return list(islice(make_trace(quiet_to_peak(kind, 0, bursty=bursty), MACHINE), REQUESTS))


if __name__ == "__main__":
    (HERE / "sample-mooncake.jsonl").write_text(mooncake(sample("documents", bursty=False)))
    burstgpt(sample("mixed", bursty=True), HERE / "sample-burstgpt.csv")
