"""A mixed load on `plait serve` with the controller on: Poisson arrivals, prompts of 100 to 2,000 tokens, outputs of 50
to 500, over real sockets, streamed, from several client processes; latencies and goodput against the rate.

    PYTHONPATH=src python benchmarks/gpu_load.py [--rates 4,8,12,16,20] [--seconds 15] [--json FILE] [--svg FILE]

In time is a request whose first token came within --ttft and whose own 99th percentile of gaps is within --itl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu_load_chart import draw
from gpu_server import Started, gpu_server
from gpu_shapes import LLAMA_8B, SMALL, write_model

HERE = Path(__file__).resolve().parent
PROMPT, OUTPUT = (100, 2000), (50, 500)
START_S = 1.0
"""Clients begin together so much after they are told when."""


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, 100 * share)) if values else 0.0


def schedule(rate: float, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Requests at their seconds, the same for every run of a rate."""
    rng = np.random.default_rng(seed)
    found, at = [], 0.0
    while (at := at + rng.exponential(1 / rate)) < seconds:
        prompt = rng.integers(0, 4000, int(rng.integers(PROMPT[0], PROMPT[1] + 1))).tolist()
        found.append({"at": at, "prompt": prompt, "max_tokens": int(rng.integers(OUTPUT[0], OUTPUT[1] + 1))})
    return found


def play(port: int, asked: list[dict[str, Any]], clients: int) -> list[dict[str, Any]]:
    """What each request saw, from `clients` processes that share them in turn."""
    begin = time.time() + START_S + 0.02 * clients
    processes = []
    for number in range(clients):
        command = [sys.executable, str(HERE / "gpu_load_client.py"), str(port), str(begin)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked[number::clients]))
        process.stdin.close()
        processes.append(process)
    seen: list[dict[str, Any]] = []
    for process in processes:
        assert process.stdout is not None
        seen += json.loads(process.stdout.read())
        process.wait()
    return seen


def row_of(rate: float, seen: list[dict[str, Any]], ttft_s: float, itl_s: float) -> dict[str, Any]:
    """Percentiles over all requests and all gaps; goodput is requests in time a second of the load."""
    ended = [each for each in seen if each["tokens"] == each["wanted"]]
    gaps = [gap for each in ended for gap in each["gaps"]]
    first = [each["first"] for each in ended]
    good = [each for each in ended if each["first"] <= ttft_s and percentile(each["gaps"], 0.99) <= itl_s]
    lasted = max(each["end"] for each in seen)
    return {
        "rate": rate, "requests": len(seen), "ended": len(ended), "in_time": len(good),
        "goodput": rate * len(good) / len(seen), "lasted_s": lasted,
        "tokens_s": sum(each["tokens"] for each in seen) / lasted,
        "ttft_p50_ms": 1e3 * percentile(first, 0.5), "ttft_p99_ms": 1e3 * percentile(first, 0.99),
        "itl_p50_ms": 1e3 * percentile(gaps, 0.5), "itl_p99_ms": 1e3 * percentile(gaps, 0.99),
        "itl_max_ms": 1e3 * max(gaps, default=0.0),
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['rate']:5.1f}/s: {row['ended']}/{row['requests']} ended, goodput {row['goodput']:5.2f}/s, "
        f"{row['tokens_s']:6.0f} tokens/s, TTFT {row['ttft_p50_ms']:5.0f} {row['ttft_p99_ms']:6.0f} ms, "
        f"ITL {row['itl_p50_ms']:5.1f} {row['itl_p99_ms']:5.1f} (max {row['itl_max_ms']:.0f}) ms"
    )


def measure(server: Started, args: argparse.Namespace) -> list[dict[str, Any]]:
    play(server.port, schedule(6, 2, 0), args.clients)  # not counted: the first of their kind
    rows = []
    for rate in map(float, args.rates.split(",")):
        seen = play(server.port, schedule(rate, args.seconds, int(10 * rate)), args.clients)
        rows.append(row_of(rate, seen, args.ttft, args.itl))
        print(line(rows[-1]), flush=True)
    return rows


def highest(rows: list[dict[str, Any]], ttft_s: float, itl_s: float) -> float:
    """The highest rate whose percentiles keep both bounds; 0 for none."""
    kept = [r["rate"] for r in rows if r["ttft_p99_ms"] <= 1e3 * ttft_s and r["itl_p99_ms"] <= 1e3 * itl_s]
    return max(kept, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small shape")
    parser.add_argument("--rates", default="4,8,12,16,20")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--ttft", type=float, default=0.5)
    parser.add_argument("--itl", type=float, default=0.05)
    parser.add_argument("--warm-start", action="store_true", help="start a second time, with the kernels compiled")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    folder = write_model(Path(tempfile.gettempdir()) / "plait-gpu", SMALL if args.smoke else LLAMA_8B)
    with tempfile.TemporaryDirectory() as cache:
        starts = {}
        if args.warm_start:
            with gpu_server(folder, kernel_cache=Path(cache)) as server:
                starts["cold_s"] = server.seconds
                print(f"ready in {server.seconds:.1f} s with no kernel compiled (reach 20, vLLM 41)", flush=True)
        with gpu_server(folder, "--calibrate", "1", kernel_cache=Path(cache)) as server:
            starts["warm_s" if args.warm_start else "start_s"] = server.seconds
            print(
                f"ready in {server.seconds:.1f} s (reach 10 with compiled kernels), 1 s of it to calibrate", flush=True
            )
            rows = measure(server, args)
    best = highest(rows, args.ttft, args.itl)
    print(
        f"highest rate with TTFT p99 within {1e3 * args.ttft:.0f} ms and ITL p99 within {1e3 * args.itl:.0f}: {best}/s"
    )
    if args.json:
        found = {"starts": starts, "ttft_s": args.ttft, "itl_s": args.itl, "highest_rate": best, "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    if args.svg:
        args.svg.write_text(draw(rows, args.ttft, args.itl))


if __name__ == "__main__":
    main()
