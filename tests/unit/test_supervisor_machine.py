"""However engines die: every sample ends exactly once, with exactly the tokens it yields alone, and nobody is blamed
but who crashed the engine alone, twice in a row.

The engine is a formula here: a request it has gains the next token of each of its samples when a step has rows of it.
Some requests kill it once they have so many tokens, and it may be killed from outside at any time, with news unread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plait.errors import EngineCrashError
from plait.supervisor.restarts import Restarts
from plait.supervisor.roster import Roster
from plait.types import EngineRequest, FinishReason, Priority, SamplingParams, TokenEvent
from support.toy_model import STOP, alone

CONTEXT = 14
ENDS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


@dataclass
class ToyEngine:
    """`has[id]` are the tokens of each sample that it goes on from. News are read by the parent, or lost."""

    truth: dict[tuple[str, int], tuple[list[int], FinishReason]]
    poison: dict[str, int]
    has: dict[str, dict[int, int]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    news: list[TokenEvent] = field(default_factory=list)

    def take(self, number: int, request: EngineRequest) -> None:
        assert request.request_id not in self.has, "sent twice"
        resume = request.resume or ((),) * request.sampling.n
        for index, tokens in enumerate(resume):
            whole, _ = self.truth[request.request_id, index]
            assert list(tokens) == whole[: len(tokens)], "goes on after tokens that were not handed out"
        left = [index for index in range(request.sampling.n) if index not in request.ended]
        assert left, "nothing is left of it"
        self.has[request.request_id] = {index: len(resume[index]) for index in left}
        self.numbers[request.request_id] = number

    def kills(self, ids: list[str]) -> bool:
        return any(max(self.has[one].values()) >= self.poison.get(one, 99) for one in ids)

    def step(self, ids: list[str]) -> None:
        for one in ids:
            for index, count in list(self.has[one].items()):
                whole, reason = self.truth[one, index]
                token = tuple(whole[count : count + 1])
                last = count + len(token) == len(whole) and (reason is FinishReason.LENGTH or not token)
                self.news.append(TokenEvent(one, index, token, finish_reason=reason if last else None))
                self.has[one][index] += 1
                if last:
                    self.drop(one, index)

    def end(self, one: str, index: int, reason: FinishReason) -> None:
        if index in self.has.get(one, {}):
            self.drop(one, index)
            self.news.append(TokenEvent(one, index, finish_reason=reason))

    def drop(self, one: str, index: int) -> None:
        del self.has[one][index]
        if not self.has[one]:
            del self.has[one]


class RosterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster(Restarts(10_000))
        self.now = 0.0
        self.requests: dict[str, EngineRequest] = {}
        self.truth: dict[tuple[str, int], tuple[list[int], FinishReason]] = {}
        self.poison: dict[str, int] = {}
        self.engine = ToyEngine(self.truth, self.poison)
        self.got: dict[tuple[str, int], list[int]] = {}
        self.final: dict[tuple[str, int], TokenEvent] = {}
        self.asked: dict[tuple[str, int], FinishReason] = {}
        self.crashes: list[frozenset[str]] = []
        self.gained_at: dict[str, int] = {}  # how many crashes there had been at its last token
        self.numbers: dict[int, str] = {}
        self.down = False

    # --- what faces do ------------------------------------------------------------------------------------------------

    @rule(
        n=st.sampled_from((1, 1, 1, 2, 3)),
        seed=st.integers(0, 30),
        max_tokens=st.integers(1, 9),
        kills=st.sampled_from((None, None, None, None, None, 0, 1, 3)),
        priority=st.sampled_from(Priority),
        timeout=st.sampled_from((None, 5.0)),
    )
    def submit(
        self, n: int, seed: int, max_tokens: int, kills: int | None, priority: Priority, timeout: float | None
    ) -> None:
        request = EngineRequest(
            request_id=f"r{len(self.requests)}",
            prompt=(1, 2, 3),
            sampling=SamplingParams(n=n, seed=seed, max_tokens=max_tokens),
            stop_token_ids=frozenset({STOP}),
            priority=priority,
            queue_timeout=timeout,
        )
        ends = [alone(request, index, CONTEXT) for index in range(n)]
        if any(one.end == "error" for one in ends):
            return
        self.requests[request.request_id] = request
        for index, one in enumerate(ends):
            self.truth[request.request_id, index] = (list(one.tokens), ENDS[one.end])
        if kills is not None and all(len(one.tokens) > kills for one in ends):
            self.poison[request.request_id] = kills
        self.roster.add(request, self.now)
        self._send_due()

    def _open(self) -> list[tuple[str, int]]:
        return [key for key in self.truth if key not in self.final]

    @precondition(lambda self: self._open())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        one, _ = data.draw(st.sampled_from(self._open()))
        for key in self._open():
            if key[0] == one:
                self.asked.setdefault(key, FinishReason.ABORT)
        tell, events = self.roster.abort(one)
        self._read(events)
        if tell:
            for index in range(self.requests[one].sampling.n):
                self.engine.end(one, index, FinishReason.ABORT)

    @precondition(lambda self: self._open())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self._open()))
        self.asked.setdefault(key, FinishReason.STOP)
        tell, events = self.roster.finish(*key)
        self._read(events)
        if tell:
            self.engine.end(*key, FinishReason.STOP)

    # --- what engines do ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.engine.has and not self.down)
    @rule(data=st.data(), read=st.booleans())
    def step(self, data: st.DataObject, read: bool) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.engine.has)), min_size=1, max_size=4, unique=True))
        self._step(chosen, read=read)

    def _step(self, ids: list[str], *, read: bool = True) -> None:
        self.now += 0.1
        if self.engine.kills(ids):
            self._crash(ids)
            return
        self.engine.step(ids)
        if read:
            self._read_news(len(self.engine.news))

    @precondition(lambda self: not self.down and self._open())
    @rule(data=st.data(), unread=st.integers(0, 3))
    def die(self, data: st.DataObject, unread: int) -> None:
        """Killed from outside, with some rows in the step, the last of its news unread."""
        ids = sorted(self.engine.has)
        chosen = data.draw(st.lists(st.sampled_from(ids), max_size=4, unique=True)) if ids else []
        self._crash(chosen, unread)

    def _crash(self, ids: list[str], unread: int = 0) -> None:
        numbers = {self.engine.numbers[one] for one in ids}
        self._read_news(max(0, len(self.engine.news) - unread))
        present = frozenset(one for one in ids if any(key[0] == one for key in self._open()))
        if present:
            self.crashes.append(present)
        events, delay = self.roster.crashed(numbers)
        assert delay is not None
        self.engine, self.down = ToyEngine(self.truth, self.poison), True
        self._read(events)
        blamed = {event.request_id for event in events if isinstance(event.error, EngineCrashError)}
        assert blamed == self._alone_twice(present)

    def _alone_twice(self, present: frozenset[str]) -> set[str]:
        """The one that had the last two steps that died to itself, without a token in between."""
        if len(present) != 1 or self.crashes[-2:] != [present, present]:
            return set()
        (one,) = present
        return {one} if self.gained_at.get(one, 0) <= len(self.crashes) - 2 else set()

    @precondition(lambda self: self.down)
    @rule()
    def start(self) -> None:
        self.down = False
        self._send_due()

    # --- between them -------------------------------------------------------------------------------------------------

    def _send_due(self) -> None:
        if not self.down:
            for number, request in self.roster.due(self.now):
                self.engine.take(number, request)
            if self._open():
                assert self.engine.has or self.engine.news, "requests wait for nothing"

    def _read_news(self, count: int) -> None:
        for _ in range(count):
            event = self.engine.news.pop(0)
            wanted, more = self.roster.take(event)
            assert wanted
            self._read([event])
            if more:
                self._send_due()

    def _read(self, events: list[TokenEvent]) -> None:
        for event in events:
            key = (event.request_id, event.index)
            assert key not in self.final, "an event after the final one"
            self.got.setdefault(key, []).extend(event.tokens)
            if event.tokens:
                self.gained_at[event.request_id] = len(self.crashes)
            if event.final:
                self.final[key] = event

    @invariant()
    def sound(self) -> None:
        self.roster.check()
        assert set(self.roster.request_ids) == {one for one, _ in self._open()}

    def teardown(self) -> None:
        crashes = len(self.crashes)
        for _ in range(60 + 40 * len(self.requests)):
            if not self._open():
                break
            self.down = False
            self._read_news(len(self.engine.news))
            self._send_due()
            if self.engine.has:
                self._step(sorted(self.engine.has))
        assert not self._open(), "a request starves"
        assert len(self.crashes) - crashes <= 8 * len(self.poison)
        assert len(self.roster) == 0
        for key in self.truth:
            self._check_outcome(key)

    def _check_outcome(self, key: tuple[str, int]) -> None:
        event, (tokens, reason) = self.final[key], self.truth[key]
        got = self.got[key]
        if isinstance(event.error, EngineCrashError) or key in self.asked:
            assert got == tokens[: len(got)]
            assert event.error is not None or event.finish_reason in (self.asked[key], reason)
            return
        assert event.error is None
        assert (got, event.finish_reason) == (tokens, reason)
        assert key[0] not in self.poison


RosterMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestRoster = RosterMachine.TestCase
