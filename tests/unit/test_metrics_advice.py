"""Each rule of the advice fires on its figures, names them, and is silent otherwise."""

from __future__ import annotations

import pytest

from plait.metrics import catalogue as c
from plait.metrics.advice import RULES, advise
from plait.metrics.histogram import Histogram
from plait.metrics.snapshot import Snapshot, Window

Values = dict[c.Metric, dict[str, float]]
EMPTY: Values = {}

HITS: Values = {c.PROMPT_TOKENS: {"": 10_000}, c.CACHED_TOKENS: {"": 6_000}}
FULL_STEPS: Values = {
    c.STEPS: {"": 100}, c.STEP_TOKENS: {"prefill": 98_000, "decode": 1_000}, c.BUDGET_TOKENS: {"": 100_000},
    c.WAITING: {"": 5}, c.LIMIT: {"n_batch": 1000},
}  # fmt: skip
FULL_PLACES: Values = {
    c.STEPS: {"": 100}, c.STEP_TOKENS: {"decode": 800}, c.BUDGET_TOKENS: {"": 100_000}, c.STEP_SEQUENCES: {"": 800},
    c.BUDGET_SEQUENCES: {"": 800}, c.WAITING: {"": 5}, c.LIMIT: {"n_parallel": 8}, c.PAGES: {"free": 50, "used": 50},
}  # fmt: skip
MEMORY: tuple[Values, Values] = ({c.MEMORY: {"": 1e9}}, {c.MEMORY: {"": 1.2e9}})

FIRES: list[tuple[str, Values, Values, str]] = [
    ("hit_rate", EMPTY, HITS, "60% of the prompt tokens.*first.*last"),
    ("hit_rate", EMPTY, HITS | {c.EVICTIONS: {"": 40}, c.PAGES: {"used": 100}}, "40 cached pages of 100.*--kv-memory"),
    ("budget_saturated", EMPTY, FULL_STEPS, r"99% full.*5 samples wait.*now 1000"),
    ("queue_grows", {c.WAITING: {"": 2}}, {c.WAITING: {"": 40}}, "from 2 to 40 samples in 120 s"),
    ("too_few_pages", EMPTY, {c.PREEMPTIONS: {"": 3}, c.RECOMPUTED: {"": 900}}, "3 sequences gave way and 900 tokens"),
    ("memory_grows", *MEMORY, "from 954 to 1144 MiB in 120 s"),
    ("too_few_places", EMPTY, FULL_PLACES, "all 8 places.*5 samples wait.*1% of their token budget"),
    ("drafts_fail", EMPTY, {c.DRAFTED: {"": 5000}, c.ACCEPTED: {"": 500}}, "of 5000 drafted tokens 10% held"),
    (
        "planning_is_slow", EMPTY, {c.STEPS: {"": 200}, c.STEP_SECONDS: {"planning": 1.0, "decode": 3.0}},
        "25% of the time goes into planning, 5.00 ms a step",
    ),
]  # fmt: skip

SILENT: list[tuple[str, Values, Values]] = [
    ("hit_rate", EMPTY, {c.PROMPT_TOKENS: {"": 10_000}, c.CACHED_TOKENS: {"": 8_600}}),  # good
    ("hit_rate", EMPTY, {c.PROMPT_TOKENS: {"": 10_000}, c.CACHED_TOKENS: {"": 100}}),  # nothing is shared
    ("hit_rate", EMPTY, {c.PROMPT_TOKENS: {"": 900}, c.CACHED_TOKENS: {"": 450}}),  # too little to tell
    ("hit_rate", HITS, HITS),  # long ago
    ("budget_saturated", EMPTY, FULL_STEPS | {c.WAITING: {"": 0}}),
    ("budget_saturated", EMPTY, FULL_STEPS | {c.BUDGET_TOKENS: {"": 200_000}}),
    ("queue_grows", {c.WAITING: {"": 30}}, {c.WAITING: {"": 40}}),
    ("too_few_pages", {c.PREEMPTIONS: {"": 3}}, {c.PREEMPTIONS: {"": 3}}),
    ("memory_grows", {c.MEMORY: {"": 1e9}}, {c.MEMORY: {"": 1.05e9}}),
    ("memory_grows", EMPTY, {c.MEMORY: {"": 1e9}}),
    ("too_few_places", EMPTY, FULL_PLACES | {c.WAITING: {"": 0}}),
    ("too_few_places", EMPTY, FULL_PLACES | {c.STEP_TOKENS: {"prefill": 90_000}}),
    ("too_few_places", EMPTY, FULL_PLACES | {c.PAGES: {"free": 1, "used": 99}}),  # pages would run out
    ("drafts_fail", EMPTY, {c.DRAFTED: {"": 5000}, c.ACCEPTED: {"": 2500}}),
    ("planning_is_slow", EMPTY, {c.STEPS: {"": 200}, c.STEP_SECONDS: {"planning": 0.1, "decode": 3.0}}),
]


def snapshot(at_s: float, values: Values) -> Snapshot:
    empty = {m.name: Histogram(m.buckets).data() for m in c.METRICS if m.kind is c.Kind.HISTOGRAM}
    return Snapshot(at_s, {metric.name: labels for metric, labels in values.items()}, empty)


def window(before: Values, after: Values) -> Window:
    return Window(snapshot(0.0, before), snapshot(120.0, after))


@pytest.mark.parametrize(("code", "before", "after", "text"), FIRES)
def test_a_rule_fires(code: str, before: Values, after: Values, text: str) -> None:
    import re

    (advice,) = [a for a in advise(window(before, after)) if a.code == code]
    assert re.search(text, advice.text)
    assert advice.figures
    assert all(isinstance(value, (int, float)) for value in advice.figures.values())


@pytest.mark.parametrize(("code", "before", "after"), SILENT)
def test_a_rule_is_silent(code: str, before: Values, after: Values) -> None:
    assert code not in [a.code for a in advise(window(before, after))]


def test_an_idle_engine_needs_no_advice() -> None:
    assert advise(window(EMPTY, EMPTY)) == []


def test_every_rule_is_tested_both_ways() -> None:
    codes = {rule.code for rule in RULES}
    assert {code for code, *_ in FIRES} == codes
    assert {code for code, *_ in SILENT} == codes
