"""Seconds from starting `plait run` to its first token on the bundled model: a process each time, several runs.

    python benchmarks/first_token.py [runs]

Prints every run and the median. The reader sees a token when it reaches the pipe, so imports, opening the file,
preparing the weights and the prompt are all in the figure.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

PROMPT = "Once upon a time"


def first_token_seconds() -> float:
    """One run; the prompt itself is printed first and does not count."""
    command = [sys.executable, "-m", "plait", "run", "-p", PROMPT, "-n", "8", "-s", "1"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        seen = b""
        while len(seen) <= len(PROMPT):
            part = process.stdout.read1(4096)
            if not part:
                raise SystemExit("plait run ended without a token; run it by hand to see why")
            seen += part
        seconds = time.perf_counter() - start
        process.stdout.read()
    return seconds


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    times = [first_token_seconds() for _ in range(runs)]
    print("first token after", ", ".join(f"{t:.2f}" for t in times), "s")
    print(f"median {statistics.median(times):.2f} s, slowest {max(times):.2f} s")


if __name__ == "__main__":
    main()
