"""Who is turned away, and who has waited for too long. Knows requests, bounds and the time it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush

from plait.errors import (
    DeadlineError,
    PlaitError,
    PromptTooLongError,
    QueueFullError,
    QueueTimeoutError,
    RequestError,
)
from plait.scheduler.limits import QueueBounds
from plait.scheduler.request import Request
from plait.scheduler.waiting import WaitingQueue
from plait.types import EngineRequest

LEAST_SWEPT = 64
"""Beside four for each open request (which has two at most) so many times are kept before others are thrown out."""


def check_bounds(request: EngineRequest, waiting: WaitingQueue, bounds: QueueBounds, now: float) -> None:
    """Raises `QueueFullError`. To be asked first of all, as it is what an overload meets: it looks at nothing else.
    A request that an engine had accepted before asks for no place."""
    if request.resume:
        return
    if bounds.max_requests and len(waiting) >= bounds.max_requests:
        problem = f"{len(waiting)} requests wait, and no more than {bounds.max_requests} may"
    elif bounds.max_tokens and len(waiting) and waiting.tokens + len(request.prompt) > bounds.max_tokens:
        problem = f"{waiting.tokens} tokens wait, and no more than {bounds.max_tokens} may"
    else:
        return
    oldest = waiting.oldest_arrival()
    retry_after = max(1.0, 0.0 if oldest is None else now - oldest)
    raise QueueFullError(f"the queue is full: {problem}; try again in {retry_after:.0f} s", retry_after)


def check_request(request: EngineRequest, known: bool, context: int, by_memory: bool) -> None:
    """Raises `RequestError` for an empty prompt, an id in use (`known`) or a `resume` that does not fit the request;
    `PromptTooLongError` for a prompt that leaves no room for a token in a context of `context` tokens, which is what
    the KV memory holds if `by_memory`."""
    if known:
        raise RequestError(f"request id '{request.request_id}' is in use; give each request its own")
    if request.resume or request.ended:
        _check_resume(request)
    length = len(request.prompt)
    if not length:
        raise RequestError("the prompt is empty; give at least one token")
    if length + (request.sampling.max_tokens != 0 and request.pooling is None) <= context:
        return
    what = f"the prompt has {length} tokens, and its answer needs room"
    if by_memory:
        raise PromptTooLongError(f"{what}: the KV memory holds {context}; shorten the prompt, or give more KV memory")
    raise PromptTooLongError(f"{what}: the context is {context}; shorten the prompt, or give a larger context")


def _check_resume(request: EngineRequest) -> None:
    samples = request.sampling.n
    if len(request.resume) != samples:
        raise RequestError(f"resume has the tokens of {len(request.resume)} samples; the request has {samples}")
    if not request.ended < frozenset(range(samples)):
        raise RequestError(f"samples {sorted(request.ended)} have ended; of {samples}, at least one must go on")


class Timeouts:
    """Deadlines and queue time-outs of the requests that have one."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, bool]] = []  # when, arrival, request, by its deadline

    def add(self, request: Request) -> None:
        asked = request.engine_request
        if asked.deadline is not None:
            heappush(self._heap, (asked.deadline, request.arrival, request.request_id, True))
        if asked.queue_timeout is not None:
            heappush(self._heap, (request.arrived + asked.queue_timeout, request.arrival, request.request_id, False))

    def due(self, now: float, requests: Mapping[str, Request]) -> Iterator[tuple[Request, PlaitError]]:
        """The requests to end now, each with its error. `requests` are those that have not ended."""
        if len(self._heap) > LEAST_SWEPT + 4 * len(requests):  # mostly of requests that ended in time
            arrivals = {request.arrival for request in requests.values()}
            self._heap = [entry for entry in self._heap if entry[1] in arrivals]
            heapify(self._heap)
        while self._heap and self._heap[0][0] <= now:
            _, arrival, request_id, by_deadline = heappop(self._heap)
            request = requests.get(request_id)
            if request is None or request.arrival != arrival:
                continue
            waited = now - request.arrived
            if by_deadline:
                yield request, DeadlineError(f"the deadline passed {waited:.1f} s after the request came")
            elif not request.begun:
                text = f"the request waited for {waited:.1f} s and was not begun; try again later"
                yield request, QueueTimeoutError(text)
