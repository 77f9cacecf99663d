"""Seconds to open a GGUF file with a large vocabulary: ours, and the `gguf` package's reader beside it.

python benchmarks/gguf_open.py [--tokens 128256] [--merges 280147] [--repeat 5] [--oracle]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from plait.formats.open import open_model


def write_file(path: Path, n_tokens: int, n_merges: int) -> None:
    """A model of 300 small tensors and a vocabulary of random words, scores, types and merges."""
    draw = random.Random(0)

    def word() -> str:
        return draw.choice("Ġ▁a") + "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(1, 10)))

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([word() for _ in range(n_tokens)])
    writer.add_token_scores([-float(i) for i in range(n_tokens)])
    writer.add_token_types([1] * n_tokens)
    writer.add_token_merges([f"{word()} {word()}" for _ in range(n_merges)])
    for layer in range(300):
        writer.add_tensor(f"blk.{layer}.weight", np.zeros((32, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def best_of(repeat: int, action: Callable[[], object]) -> str:
    """The least wall and CPU times of `repeat` runs."""
    wall, cpu = [], []
    for _ in range(repeat):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        action()
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
    return f"{min(wall):.3f} s, of the CPU {min(cpu):.3f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128_256)
    parser.add_argument("--merges", type=int, default=280_147)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--oracle", action="store_true", help="also time the gguf package (slow)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write_file(path, args.tokens, args.merges)
        print(f"{args.tokens} tokens, {args.merges} merges, {path.stat().st_size / 1e6:.1f} MB, best of {args.repeat}")
        print(f"plait  {best_of(args.repeat, lambda: open_model(path))}")
        if args.oracle:
            print(f"gguf   {best_of(1, lambda: gguf.GGUFReader(path))}")


if __name__ == "__main__":
    main()
