"""A full queue refuses before anything of a request is read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.support.servers import start_server

LONG = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True}
NONSENSE = {"prompt": {"no": "prompt"}}


def test_while_the_queue_is_full_nobody_is_looked_at() -> None:
    """A body that is no request is refused by the queue's bound like any other."""
    with start_server("--parallel", "1", "--max-queue-requests", "1") as server, ThreadPoolExecutor(4) as pool:
        assert server.post("/v1/completions", NONSENSE)[0] == 400
        for _ in range(4):
            pool.submit(server.post, "/v1/completions", LONG)
        for _ in range(100):  # the look back is short, and a slow machine may miss it
            first, _, _ = server.post("/v1/completions", LONG | {"max_tokens": 1})
            status, headers, answer = server.post("/v1/completions", NONSENSE)
            if (first, status) == (503, 503):
                break
        assert (status, answer["error"]["code"]) == (503, "queue_full")
        assert int(headers["retry-after"]) >= 1
