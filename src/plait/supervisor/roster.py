"""Every request that was accepted and has not ended, with the tokens its samples were given: what makes a dead engine
replaceable.

Data in, data out: told what faces want and what engines say, it answers with what to send and what to hand out. The
clock's time is handed in. Knows no sockets, no processes and no streams.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from plait.errors import DeadlineError, EngineCrashError, PlaitError, QueueTimeoutError, RequestError
from plait.supervisor.restarts import Restarts
from plait.supervisor.suspects import Suspects
from plait.types import EngineRequest, FinishReason, Priority, TokenEvent, TokenId

LEAST_TIMEOUT_S = 0.001


@dataclass(slots=True)
class Entry:
    """One request. `tokens[i]` are those of sample i so far; `ended` had their final event; `finishing` are to end
    with `stop`, and all of an `aborted` one with `abort`.
    `mus` are Mirostat's states after `tokens`. `sent`: the engine of now has it; `accepted`: some had."""

    number: int
    request: EngineRequest
    arrived_s: float
    tokens: list[list[TokenId]]
    ended: set[int] = field(default_factory=set)
    finishing: set[int] = field(default_factory=set)
    mus: dict[int, float] = field(default_factory=dict)
    aborted: bool = False
    sent: bool = False
    accepted: bool = False

    @property
    def left(self) -> list[int]:
        """The samples that have not ended."""
        return [index for index in range(len(self.tokens)) if index not in self.ended]


def _too_late(entry: Entry, now: float) -> PlaitError | None:
    deadline, timeout = entry.request.deadline, entry.request.queue_timeout
    if deadline is not None and now >= deadline:
        return DeadlineError("the deadline passed while the engine was started anew; try again")
    if timeout is not None and not any(entry.tokens) and now - entry.arrived_s >= timeout:
        return QueueTimeoutError(f"the request waited for {timeout:g} s, and no engine began it; try again")
    return None


class Roster:
    """The parent's list of tokens is the one that counts."""

    def __init__(self, restarts: Restarts) -> None:
        self.restarts = restarts
        self.suspects = Suspects()
        self._entries: dict[str, Entry] = {}
        self._ids: dict[int, str] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def request_ids(self) -> tuple[str, ...]:
        return tuple(self._entries)

    # --- what faces want --------------------------------------------------------------------------------------------

    def add(self, request: EngineRequest, now: float) -> None:
        """A new request; `due` says when it is to be sent. Raises `RequestError` for an id in use."""
        if request.request_id in self._entries:
            raise RequestError(f"request id '{request.request_id}' is in use; give each request its own")
        tokens: list[list[TokenId]] = [[] for _ in range(request.sampling.n)]
        entry = Entry(self._next, request, now, tokens)
        self._next += 1
        self._entries[request.request_id] = entry
        self._ids[entry.number] = request.request_id

    def abort(self, request_id: str) -> tuple[bool, list[TokenEvent]]:
        """Whether the engine is to be told, and the final events where it has never heard of the request."""
        entry = self._entries.get(request_id)
        if entry is None or entry.aborted:
            return False, []
        entry.aborted = True
        return (True, []) if entry.sent else (False, self._wind_up(entry))

    def finish(self, request_id: str, index: int) -> tuple[bool, list[TokenEvent]]:
        """The same for one sample, which is to end with `stop`."""
        entry = self._entries.get(request_id)
        if entry is None or entry.aborted or index in entry.ended | entry.finishing:
            return False, []
        entry.finishing.add(index)
        return (True, []) if entry.sent else (False, self._wind_up(entry))

    # --- what engines say -------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[tuple[int, EngineRequest]]:
        """What the engine is to be sent now, oldest first, each with its number. From then on it has them."""
        found = []
        for entry in self._entries.values():
            if not entry.sent and self._may_run(entry):
                found.append(
                    (entry.number, self._again(entry, now) if entry.accepted or entry.ended else entry.request)
                )
                entry.sent = entry.accepted = True
        return found

    def unsendable(self, number: int, why: str) -> list[TokenEvent]:
        """One that was due cannot be put into a message: its final events. Nobody else is concerned."""
        entry = self._entries[self._ids[number]]
        return [self._final(entry, index, error=RequestError(why)) for index in entry.left]

    def _may_run(self, entry: Entry) -> bool:
        """After a first crash, streams that have begun go on before others take their places."""
        number, suspects = entry.number, self.suspects
        waits = suspects.level == 1 and not (any(entry.tokens) or suspects.suspects(number))
        return not waits and suspects.may_run(number)

    def take(self, event: TokenEvent) -> tuple[bool, bool]:
        """An event came from the engine. Whether it is to be handed out, and whether more is `due` because of it."""
        entry = self._entries.get(event.request_id)
        if entry is None or event.index in entry.ended:
            return False, False
        freed = False
        if event.tokens:
            entry.tokens[event.index] += event.tokens
            if event.mu is not None:
                entry.mus[event.index] = event.mu
            self.restarts.gained()
            freed = self.suspects.cleared(entry.number)
        if event.finish_reason is not None or event.error is not None:
            freed |= self._end(entry, event.index)
        return True, freed

    def crashed(self, numbers: Iterable[int] | None) -> tuple[list[TokenEvent], float | None]:
        """The engine is dead; it had rows of these requests (None: nobody knows, so perhaps of all it had). Final
        events of what is not replayed, and the seconds to wait before a new start; None to give up."""
        sent = {entry.number for entry in self._entries.values() if entry.sent}
        present = sent if numbers is None else sent & set(numbers)
        for entry in self._entries.values():
            entry.sent = False
        width, alone = self.suspects.width, len(present) == 1
        convicted = self.suspects.crashed(present)
        events = [] if convicted is None else self._convict(self._entries[self._ids[convicted]])
        narrowed = convicted is None and width > 0 and (self.suspects.width < width or (alone and width == 1))
        for entry in list(self._entries.values()):
            events += self._wind_up(entry)
        return events, self.restarts.crashed(narrowed=narrowed)

    def expired(self, now: float) -> list[TokenEvent]:
        """Final events of requests that no engine has, and whose time is over: there is none that would see it."""
        events = []
        for entry in [entry for entry in self._entries.values() if not entry.sent]:
            if (error := _too_late(entry, now)) is not None:
                events += [self._final(entry, index, error=error) for index in entry.left]
        return events

    def fail_all(self, error: PlaitError) -> list[TokenEvent]:
        """The end of everything: a final event for each sample that is left."""
        events = []
        for entry in list(self._entries.values()):
            events += [self._final(entry, index, error=error) for index in entry.left]
        return events

    # --- ends -------------------------------------------------------------------------------------------------------

    def _wind_up(self, entry: Entry) -> list[TokenEvent]:
        """Final events of those that were to end, where no engine is there to say them."""
        events = [self._final(entry, i, FinishReason.STOP) for i in sorted(entry.finishing - entry.ended)]
        if entry.aborted:
            events += [self._final(entry, index, FinishReason.ABORT) for index in entry.left]
        return events

    def _convict(self, entry: Entry) -> list[TokenEvent]:
        text = "the engine process died of this request: alone, and twice in a row; change the request"
        return [self._final(entry, index, error=EngineCrashError(text)) for index in entry.left]

    def _final(
        self, entry: Entry, index: int, reason: FinishReason | None = None, error: PlaitError | None = None
    ) -> TokenEvent:
        self._end(entry, index)
        request = entry.request
        return TokenEvent(
            request.request_id, index, finish_reason=reason, error=error, prompt_tokens=len(request.prompt)
        )

    def _end(self, entry: Entry, index: int) -> bool:
        """Whether more is due because of it."""
        entry.ended.add(index)
        if entry.left:
            return False
        del self._entries[entry.request.request_id], self._ids[entry.number]
        return self.suspects.cleared(entry.number)

    def _again(self, entry: Entry, now: float) -> EngineRequest:
        """The request for an engine that has not seen it, to go on where the last one stopped. What has begun cannot
        wait for too long any more; a suspect of the background class would hold others up, and is raised by one."""
        request, begun = entry.request, any(entry.tokens)
        timeout, priority = request.queue_timeout, request.priority
        if timeout is not None:
            timeout = None if begun else max(LEAST_TIMEOUT_S, timeout - (now - entry.arrived_s))
        if self.suspects.suspects(entry.number):
            priority = min(priority, Priority.LOW)
        told = bool(entry.tokens[0]) or 0 in entry.ended  # with the first event of sample 0
        return replace(
            request,
            prompt_logprobs=None if told else request.prompt_logprobs,
            resume=tuple(tuple(tokens) for tokens in entry.tokens),
            ended=frozenset(entry.ended),
            mus=tuple(map(entry.mus.get, range(len(entry.tokens)))) if entry.mus else (),
            queue_timeout=timeout,
            priority=priority,
        )

    def check(self) -> None:
        """Verify the invariants; raises `AssertionError`."""
        self.suspects.check()
        assert {entry.number: name for name, entry in self._entries.items()} == self._ids
        assert all(entry.left for entry in self._entries.values())
        assert all(entry.accepted for entry in self._entries.values() if entry.sent)
