"""The controller in the simulator: it holds the bound that fixed limits miss, follows the load, and settles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plait.config import EngineOptions, from_environment, parse_hours, parse_slo
from plait.control.controller import replay
from plait.control.steptime import StepTime
from plait.errors import OptionError
from plait.metrics import catalogue as c
from plait.metrics.records import Bounds
from plait.sim.clock import Noise
from plait.sim.simulation import SimConfig, Simulation
from plait.sim.trace import TraceRequest

MACHINE = StepTime(0.00035, 0.0001, 0.00008, 1e-7)
CONFIG = SimConfig(machine=MACHINE, pages=16384, noise=Noise(0.05), bounds=Bounds(0.5, 0.03), adaptive="balanced")


def streams(count: int, at_s: float = 0.0, output: int = 600) -> list[TraceRequest]:
    return [TraceRequest(at_s, "", ((1000 * count + i, 30),), output) for i in range(count)]


def test_a_long_prompt_does_not_stall_the_streams() -> None:
    trace = [*streams(16), TraceRequest(0.4, "", ((7, 4000),), 10)]
    worst = {}
    for name, config in (("adaptive", CONFIG), ("fixed", replace(CONFIG, adaptive="", n_parallel=32, n_batch=4096))):
        simulation = Simulation(config)
        simulation.meter.finished = type(simulation.meter.finished)()
        simulation._account = lambda: None  # type: ignore[method-assign]  # keep the records
        simulation.run(trace)
        worst[name] = max(s.worst_itl_s or 0 for s in simulation.meter.finished if s.output_tokens == 600)
    assert worst["adaptive"] < 0.03
    assert worst["fixed"] > 0.3


def test_places_rise_with_a_crowd_and_fall_after_it() -> None:
    simulation = Simulation(CONFIG)
    simulation.run([*streams(2, output=400), *streams(60, 0.3, 100), *streams(3, 2.0, 6000)])
    limits = [decision.after.n_parallel for decision in simulation.controller.decisions]  # type: ignore[union-attr]
    assert max(limits) > 40
    assert limits[-1] < 10
    assert simulation.scheduler.limits.n_parallel == limits[-1]
    shot = simulation.engine.snapshot()
    assert shot.value(c.DECISIONS, "n_parallel") > 1
    assert shot.value(c.MODEL, "prompt_token") == pytest.approx(MACHINE.prompt_token, rel=0.3)


def test_a_constant_load_settles() -> None:
    simulation = Simulation(CONFIG)
    simulation.run(streams(12, output=2500))
    late = [d for d in simulation.controller.decisions if d.snapshot.at_s > 1]  # type: ignore[union-attr]
    assert simulation.clock.now > 3
    rises = [d for d in late if (d.after.n_prefill or 0) > (d.before.n_prefill or 0)]
    assert len(rises) <= 1  # the sequences grow, so budgets fall
    assert len(late) <= 12


def test_the_trace_of_decisions_is_replayed() -> None:
    simulation = Simulation(CONFIG)
    simulation.run([*streams(40), TraceRequest(0.2, "", ((7, 3000),), 10)])
    made = list(simulation.controller.decisions)  # type: ignore[union-attr]
    assert len(made) > 2
    assert replay(made) == made


def test_limits_that_fall_below_who_runs_let_them_finish() -> None:
    simulation = Simulation(replace(CONFIG, adaptive="", n_parallel=8))
    for request in streams(8, output=20):
        simulation._arrive(request)
    for _ in range(3):
        simulation.engine.step()
    simulation.scheduler.limits = replace(simulation.scheduler.limits, n_parallel=2)
    simulation._arrive(TraceRequest(0.0, "", ((5, 10),), 5))
    while simulation.engine.has_work:
        simulation.engine.step()
        simulation.engine.check()
    assert simulation.engine.snapshot().value(c.SAMPLES, "length") == 9


def test_options_say_what_is_fixed() -> None:
    assert from_environment({}, {}).fixed == frozenset()
    assert from_environment({"n_parallel": 8}, {}).fixed == {"n_parallel"}
    assert EngineOptions().fixed == frozenset()
    assert EngineOptions(n_parallel=8).fixed == {"n_parallel"}
    assert replace(EngineOptions(n_batch=1024), n_ctx=9).fixed == {"n_batch"}
    assert from_environment({"adaptive": "off"}, {}).fixed == {"n_batch", "n_parallel"}


def test_bounds_and_hours_are_read() -> None:
    assert parse_slo("ttft=500ms,itl=0.05s") == {"ttft": 0.5, "itl": 0.05}
    assert parse_slo("") == {}
    assert parse_hours("22:00-6:30=throughput,9:00-17:00=latency") == (
        (1320, 390, "throughput"),
        (540, 1020, "latency"),
    )


@pytest.mark.parametrize("text", ["ttft", "ttft=5", "itl=0ms", "itl=5ms,itl=6ms", "itl=-5ms", "e2e=5s"])
def test_bad_bounds_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--slo is"):
        EngineOptions(slo=text)


@pytest.mark.parametrize("text", ["22-6=latency", "25:00-06:00=latency", "22:00-06:00=fast"])
def test_bad_hours_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--hours is"):
        EngineOptions(hours=text)
