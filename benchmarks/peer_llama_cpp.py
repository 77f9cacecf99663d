"""llama.cpp's side of vs_peers.py: prefill and decode rates through its low-level API, as llama-batched-bench does it.

Run by an interpreter that has llama-cpp-python, which is all it needs besides numpy; knows nothing of Plait.

    python peer_llama_cpp.py '{"model": "m.gguf", "threads": 2, "rows": [[128, 64, 4]], "repeat": 1, "setting": {}}'

prints one JSON object a line: the version, then each row. With `"shared": true` all sequences have one prompt, which
is computed once (llama-batched-bench's -pps). Settings: `repack` (its repacked weights), `ubatch` (tokens
computed at once), `unified` (one KV buffer for all sequences).
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from typing import Any

import llama_cpp.llama_cpp as ll
import numpy as np

N_BATCH = 2048
PADDING = 256
WARM_UP_DECODES = 16


def open_model(path: str, repack: bool) -> Any:
    params = ll.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = repack
    model = ll.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    return model


def open_context(model: Any, job: dict[str, Any], row: list[int]) -> Any:
    """A context with just the room that the row takes: nothing is to be gained from more."""
    prompt, generate, sequences = row
    params = ll.llama_context_default_params()
    params.n_ctx = sequences * (-(-(prompt + generate) // PADDING) * PADDING)
    params.n_batch = N_BATCH
    params.n_ubatch = job["setting"].get("ubatch", 512)
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = job["threads"]
    params.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.kv_unified = job["setting"].get("unified", False)
    params.no_perf = True
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise SystemExit(f"llama.cpp makes no context for {row}")
    return context


class Tokens:
    """Arrays of a llama_batch, one token a row, and views of a part of them."""

    def __init__(self, tokens: np.ndarray[Any, Any], positions: Any, sequences: Any, logits: Any) -> None:
        self.token = np.ascontiguousarray(tokens, np.int32)
        self.pos = np.ascontiguousarray(positions, np.int32)
        self._seq = np.ascontiguousarray(sequences, np.int32)
        self._logits = np.ascontiguousarray(logits, np.int8)
        self._count = np.ones(len(self.token), np.int32)
        self._seq_ptr = (self._seq.ctypes.data + 4 * np.arange(len(self.token))).astype(np.uintp)

    def decode(self, context: Any, start: int, end: int) -> None:
        def part(array: np.ndarray[Any, Any], kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data + start * array.itemsize, kind)

        kinds = dict(ll.llama_batch._fields_)
        batch = ll.llama_batch(
            end - start,
            part(self.token, kinds["token"]),
            None,
            part(self.pos, kinds["pos"]),
            part(self._count, kinds["n_seq_id"]),
            part(self._seq_ptr, kinds["seq_id"]),
            part(self._logits, kinds["logits"]),
        )
        code = ll.llama_decode(context, batch)
        if code:
            raise SystemExit(f"llama_decode returned {code}")


def measure(context: Any, vocab: int, row: list[int], shared: bool, decodes: int | None = None) -> tuple[float, float]:
    """Seconds of prefill and of decode."""
    prompt, generate, sequences = row
    generate = generate if decodes is None else min(decodes, generate)
    rng = np.random.default_rng(0)
    memory = ll.llama_get_memory(context)
    ll.llama_memory_clear(memory, False)
    prompts = 1 if shared else sequences
    positions = np.tile(np.arange(prompt), prompts)
    batch = Tokens(
        rng.integers(0, vocab, prompts * prompt),
        positions,
        np.repeat(np.arange(prompts), prompt),
        positions == prompt - 1,
    )
    given = rng.integers(0, vocab, (generate, sequences))
    start = time.perf_counter()
    for first in range(0, prompts * prompt, N_BATCH):
        batch.decode(context, first, min(first + N_BATCH, prompts * prompt))
    for other in range(prompts, sequences):
        ll.llama_memory_seq_cp(memory, 0, other, -1, -1)
    ll.llama_synchronize(context)
    middle = time.perf_counter()
    step = Tokens(np.zeros(sequences), np.full(sequences, prompt), np.arange(sequences), np.ones(sequences))
    for tokens in given:
        step.token[:] = tokens
        step.decode(context, 0, sequences)
        step.pos += 1
    ll.llama_synchronize(context)
    return middle - start, time.perf_counter() - middle


def main() -> None:
    job = json.loads(sys.argv[1])
    silent = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(silent, ctypes.c_void_p(0))
    ll.llama_backend_init()
    model = open_model(job["model"], job["setting"].get("repack", True))
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    import llama_cpp

    print(json.dumps({"version": f"llama-cpp-python {llama_cpp.__version__}"}), flush=True)
    for row in job["rows"]:
        context = open_context(model, job, row)
        shared = job["shared"]
        measure(context, vocab, [min(row[0], 64), row[1], row[2]], shared, WARM_UP_DECODES)
        times = [measure(context, vocab, row, shared) for _ in range(job["repeat"])]
        t_pp, t_tg = (statistics.median(values) for values in zip(*times, strict=True))
        prompt, generate, sequences = row
        computed = prompt if shared else prompt * sequences
        rates = {"speed_pp": computed / t_pp, "speed_tg": generate * sequences / t_tg}
        print(
            json.dumps({"pp": prompt, "tg": generate, "pl": sequences, "t_pp": t_pp, "t_tg": t_tg, **rates}), flush=True
        )
        ll.llama_free(context)


if __name__ == "__main__":
    main()
