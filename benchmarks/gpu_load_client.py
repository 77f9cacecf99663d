"""One client process of gpu_load.py: streams its requests at their seconds over raw sockets.

    python gpu_load_client.py PORT TIME < requests.json

TIME is when second 0 is. Prints for each request: seconds to the first token, gaps between events, tokens, its end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any


def body_of(asked: dict[str, Any]) -> bytes:
    body = {"prompt": asked["prompt"], "max_tokens": asked["max_tokens"], "temperature": 0.6, "stream": True,
            "ignore_eos": True, "stream_options": {"include_usage": True}}  # fmt: skip
    raw = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


async def ask(port: int, begin: float, asked: dict[str, Any]) -> dict[str, Any]:
    """One request. The gap of an event that brings several tokens counts for each: none is hidden in it."""
    raw = body_of(asked)
    await asyncio.sleep(max(0.0, begin + asked["at"] - time.time()))
    sent = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(raw)
    first, last, gaps, tokens = 0.0, 0.0, [], 0
    async for raw_line in reader:
        if not raw_line.startswith(b"data: {"):
            continue
        now = time.perf_counter()
        event = json.loads(raw_line[6:])
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        elif not first:
            first = last = now
        elif event.get("choices") and event["choices"][0].get("text"):
            gaps.append(now - last)
            last = now
    writer.close()
    return {"first": first - sent, "gaps": gaps, "tokens": tokens, "wanted": asked["max_tokens"],
            "end": time.time() - begin}  # fmt: skip


async def main() -> list[dict[str, Any]]:
    port, begin = int(sys.argv[1]), float(sys.argv[2])
    return await asyncio.gather(*(ask(port, begin, asked) for asked in json.load(sys.stdin)))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
