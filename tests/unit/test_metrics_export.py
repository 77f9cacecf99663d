"""Prometheus reads what we write; names follow its conventions; the reference is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from plait.metrics import catalogue as c
from plait.metrics.meter import Meter
from plait.metrics.prometheus import prometheus_text
from plait.metrics.records import StepRecord
from plait.metrics.reference import metrics_reference

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def test_prometheus_reads_it() -> None:
    meter = Meter()
    meter.step(
        StepRecord(
            step=0,
            prompt_tokens=4,
            decode_tokens=1,
            sequences=2,
            budget=8,
            seconds=0.004,
            waiting=0,
            pages_held=3,
            pages_pinned=2,
            pins_expired=1,
            pins_dropped=4,
        )
    )
    meter.limits({"n_batch": 8, "n_parallel": 2}, ("n_batch",))
    meter.rejected('a "quoted" reason')
    meter.snapshot(0.0)
    text = prometheus_text(meter.snapshot(1.0, waiting=6))
    read = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(read) == {metric.name.removesuffix("_total") for metric in c.METRICS}
    for metric in c.METRICS:
        family = read[metric.name.removesuffix("_total")]
        assert family.type == metric.kind
        assert family.documentation == metric.help
    samples = {(s.name, *s.labels.values()): s.value for family in read.values() for s in family.samples}
    assert samples["plait_steps_total",] == 1
    assert samples["plait_step_tokens_total", "prefill"] == 4
    assert samples["plait_kv_pages", "used"] == 3
    assert samples["plait_pinned_pages",] == 2
    assert samples["plait_pins_ended_total", "expired"] == 1
    assert samples["plait_pins_ended_total", "dropped"] == 4
    assert samples["plait_waiting_samples",] == 6
    assert samples["plait_requests_rejected_total", 'a "quoted" reason'] == 1
    assert samples["plait_step_duration_seconds_bucket", "+Inf"] == 1
    assert samples["plait_step_duration_seconds_count",] == 1
    assert samples["plait_step_duration_seconds_sum",] == 0.004
    assert samples["plait_step_duration_seconds_bucket", "0.001"] == 0


def test_names_follow_the_conventions() -> None:
    names = [metric.name for metric in c.METRICS]
    assert len(set(names)) == len(names)
    for metric in c.METRICS:
        assert re.fullmatch(r"plait_[a-z][a-z_]*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is c.Kind.COUNTER)
        assert metric.help.endswith(".")
        assert (metric.unit == "s") == ("seconds" in metric.name)
        assert metric.buckets == tuple(sorted(set(metric.buckets)))
        assert bool(metric.buckets) == (metric.kind is c.Kind.HISTOGRAM)


def test_the_reference_is_generated() -> None:
    assert REFERENCE.read_text() == metrics_reference(), "run: python -m plait.metrics.reference > " + str(REFERENCE)


def test_nobody_pays_for_prometheus_who_does_not_ask() -> None:
    code = "import sys, plait.engine.core; print('prometheus_client' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
