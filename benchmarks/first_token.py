"""Seconds from starting `plait run` to its first token, and its peak memory: a process each time, several runs.

    python benchmarks/first_token.py [--runs 7] [--model FILE] [--warm MIB] [options of plait run]

Without a model the bundled one. Prints every run and the medians. The reader sees a token when it reaches the pipe, so
imports, opening the file, preparing the weights and the prompt are all in the figure.

`--warm`: before each run another process uses so much memory. A virtual machine may have given unused memory back to
its host, and then the first touch of a page costs some six microseconds: that is a property of the machine, larger than
all the rest of a start.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import subprocess
import sys
import time

PROMPT = "Once upon a time"
HUGE = 2 << 20


def first_token(options: list[str]) -> tuple[float, float]:
    """Seconds to the first token, and the process's peak resident memory in MiB. The prompt itself is printed first and
    does not count."""
    command = [sys.executable, "-m", "plait", "run", "-p", PROMPT, "-n", "8", "-s", "1", *options]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    seen = b""
    while len(seen) <= len(PROMPT):
        part = process.stdout.read1(4096)
        if not part:
            raise SystemExit("plait run ended without a token; run it by hand to see why")
        seen += part
    seconds = time.perf_counter() - start
    process.stdout.read()
    _, process.returncode, usage = os.wait4(process.pid, 0)
    return seconds, usage.ru_maxrss / 1024


def use_memory(mib: int) -> None:
    """Touch so much memory in a process of its own, and free it."""
    if os.fork():
        os.wait()
        return
    with mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, len(memory), HUGE):
            memory[at] = 1
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--model")
    parser.add_argument("--warm", type=int, metavar="MIB", default=0)
    given, options = parser.parse_known_args()
    if given.model:
        options = ["-m", given.model, *options]
    runs = []
    for _ in range(given.runs):
        if given.warm:
            use_memory(given.warm)
        runs.append(first_token(options))
    times, peaks = [seconds for seconds, _ in runs], [peak for _, peak in runs]
    print("first token after", ", ".join(f"{t:.2f}" for t in times), "s")
    print(f"median {statistics.median(times):.2f} s, slowest {max(times):.2f} s")
    print(f"peak memory: median {statistics.median(peaks):.0f} MiB, most {max(peaks):.0f} MiB")


if __name__ == "__main__":
    main()
