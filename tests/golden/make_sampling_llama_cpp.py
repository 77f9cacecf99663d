"""Writes sampling_llama_cpp.json: what llama.cpp's own samplers leave of random candidates, stage by stage.

    python tests/golden/make_sampling_llama_cpp.py

needs the package llama-cpp-python (made with 0.3.36) on x86-64 Linux; nothing else of the project does. DRY is made by
llama.cpp's own testing constructor, which takes breakers as token ids; it is C++, so its argument is laid out here.
"""

from __future__ import annotations

import ctypes
import json
import random
from pathlib import Path
from typing import Any

import llama_cpp

VOCAB = 24
DRY_TESTING = "_Z30llama_sampler_init_dry_testingffiiRKSt6vectorIS_IiSaIiEESaIS1_EE"


class Vector(ctypes.Structure):
    """std::vector as libstdc++ lays it out."""

    _fields_ = (("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p))


def vector_of(array: Any) -> Vector:
    begin = ctypes.addressof(array)
    return Vector(begin, begin + ctypes.sizeof(array), begin + ctypes.sizeof(array))


def make_dry(p: dict[str, Any]) -> Any:
    library = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libllama.so"))))
    function = getattr(library, DRY_TESTING)
    function.restype = llama_cpp.llama_sampler_init_dry.restype
    function.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(Vector)]
    rows = [(ctypes.c_int32 * len(b))(*b) for b in p["breakers"]]
    inner = (Vector * len(rows))(*[vector_of(row) for row in rows])
    outer = vector_of(inner)
    return function(p["multiplier"], p["base"], p["allowed_length"], p["last_n"], ctypes.byref(outer))


def make(stage: str, p: dict[str, Any]) -> Any:
    match stage:
        case "penalties":
            return llama_cpp.llama_sampler_init_penalties(
                VOCAB, p["last_n"], p["repeat"], p["frequency"], p["presence"]
            )
        case "dry":
            return make_dry(p)
        case "top_k":
            return llama_cpp.llama_sampler_init_top_k(p["k"])
        case "typ_p":
            return llama_cpp.llama_sampler_init_typical(p["p"], 1)
        case "top_p":
            return llama_cpp.llama_sampler_init_top_p(p["p"], 1)
        case "min_p":
            return llama_cpp.llama_sampler_init_min_p(p["p"], 1)
        case "temperature":
            return llama_cpp.llama_sampler_init_temp(p["t"])
        case "top_n_sigma":
            return llama_cpp.llama_sampler_init_top_n_sigma(p["n"])
        case "xtc":  # always takes part
            return llama_cpp.llama_sampler_init_xtc(1.0, p["threshold"], 1, 0)
        case "mirostat":
            return llama_cpp.llama_sampler_init_mirostat(VOCAB, 0, p["tau"], 0.1, 100)
        case "mirostat_v2":
            return llama_cpp.llama_sampler_init_mirostat_v2(0, p["tau"], 0.1)
    raise ValueError(stage)


def candidates(logits: list[float]) -> tuple[Any, Any]:
    data = (llama_cpp.llama_token_data * len(logits))(*[(i, x, 0.0) for i, x in enumerate(logits)])
    return data, llama_cpp.llama_token_data_array(data, len(logits), -1, False)


def apply(sampler: Any, array: Any, history: list[int]) -> list[list[float]]:
    """Entries [token, logit] that are left, by token; top-n-sigma leaves some with -inf, which is the same as not."""
    for token in history:
        llama_cpp.llama_sampler_accept(sampler, token)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    left = sorted((array.data[i].id, array.data[i].logit) for i in range(array.size) if array.data[i].logit > -1e30)
    return [[token, round(logit, 6)] for token, logit in left]


def random_stage(stage: str, rng: random.Random) -> dict[str, Any]:
    match stage:
        case "penalties":
            return {
                "last_n": rng.choice([4, 16, 64]), "repeat": rng.choice([1.0, 1.1, 1.5]),
                "frequency": rng.choice([0.0, 0.25]), "presence": rng.choice([0.0, -0.5, 0.75]),
            }  # fmt: skip
        case "dry":
            return {
                "multiplier": rng.choice([0.5, 0.8]), "base": rng.choice([1.25, 1.75]),
                "allowed_length": rng.choice([0, 1, 2, 3]), "last_n": rng.choice([6, 20, 64]),
                "breakers": [[rng.randrange(3) for _ in range(rng.randint(1, 2))] for _ in range(rng.randint(0, 2))],
            }  # fmt: skip
        case "top_k":
            return {"k": rng.choice([0, 1, 5, 12, 40])}
        case "temperature":
            return {"t": rng.choice([0.25, 0.8, 1.5])}
        case "top_n_sigma":
            return {"n": rng.choice([-1.0, 0.0, 0.5, 1.0, 2.0])}
        case "xtc":
            return {"threshold": rng.choice([0.01, 0.05, 0.1, 0.3, 0.6])}
        case "mirostat" | "mirostat_v2":
            return {"tau": rng.choice([0.25, 0.5, 1.0, 1.5, 2.0])}
    return {"p": rng.choice([0.03, 0.2, 0.55, 0.9, 0.97, 1.0])}


def main() -> None:
    rng = random.Random(20261123)
    chain = ["penalties", "dry", "top_k", "typ_p", "top_p", "min_p", "temperature"]
    chains = [[stage] for stage in chain for _ in range(8)] + [["dry"]] * 16
    chains += [chain] * 8 + [rng.sample(chain, len(chain)) for _ in range(8)]
    rarer = [[stage] for stage in ("top_n_sigma", "xtc", "mirostat", "mirostat_v2") for _ in range(10)]
    chains += rarer + [["top_n_sigma", "min_p", "xtc", "temperature"]] * 6
    cases = []
    for stages in chains:
        # Three decimals, all different: what llama.cpp does with ties is not defined.
        logits = [x / 1000 for x in rng.sample(range(-5000, 5000), VOCAB)]
        history = [rng.randrange(rng.choice([2, 3, 6])) for _ in range(rng.choice([0, 3, 15, 40]))]
        _data, array = candidates(logits)
        steps = []
        for stage in stages:
            params = random_stage(stage, rng)
            steps.append({"stage": stage, "params": params, "left": apply(make(stage, params), array, history)})
        cases.append({"logits": logits, "history": history, "steps": steps})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    header = json.dumps(f"llama-cpp-python {llama_cpp.__version__}")
    path = Path(__file__).with_name("sampling_llama_cpp.json")
    path.write_text(f'{{"made_with":{header},"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
