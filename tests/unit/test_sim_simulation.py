"""The simulator drives the real engine loop: times follow the model, sharing and preemption show in the metrics."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.control.steptime import StepTime
from plait.metrics import catalogue as c
from plait.metrics.records import Bounds
from plait.sim.clock import Noise
from plait.sim.fairness import Fairness, jain
from plait.sim.load import make_trace, quiet_to_peak
from plait.sim.simulation import SimConfig, Simulation
from plait.sim.trace import ANSWER, TraceRequest

MACHINE = StepTime(0.001, 0.0001, 0.0002, 0.0)


def config(**fields: object) -> SimConfig:
    return SimConfig(**{"machine": MACHINE, "in_flight": 0} | fields)  # type: ignore[arg-type]


def ask(at_s: float, prompt: int, output: int, name: int = 1, tenant: str = "") -> TraceRequest:
    return TraceRequest(at_s, tenant, ((name, prompt),), output)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_one_request_takes_the_time_of_its_steps(in_flight: int) -> None:
    simulation = Simulation(config(in_flight=in_flight))
    outcome = simulation.run([ask(2.0, 100, 5)])
    prompt_s, token_s = 0.001 + 100 * 0.0002, 0.001 + 0.0001
    assert outcome.seconds == pytest.approx(2.0 + prompt_s + 4 * token_s)
    shot = simulation.engine.snapshot()
    assert shot.histograms[c.TTFT.name].sum == pytest.approx(prompt_s)
    assert shot.histograms[c.ITL.name].sum == pytest.approx(4 * token_s)
    assert (outcome.in_time, outcome.requests, outcome.steps) == (1.0, 1, 5)


def test_a_wait_for_a_place_is_queue_time() -> None:
    simulation = Simulation(config(n_parallel=1))
    simulation.run([ask(0.0, 100, 5), ask(0.0, 100, 5, name=2)])
    queue = simulation.engine.snapshot().histograms[c.QUEUE.name]
    assert queue.count == 2
    assert queue.sum == pytest.approx(0.021 + 4 * 0.0011)


def test_bounds_that_are_missed_lower_goodput() -> None:
    slow = config(bounds=Bounds(0.02, 1.0))
    assert Simulation(slow).run([ask(0.0, 50, 5), ask(1.0, 100, 5, name=2)]).in_time == 0.5


def test_a_conversation_finds_what_it_said() -> None:
    first = TraceRequest(0.0, "", ((1, 320),), 64)
    second = TraceRequest(5.0, "", ((1, 320), (ANSWER, 64), (2, 32)), 8)
    outcome = Simulation(config()).run([first, second])
    assert outcome.hit_rate == pytest.approx(383 / (320 + 416))  # all but the answer's last token


def test_a_tenant_s_prompts_are_its_own() -> None:
    outcome = Simulation(config()).run([ask(0.0, 320, 8, tenant="a"), ask(1.0, 320, 8, tenant="b")])
    assert outcome.hit_rate == 0


def test_recomputed_tokens_are_counted() -> None:
    """After a short answer, short ones are expected; two sequences outgrow the pages, and one is computed again."""
    simulation = Simulation(config(pages=40, reuse=False, context_length=512))
    outcome = simulation.run([ask(0.0, 4, 2, name=3), ask(1.0, 200, 200, name=1), ask(1.0, 200, 200, name=2)])
    assert outcome.preemptions == 1
    assert 200 <= outcome.recomputed_tokens <= 400
    computed = simulation.engine.stats
    assert computed.prompt_tokens + computed.decode_tokens == 5 + 2 * 399 + outcome.recomputed_tokens


def test_a_prompt_too_long_is_refused_and_counted() -> None:
    simulation = Simulation(config(context_length=64))
    outcome = simulation.run([ask(0.0, 100, 5), ask(0.0, 10, 5)])
    assert (outcome.requests, outcome.refused, outcome.in_time) == (2, 1, 0.5)
    assert simulation.engine.snapshot().value(c.REJECTED, "prompt_too_long") == 1


def test_noise_is_deterministic_and_keeps_the_median() -> None:
    trace = [ask(0.01 * i, 20, 30, name=i) for i in range(40)]
    plain = Simulation(config()).run(trace).seconds
    noisy = [Simulation(config(noise=Noise(0.1, 0.01, seed=4))).run(trace).seconds for _ in range(2)]
    assert noisy[0] == noisy[1] != plain
    assert noisy[0] == pytest.approx(plain, rel=0.2)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_every_request_of_a_busy_trace_ends(in_flight: int) -> None:
    trace = list(make_trace(quiet_to_peak("chat", 0, phase_s=0.5), MACHINE))
    simulation = Simulation(config(n_parallel=32, in_flight=in_flight))
    simulation.run(trace)
    shot = simulation.engine.snapshot()
    assert shot.value(c.SAMPLES, "length") == len(trace) > 20
    assert shot.value(c.GENERATED_TOKENS) == sum(request.output_tokens for request in trace)
    simulation.engine.check()


def test_the_simulator_builds_no_arrays() -> None:
    code = "import sys, plait.sim.simulation, plait.sim.load; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8))
def test_jain_s_index(shares: list[float]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain(shares) <= 1 + 1e-9
    assert jain([shares[0]] * 5) == pytest.approx(1)
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([]) == 1


def test_fairness_compares_tenants_within_a_window() -> None:
    even, uneven = Fairness(1.0), Fairness(1.0)
    for fairness, parts in ((even, (50, 5)), (uneven, (100, 0))):
        fairness.asked(0.1, "a", 100)
        fairness.asked(0.1, "b", 10)
        for tenant, tokens in zip("ab", parts, strict=True):
            fairness.served(0.5, tenant, tokens)
        fairness.asked(1.5, "a", 0)
    assert even.index() == pytest.approx(1)
    assert uneven.index() == pytest.approx(0.5)
    assert Fairness().index() == 1


PEAK = list(make_trace(quiet_to_peak("mixed", 3, phase_s=1.0, bursty=True), StepTime(0.001, 0.0001, 0.0002, 1e-7)))


@pytest.mark.parametrize("fixed_limits", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_controller_can_be_taken_apart(fixed_limits: bool, ordered: bool) -> None:
    parts = {"adaptive": "balanced", "fixed_limits": fixed_limits, "ordered": ordered}
    simulation = Simulation(config(n_batch=512, n_parallel=4, in_flight=1, prior=MACHINE, **parts))
    seen = set()
    for traced in PEAK[:25]:
        simulation._arrive(traced)
    while simulation.engine.has_work:
        simulation.engine.step()
        seen.add(simulation.scheduler.limits)
    moved = {(limits.n_batch, limits.n_prefill, limits.n_parallel) for limits in seen}
    assert ({(512, None, 4)} == moved) == fixed_limits
    assert any(limits.promise for limits in seen) == ordered


def test_a_controller_that_may_do_nothing_is_as_fixed_limits() -> None:
    fixed = config(n_batch=512, n_parallel=4)
    idle = config(n_batch=512, n_parallel=4, adaptive="balanced", fixed_limits=True, ordered=False, prior=MACHINE)
    one, two = (Simulation(given).run(PEAK[:25]) for given in (fixed, idle))
    assert one.steps == two.steps
    assert one.seconds == two.seconds
    assert one.in_time == two.in_time
