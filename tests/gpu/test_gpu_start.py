"""A first start on a GPU: what is compiled side by side is all that the warm-up launches, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

START = """
import json, logging, sys
import triton
from plait import LLM
from plait.ops.cuda import compiling

compiling.SIDE_BY_SIDE = sys.argv[1] == "side"
logging.getLogger("plait").setLevel(logging.INFO)
told, seen = [], {True: [], False: []}
handler = logging.Handler()
handler.emit = lambda record: told.append(record.getMessage())
logging.getLogger("plait").addHandler(handler)
triton.knobs.compilation.listener = lambda *, src, cache_hit, **rest: seen[cache_hit].append(src.name)
llm = LLM(device="cuda", n_parallel=64, n_batch=256)
print(json.dumps({"found": seen[True], "compiled": seen[False], "told": told}))
llm.close()
"""


@pytest.fixture(autouse=True)
def _only_on_a_gpu(device: str) -> None:
    if not device.startswith("cuda"):
        pytest.skip("kernels are compiled for a GPU alone")


def start(cache: Path, how: str) -> Any:
    done = subprocess.run([sys.executable, "-c", START, how], capture_output=True, text=True, timeout=280,
                          env=os.environ | {"TRITON_CACHE_DIR": str(cache)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_warm_up_compiles_nothing(tmp_path: Path) -> None:
    cold = start(tmp_path, "side")
    assert not cold["compiled"]
    assert "_draw" in cold["found"]
    told = next(line for line in cold["told"] if "kernels compiled side by side" in line)
    assert int(told.split()[0]) > len(cold["found"]), "those of shared beginnings are compiled, and not launched yet"
    warm = start(tmp_path, "side")
    assert not warm["compiled"]
    assert not any("side by side" in line for line in warm["told"])


def test_the_same_kernels_are_compiled_one_by_one(tmp_path: Path) -> None:
    alone = start(tmp_path, "one")
    assert alone["compiled"]
    assert not start(tmp_path, "side")["compiled"]
    assert not any("side by side" in line for line in alone["told"])
