"""llama-server's side of serving.py: the server of the package xllamacpp, until its input ends.

    python peer_llama_server.py '{"model": "m.gguf", "threads": 2, "parallel": 32, "context": 16384}'

prints its port. `context` is that of all slots together.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import xllamacpp


def start(job: dict[str, Any]) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = job["model"]
    params.n_parallel = job["parallel"]
    params.cont_batching = True
    params.n_ctx = job["context"]
    params.n_batch, params.n_ubatch = 2048, 512
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
    params.n_threads_http = job.get("http_threads", 140)  # each stream holds one
    params.port = 0
    params.verbosity = -1
    params.kv_unified = True
    return xllamacpp.Server(params)


def main() -> None:
    server = start(json.loads(sys.argv[1]))
    print(f"address {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
