"""The HTTP server: what a streamed token costs it, and the whole of it beside llama-server, with many clients.

    python benchmarks/serving.py fake [--clients 64] [--save]
    python benchmarks/serving.py peers MODEL.gguf --llama-python PYTHON [--clients 1,8,32,128] [--pairs 3] [--save]
    python benchmarks/serving.py latency MODEL.gguf [--requests 60] [--save]

`fake` has an engine that costs nothing: tokens per second of CPU time of the server's process, one token an event.
`peers` plays a closed loop of streaming /v1/completions to both servers in turn; PYTHON has the package xllamacpp,
whose wheels are built for AVX2. `latency` is one client through HTTP beside the engine in this process.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median
from typing import Any

import saving
from serving_processes import fake_server, llama_server, plait_server, play

PROMPT = "Story {n}. " + "Once upon a time there was a small boat that wanted to see the wide and windy sea. " * 3
SAMPLING = {"max_tokens": 64, "temperature": 0, "ignore_eos": True, "stream": True}
COMPLETIONS = "/v1/completions"
FAKE_BODIES = {
    COMPLETIONS: {"prompt": "Once {n}"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "{n}"}]},
}
FAKE_TOKENS = 500
LLAMA_SLOTS, LLAMA_CONTEXT, LLAMA_THREADS = 32, 32 * 512, 2


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- fake -----------------------------------------------------------------------------------------


def fake(args: argparse.Namespace) -> dict[str, object]:
    rows = []
    with fake_server() as (port, cpu_seconds):
        for turn in range(args.pairs):
            for path, body in FAKE_BODIES.items():
                job = {"port": port, "path": path, "clients": int(args.clients), "requests": 2 * int(args.clients)}
                before = cpu_seconds()
                seen = play(
                    {**job, "start": 0, "counting": True, "body": {**body, "max_tokens": FAKE_TOKENS, "stream": True}}
                )
                spent = cpu_seconds() - before
                tokens = seen["completed"] * FAKE_TOKENS
                rows.append({"path": path, "clients": int(args.clients), "turn": turn, "tokens": tokens,
                             "cpu_s": spent, "wall_s": seen["seconds"], "per_cpu_s": tokens / spent})  # fmt: skip
                print(f"{path:24}{tokens:8} tokens{rows[-1]['per_cpu_s']:10.0f}  a CPU second")
    return {"what": "tokens per CPU second of the server process, fake engine's own cost included", "rows": rows}


# --- peers ----------------------------------------------------------------------------------------


def measure(port: int, clients: int, start: int) -> dict[str, float]:
    requests = max(6, 2 * clients if clients <= 32 else clients)
    job = {"port": port, "path": COMPLETIONS, "clients": clients, "requests": requests, "start": start}
    seen = play({**job, "body": {"prompt": PROMPT, **SAMPLING}})
    if seen["completed"] != requests:
        raise SystemExit(f"{requests - seen['completed']} of {requests} requests did not end")
    first, gaps = seen["first_ms"], seen["gaps_ms"]
    return {
        "tokens_s": requests * SAMPLING["max_tokens"] / seen["seconds"],
        "ttft_p50_ms": percentile(first, 0.5), "ttft_p95_ms": percentile(first, 0.95),
        "itl_p50_ms": percentile(gaps, 0.5), "itl_p95_ms": percentile(gaps, 0.95),
    }  # fmt: skip


def peers(args: argparse.Namespace) -> dict[str, object]:
    """A prompt's number is new each time, so no server finds it in its cache."""
    setting = {"model": args.model, "threads": LLAMA_THREADS, "parallel": LLAMA_SLOTS, "context": LLAMA_CONTEXT}
    rows: list[dict[str, Any]] = []
    start = 1000
    with plait_server(args.model) as ours, llama_server(args.llama_python, setting) as theirs:
        ports = {"plait": ours, "llama-server": theirs}
        for port in ports.values():
            measure(port, 1, start)
        for clients in [int(text) for text in args.clients.split(",")]:
            for pair in range(args.pairs):
                for name, port in ports.items():
                    start += 1000
                    row = {"server": name, "clients": clients, "pair": pair, "load": os.getloadavg()[0]}
                    rows.append(row | measure(port, clients, start))
            report(rows, clients)
    about = "llama-server from xllamacpp's wheel, which has AVX2 and no AVX-512"
    return {"about": about, "llama": setting | {"model": ""}, "rows": rows, "load_after": os.getloadavg()[0]}


def report(rows: list[dict[str, Any]], clients: int) -> None:
    """Medians of both, and the median of the pairs' ratios."""
    ours = [row for row in rows if row["clients"] == clients and row["server"] == "plait"]
    theirs = [row for row in rows if row["clients"] == clients and row["server"] != "plait"]
    for key in ("tokens_s", "ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms", "itl_p95_ms"):
        ratio = median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True))
        values = [median(row[key] for row in side) for side in (ours, theirs)]
        print(f"{clients:5} {key:14}{values[0]:10.1f}{values[1]:10.1f}{ratio:8.2f}", flush=True)


# --- latency --------------------------------------------------------------------------------------


def latency(args: argparse.Namespace) -> dict[str, object]:
    """One request each way, in turn."""
    from plait import LLM

    found: dict[str, dict[str, list[float]]] = {way: {"first_ms": [], "gaps_ms": []} for way in ("http", "in process")}
    with plait_server(args.model) as port, LLM(args.model) as llm:
        for number in range(args.requests + 2):
            job = {"port": port, "path": COMPLETIONS, "clients": 1, "requests": 1, "start": 1000 + number}
            ways = {
                "http": play({**job, "body": {"prompt": PROMPT, **SAMPLING}}),
                "in process": _in_process(llm, PROMPT.replace("{n}", str(1000 + number))),
            }
            if number >= 2:  # the first two warm up
                for way, seen in ways.items():
                    found[way]["first_ms"] += seen["first_ms"]
                    found[way]["gaps_ms"] += seen["gaps_ms"]
    rows = []
    for way, lists in found.items():
        row = {f"{kind}_p{p}": percentile(lists[kind], p / 100) for kind in lists for p in (50, 99)}
        rows.append({"way": way, **row})
        print(way, {key: round(value, 2) for key, value in row.items()})
    return {"requests": args.requests, "rows": rows}


def _in_process(llm: Any, prompt: str) -> dict[str, Any]:
    from plait import SamplingParams

    params = SamplingParams(max_tokens=SAMPLING["max_tokens"], temperature=0, ignore_eos=True)
    last = began = time.perf_counter()
    gaps = []
    for _ in llm.stream(prompt, params):
        now = time.perf_counter()
        gaps.append((now - last) * 1000)
        last = now
    return {"first_ms": gaps[:1], "gaps_ms": gaps[1:], "seconds": last - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["fake", "peers", "latency"])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--clients")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--llama-python")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    args.clients = args.clients or ("64" if args.mode == "fake" else "1,8,32,128")
    if args.mode == "peers" and not (args.model and args.llama_python):
        parser.error("peers needs a model and --llama-python")
    figures = {"fake": fake, "peers": peers, "latency": latency}[args.mode](args)
    if args.save:
        print(saving.save(f"serving-{args.mode}", figures))


if __name__ == "__main__":
    main()
