"""All metrics at one moment, and the difference of two moments. Plain data; knows the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plait.metrics.catalogue import BUDGET_SEQUENCES, BUDGET_TOKENS, STEP_SEQUENCES, STEP_TOKENS, Metric
from plait.metrics.histogram import HistogramData


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`at_s` is the clock's time. `values[name][label value]` are counters and gauges ("" without a label);
    `histograms[name]` the histograms. A metric that has no value yet, or cannot be had here, is absent."""

    at_s: float
    values: Mapping[str, Mapping[str, float]]
    histograms: Mapping[str, HistogramData]

    def value(self, metric: Metric, label: str = "") -> float:
        """0 for a value that is absent."""
        return self.values.get(metric.name, {}).get(label, 0.0)

    def total(self, metric: Metric) -> float:
        """Over all label values."""
        return sum(self.values.get(metric.name, {}).values())


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two snapshots of one engine."""

    before: Snapshot
    after: Snapshot

    @property
    def seconds(self) -> float:
        return self.after.at_s - self.before.at_s

    def change(self, metric: Metric, label: str = "") -> float:
        """By how much a counter (or a gauge) changed."""
        return self.after.value(metric, label) - self.before.value(metric, label)

    def histogram(self, metric: Metric) -> HistogramData:
        """The values of a histogram that came in between."""
        return self.after.histograms[metric.name].minus(self.before.histograms[metric.name])

    def ratio_of_tokens(self) -> float:
        """Tokens of the steps in between over their token budgets."""
        tokens = self.after.total(STEP_TOKENS) - self.before.total(STEP_TOKENS)
        return tokens / (self.change(BUDGET_TOKENS) or 1)

    def ratio_of_sequences(self) -> float:
        """Sequences of the steps in between over their sequence limits."""
        return self.change(STEP_SEQUENCES) / (self.change(BUDGET_SEQUENCES) or 1)
