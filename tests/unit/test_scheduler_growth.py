"""Who is let in: what one look at the running samples tells all who ask in a step is what each would find by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.cache.config import CacheConfig
from plait.cache.kv import KVCache
from plait.scheduler.admission import Admission
from plait.scheduler.growth import Growth
from plait.scheduler.lengths import UNKNOWN_TOKENS, OutputLengths
from plait.scheduler.limits import Limits
from plait.scheduler.request import Phase, Sample
from plait.scheduler.scheduler import Scheduler
from plait.types import EngineRequest, SamplingParams
from support.toy_model import STOP, ToyRunner


def future(lengths: OutputLengths, sample: Sample) -> tuple[int, int]:
    """(tokens to come, tokens generated), by the definition."""
    request = sample.request
    made = len(sample.tokens) - request.prompt_length
    most = request.limit - len(sample.tokens)
    if not request.stop_ids:
        return most, made
    own = lengths._by_key.get((request.account.tenant, request.priority))
    estimate = own if own is not None and own.count >= 4 else lengths._all
    length = estimate.value if estimate.count else UNKNOWN_TOKENS
    return max(0, min(most, int(max(length - made, made // 2, 1)))), made


def peak(futures: list[tuple[int, int]]) -> int:
    """Step by step: all grow by a token, and whoever comes to its end gives back all that it has of its own."""
    found = 0
    for step in range(max(left for left, _ in futures) + 1):
        found = max(found, sum(min(step, left) if left >= step else -own for left, own in futures))
    return found


class Checked:
    """`Admission._has_room`, beside what it is defined as. `asked` counts its answers, `close` those for which the
    bound on the growth does not do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = {True: 0, False: 0}
        self.close = 0
        self._has_room = Admission._has_room
        monkeypatch.setattr(Admission, "_has_room", lambda *given: self(*given))

    def __call__(self, admission: Admission, sample: Sample, growth: Growth) -> bool:
        found = self._has_room(admission, sample, growth)
        sequences, running = admission.sequences, admission.running
        guarded = [other for other in running if other.protected]
        futures = [future(admission.lengths, one) for one in (*running, sample)]
        filling = [one for one in growth._prompts if one.phase is Phase.RUNNING]
        each = [sequences.pages_needed(one) for one in (*filling, sample)]
        needed = [sum(of_group) for of_group in zip(*each, strict=True)]
        fit = sequences.fit(needed, peak(futures), len(running))
        longest = sum(one.longest for one in (*running, sample))
        assert growth.pages(sample) == needed
        assert growth.peak(sample) == peak(futures) <= longest
        assert found == (fit and (not sample.protected or sequences.longest_fit([*guarded, sample])))
        self.close += fit and not sequences.fit(needed, longest, len(running))
        self.asked[found] += 1
        return found


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 6),  # steps before it
        st.integers(1, 30),  # tokens of its prompt
        st.sampled_from((0, 1, 3, 9, 30, None)),  # most of its answer
        st.booleans(),  # a stop id may end it
        st.sampled_from(("a", "b")),
        st.sampled_from((1, 1, 2)),
    ),
    min_size=4,
    max_size=20,
)


def run(checked: Checked, arrivals: list[tuple[int, int, int | None, bool, str, int]], pages: int) -> None:
    config = CacheConfig(4, (pages + 1,))
    scheduler = Scheduler(KVCache(config), Limits(n_batch=24, n_parallel=6, context_length=80))
    runner = ToyRunner(config)
    for number, (before, prompt, most, stop, tenant, samples) in enumerate(arrivals):
        for _ in range(before):
            step(scheduler, runner)
        request = EngineRequest(
            request_id=f"r{number}",
            prompt=tuple(1 + (number * i) % 4 for i in range(prompt)),
            sampling=SamplingParams(seed=number, max_tokens=most, n=samples),
            stop_token_ids=frozenset({STOP}) if stop else frozenset(),
            tenant=tenant,
        )
        scheduler.add(request)
    while scheduler.has_work:
        step(scheduler, runner)


def step(scheduler: Scheduler, runner: ToyRunner) -> None:
    plan = scheduler.schedule()
    if plan is not None:
        scheduler.commit(plan, runner.run(plan))
        scheduler.check()


def test_each_admission_is_decided_as_if_it_were_the_only_one() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        checked = Checked(monkeypatch)

        @settings(max_examples=100, deadline=None)
        @given(ARRIVALS, st.integers(22, 60))
        def trial(arrivals: list[tuple[int, int, int | None, bool, str, int]], pages: int) -> None:
            run(checked, arrivals, pages)

        trial()
    assert checked.asked[True] > 50, "nobody asked"
    assert checked.asked[False] > 10, "there was room for all"
    assert checked.close > 3, "the bound did for all"
