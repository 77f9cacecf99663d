"""A snapshot as Prometheus' text. Knows the catalogue; prometheus_client is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plait.metrics.catalogue import METRICS, Kind, Metric
from plait.metrics.snapshot import Snapshot

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def prometheus_text(snapshot: Snapshot) -> str:
    """All metrics of the snapshot in the exposition format 0.0.4, in the order of the catalogue."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Snapshots(Collector):
        def collect(self) -> Iterator[Family]:
            return families(snapshot)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshots())
    return generate_latest(registry).decode()


def families(snapshot: Snapshot) -> Iterator[Family]:
    """What a collector of prometheus_client yields. Metrics without a value are left out."""
    for metric in METRICS:
        if metric.name in snapshot.histograms or metric.name in snapshot.values:
            yield _histogram(metric, snapshot) if metric.kind is Kind.HISTOGRAM else _numbers(metric, snapshot)


def _histogram(metric: Metric, snapshot: Snapshot) -> Family:
    from prometheus_client.core import HistogramMetricFamily

    data, seen = snapshot.histograms[metric.name], 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, data.bounds), "+Inf"), data.counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    return HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=data.sum)


def _numbers(metric: Metric, snapshot: Snapshot) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    family = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    made = family(metric.name, metric.help, labels=[metric.label] if metric.label else [])
    for label, value in snapshot.values[metric.name].items():
        made.add_metric([label] if metric.label else [], value)
    return made
