"""How long the 8B shape takes to start on a GPU with random weights: cold (no kernel compiled), then warm.

    PYTHONPATH=src python benchmarks/gpu_start.py [--smoke] [--repeat N] [--in-process [--one-by-one]]

Seconds from the command until `plait serve` is ready, and of them what its log tells of: weights, kernels compiled side
by side, steps captured; `other` is the rest (interpreter, imports, CUDA, tokenizer, processes). With `--in-process` an
`LLM` in a process of its own instead of a server; `--one-by-one` then compiles every kernel where it is first launched.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu_server import gpu_server
from gpu_shapes import LLAMA_8B, SMALL, write_model

PHASES = {
    "weights": r"weights prepared in ([\d.]+) s",
    "compile": r"\d+ kernels compiled side by side in ([\d.]+) s",
    "capture": r"\d+ steps captured in ([\d.]+) s",
}
CHILD = """
import logging, sys
logging.basicConfig(level=logging.WARNING)
logging.getLogger("plait").setLevel(logging.INFO)
from plait import LLM
from plait.ops.cuda import compiling
compiling.SIDE_BY_SIDE = sys.argv[2] == "side"
LLM(sys.argv[1], device="cuda", load_format="random").close()
"""


def phases(lines: tuple[str, ...], total: float) -> dict[str, float]:
    """Seconds by phase; what a start had not to do is 0."""
    found = {}
    for name, pattern in PHASES.items():
        found[name] = sum(float(match[1]) for line in lines if (match := re.search(pattern, line)))
    return {"total": total} | found | {"other": total - sum(found.values())}


def served(folder: Path, cache: Path) -> dict[str, float]:
    with gpu_server(folder, "-v", kernel_cache=cache) as server:
        return phases(server.lines, server.seconds)


def in_process(folder: Path, cache: Path, how: str) -> dict[str, float]:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder), how], capture_output=True, text=True, check=False,
                          env=os.environ | {"TRITON_CACHE_DIR": str(cache)})  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return phases(tuple(done.stderr.splitlines()), time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small shape")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--one-by-one", action="store_true")
    args = parser.parse_args()
    if args.one_by_one and not args.in_process:
        parser.error("--one-by-one needs --in-process: a server has no such switch")
    folder = write_model(Path(tempfile.gettempdir()) / "plait-gpu", SMALL if args.smoke else LLAMA_8B)
    how = "one" if args.one_by_one else "side"
    for number in range(args.repeat):
        with tempfile.TemporaryDirectory() as cache:
            for name in ("cold", "warm"):
                seen = in_process(folder, Path(cache), how) if args.in_process else served(folder, Path(cache))
                print(f"{number} {name}: " + "  ".join(f"{key} {s:5.1f}" for key, s in seen.items()), flush=True)


if __name__ == "__main__":
    main()
