"""OpenVINO GenAI's side of vs_peers.py: its continuous batching on the CPU, stepped by hand.

Run by an interpreter that has openvino-genai, which is all it needs besides numpy; knows nothing of Plait. Takes the
same job as peer_llama_cpp.py (but computes a shared prompt for each sequence) and prints the same lines. Prefill ends
when every sequence has its first token; what the others decoded meanwhile is not counted. It samples greedily: there
is no decoding of given tokens.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

VOCAB_USED = 256
"""Prompt tokens are drawn from the first ids of the vocabulary, past the special ones."""
MOST_BATCHED_TOKENS = 4096


def open_pipeline(job: dict[str, Any]) -> Any:
    most = max(sequences * (prompt + generate + 64) for prompt, generate, sequences in job["rows"])
    config = genai.SchedulerConfig()
    config.num_kv_blocks = most // 16 + 64
    config.max_num_batched_tokens = MOST_BATCHED_TOKENS
    config.max_num_seqs = max(row[2] for row in job["rows"])
    config.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": job["threads"]}
    return genai.ContinuousBatchingPipeline(job["model"], config, "CPU", properties)


def measure(pipeline: Any, row: list[int]) -> tuple[float, float, int]:
    """Seconds of prefill and of decode, and the tokens decoded in the latter."""
    prompt, generate, sequences = row
    rng = np.random.default_rng(0)
    prompts = rng.integers(3, VOCAB_USED, (sequences, 1, prompt), np.int64)
    config = genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = generate + 1
    config.ignore_eos, config.do_sample = True, False
    start = time.perf_counter()
    handles = [pipeline.add_request(i, ov.Tensor(ids), config) for i, ids in enumerate(prompts)]
    counts = [0] * sequences
    while not all(counts):
        pipeline.step()
        _collect(handles, counts)
    middle, before = time.perf_counter(), sum(counts)
    while pipeline.has_non_finished_requests():
        pipeline.step()
        _collect(handles, counts)
    end = time.perf_counter()
    _collect(handles, counts)
    return middle - start, end - middle, sum(counts) - before


def _collect(handles: list[Any], counts: list[int]) -> None:
    for i, handle in enumerate(handles):
        while handle.can_read():
            counts[i] += sum(len(output.generated_ids) for output in handle.read().values())


def main() -> None:
    job = json.loads(sys.argv[1])
    pipeline = open_pipeline(job)
    print(json.dumps({"version": f"openvino-genai {genai.__version__}"}), flush=True)
    for row in job["rows"]:
        measure(pipeline, [min(row[0], 64), min(row[1], 16), row[2]])
        times = [measure(pipeline, row) for _ in range(job["repeat"])]
        t_pp, t_tg, decoded = (statistics.median(values) for values in zip(*times, strict=True))
        prompt, generate, sequences = row
        rates = {"speed_pp": prompt * sequences / t_pp, "speed_tg": decoded / t_tg if t_tg else 0.0}
        print(
            json.dumps({"pp": prompt, "tg": generate, "pl": sequences, "t_pp": t_pp, "t_tg": t_tg, **rates}), flush=True
        )


if __name__ == "__main__":
    main()
