"""What this machine can do at most, so that a kernel's speed can be read as a share of it.

    python benchmarks/ceilings.py [--threads 1,2] [--json]

Memory reading, int8 dot products and float32 multiply-adds come from ceilings.cpp, compiled for this very CPU where
there is a compiler; numpy's figures (its own loops, its own threads) are a second opinion, and the only one without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("ceilings.cpp")
NAMES = {
    "read_gb_s": "memory read, GB/s",
    "int8_gop_s": "int8 dot product, GOP/s",
    "f32_gflop_s": "float32 FMA, GFLOP/s",
    "numpy_read_gb_s": "numpy: sum of int64, GB/s",
    "numpy_f32_gflop_s": "numpy: float32 matrix product, GFLOP/s",
}


def machine_facts() -> dict[str, object]:
    """What one has to know to compare figures of two machines; None for what the system does not tell."""
    cpu = Path("/sys/devices/system/cpu")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_line("model name") or platform.processor() or platform.machine(),
        "cpu_family_model_stepping": "/".join(_cpu_line(k) or "?" for k in ("cpu family", "model\t", "stepping")),
        "cpu_features": sorted(_features()),
        "logical_cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "governor": _text(cpu / "cpu0/cpufreq/scaling_governor"),
        "huge_pages": _text(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "compiler": _compiler_version(),
        "python": platform.python_version(),
    }


def measure(threads: int, seconds: float = 0.3, mib: int = 512) -> dict[str, float]:
    """Ceilings with so many threads, by the names of `NAMES`; those of numpy where there is no compiler. `mib` is the
    memory each thread reads; it should be much more than the last-level cache."""
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(Path(folder))
        if program is None:
            return numpy_ceilings(seconds, mib)
        command = [str(program), str(threads), str(seconds), str(mib)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def compile_program(folder: Path) -> Path | None:
    """The compiled ceilings.cpp, or None where no compiler makes it."""
    compiler = _compiler()
    if compiler is None:
        return None
    program = folder / "ceilings"
    command = [compiler, "-O3", "-march=native", "-std=c++20", "-pthread", str(SOURCE), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return program if done.returncode == 0 else None


def numpy_ceilings(seconds: float, mib: int) -> dict[str, float]:
    """With numpy alone. Its sum runs on one thread, its matrix product on as many as its BLAS takes."""
    words = np.ones(mib * 2**17, np.int64)
    size = 1024
    a = np.full((size, size), 0.5, np.float32)
    return {
        "numpy_read_gb_s": words.nbytes / _fastest(lambda: words.sum(), seconds) / 1e9,
        "numpy_f32_gflop_s": 2 * size**3 / _fastest(lambda: a @ a, seconds) / 1e9,
    }


def _fastest(work: Callable[[], object], seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _compiler() -> str | None:
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def _compiler_version() -> str | None:
    compiler = _compiler()
    if compiler is None:
        return None
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.stdout else None


def _cpu_line(key: str) -> str | None:
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return None


def _features() -> set[str]:
    """Those that decide about kernels."""
    known = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "f16c", "fma", "asimddp", "i8mm"}
    return known & set((_cpu_line("flags") or _cpu_line("Features") or "").split())


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", default="1,2", help="how many threads, a list")
    parser.add_argument("--seconds", type=float, default=0.3, help="for one round; each figure is the best of five")
    parser.add_argument("--mib", type=int, default=512, help="memory that each thread reads")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        counts = [int(text) for text in args.threads.split(",")]
    except ValueError:
        parser.error(f"--threads is '{args.threads}'; give numbers as 1,2")
    if min(counts) < 1 or args.seconds <= 0 or args.mib < 1:
        parser.error("threads, seconds and MiB must be positive")
    facts = machine_facts()
    columns = {f"{n} thread{'s' * (n > 1)}": measure(n, args.seconds, args.mib) for n in counts}
    columns["numpy"] = numpy_ceilings(args.seconds, args.mib)
    if args.json:
        print(json.dumps({"machine": facts, "ceilings": columns}))
        return
    for name, value in facts.items():
        print(f"{name:28}{', '.join(value) if isinstance(value, list) else value}")
    print(f"\n| {'':40} | {' | '.join(f'{name:>10}' for name in columns)} |")
    print(f"|{'-' * 42}|{'|'.join('-' * 11 + ':' for _ in columns)}|")
    for name, text in NAMES.items():
        cells = [f"{values[name]:10.1f}" if name in values else " " * 10 for values in columns.values()]
        if any(cell.strip() for cell in cells):
            print(f"| {text:40} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
