"""Invariants of requests and their samples, for tests and for hunting a bug."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plait.scheduler.request import ENDED, PENDING, RUNNING, WAITING, Request, Sample


def check_requests(requests: Sequence[Request], by_id: Mapping[int, Sample], flying: Sequence[int]) -> None:
    """Raises AssertionError where requests, sequences and those of the plans in flight contradict each other."""
    assert set(flying) <= set(by_id)
    for sequence, sample in by_id.items():
        assert sample.in_flight == flying.count(sequence)
        assert sample.phase is RUNNING or sample.in_flight, "a sequence without a future holds pages"
    for request in requests:
        idle = [s for s in request.samples if s.phase in (PENDING, WAITING)]
        assert all(s.sequence is None for s in idle)
        assert request.open == sum(s.phase is not ENDED for s in request.samples) > 0
        assert (request.base is None) == (not request.heirs)
        assert all(request.samples[i].phase is WAITING for i in request.heirs)
        assert [s.index for s in request.samples] == list(range(len(request.samples)))
