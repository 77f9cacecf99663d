"""Turns bad figures into sentences: a table of rules, each a pure function of a window. Knows the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plait.metrics import catalogue as c
from plait.metrics.snapshot import Window

GOOD_HIT_RATE = 0.85
SEEN_SHARING = 0.02
"""Traffic shares prefixes if at least this share of its prompt tokens was found in memory."""
FULL = 0.95
IDLE = 0.5
MANY_TOKENS = 1000
PAGE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, in a sentence, and the figures that led to it."""

    code: str
    text: str
    figures: Mapping[str, float]


Found = tuple[str, dict[str, float]] | None


@dataclass(frozen=True, slots=True)
class Rule:
    """`look` gives a sentence and its figures, or None. `when` says it for the reference."""

    code: str
    when: str
    look: Callable[[Window], Found]


def advise(window: Window) -> list[Advice]:
    """What the figures of the window call for, in the order of the table. Nothing is advised on an idle engine."""
    found = [(rule.code, rule.look(window)) for rule in RULES]
    return [Advice(code, *what) for code, what in found if what is not None]


def _hit_rate(w: Window) -> Found:
    prompt, cached = w.change(c.PROMPT_TOKENS), w.change(c.CACHED_TOKENS)
    if prompt < MANY_TOKENS or not SEEN_SHARING <= cached / prompt < GOOD_HIT_RATE:
        return None
    rate, evicted = cached / prompt, w.change(c.EVICTIONS)
    figures = {"hit_rate": rate, "prompt_tokens": prompt, "evicted_pages": evicted}
    if evicted:
        pages = w.after.total(c.PAGES)
        return (
            f"{rate:.0%} of the prompt tokens were found in memory, and {evicted:.0f} cached pages of {pages:.0f} were "
            f"given up for new ones: a larger --kv-memory would keep them"
        ), figures | {"pages": pages}
    return (
        f"{rate:.0%} of the prompt tokens were found in memory though nothing was evicted: put what is shared (system "
        "prompt, documents) first, and what changes (user, date, question) last"
    ), figures


def _budget(w: Window) -> Found:
    use, waiting = w.ratio_of_tokens(), w.after.value(c.WAITING)
    if use < FULL or w.change(c.STEPS) < 10 or not waiting:
        return None
    limit = w.after.value(c.LIMIT, "n_batch")
    return (
        f"steps are {use:.0%} full of their token budget and {waiting:.0f} samples wait: prompts come faster than they "
        f"are computed; a larger -b (now {limit:.0f}) helps only where the ITL bound leaves room, else more machines"
    ), {"batch_utilisation": use, "waiting_samples": waiting, "n_batch": limit}


def _queue(w: Window) -> Found:
    before, after = w.before.value(c.WAITING), w.after.value(c.WAITING)
    if after < 2 * before + 8:
        return None
    delay = w.histogram(c.QUEUE).quantile(0.5)
    return (
        f"the queue grew from {before:.0f} to {after:.0f} samples in {w.seconds:.0f} s: more arrives than is served "
        f"(half of them waited over {delay:.2f} s); bound the queue, or add capacity"
    ), {"waiting_before": before, "waiting_after": after, "queue_p50_s": delay}


def _pages(w: Window) -> Found:
    preempted, again = w.change(c.PREEMPTIONS), w.change(c.RECOMPUTED)
    if not preempted:
        return None
    used, pages = w.after.value(c.PAGES, "used"), w.after.total(c.PAGES)
    return (
        f"KV memory ran out: {preempted:.0f} sequences gave way and {again:.0f} tokens were computed again; {used:.0f} "
        f"of {pages:.0f} pages are in use; give more with --kv-memory, a shorter --ctx-size, or fewer -np"
    ), {"preemptions": preempted, "recomputed_tokens": again, "pages_used": used, "pages": pages}


def _memory(w: Window) -> Found:
    before, after = w.before.value(c.MEMORY), w.after.value(c.MEMORY)
    if not before or w.seconds < 60 or after - before < 0.1 * before:
        return None
    rate = (after - before) / w.seconds * 60
    return (
        f"memory of the process grew from {before / 2**20:.0f} to {after / 2**20:.0f} MiB in {w.seconds:.0f} s, "
        f"{rate / 2**20:.1f} MiB a minute: if it goes on, restart and report it"
    ), {"memory_before_bytes": before, "memory_after_bytes": after, "bytes_per_minute": rate}


def _places(w: Window) -> Found:
    sequences, tokens = w.ratio_of_sequences(), w.ratio_of_tokens()
    waiting, limit = w.after.value(c.WAITING), w.after.value(c.LIMIT, "n_parallel")
    free = w.after.value(c.PAGES, "free") + w.after.value(c.PAGES, "cached")
    if sequences < FULL or tokens > IDLE or not waiting or free <= (1 - PAGE_SHARE) * w.after.total(c.PAGES):
        return None
    return (
        f"all {limit:.0f} places are taken and {waiting:.0f} samples wait while steps fill {tokens:.0%} of their token "
        "budget: a larger -np (or none: it adapts) would serve them"
    ), {"sequence_utilisation": sequences, "batch_utilisation": tokens, "waiting_samples": waiting, "n_parallel": limit}


def _drafts(w: Window) -> Found:
    drafted, held = w.change(c.DRAFTED), w.change(c.ACCEPTED)
    if drafted < MANY_TOKENS or held / drafted >= 0.2:
        return None
    return (
        f"of {drafted:.0f} drafted tokens {held / drafted:.0%} held: this text does not repeat itself, and "
        "speculation only costs here; switch it off"
    ), {"draft_tokens": drafted, "acceptance": held / drafted}


def _planning(w: Window) -> Found:
    plan = w.change(c.STEP_SECONDS, "planning")
    all_of_it = w.after.total(c.STEP_SECONDS) - w.before.total(c.STEP_SECONDS)
    if w.change(c.STEPS) < 100 or plan <= 0.2 * all_of_it:
        return None
    steps = w.change(c.STEPS)
    return (
        f"{plan / all_of_it:.0%} of the time goes into planning, {1000 * plan / steps:.2f} ms a step: the machine's "
        "other work slows Python down, or the model is so small that more sequences a step no longer pay"
    ), {"planning_share": plan / all_of_it, "steps": steps}


RULES: tuple[Rule, ...] = (
    Rule("hit_rate", "prefixes are shared, but under 85% of the prompt tokens are found in memory", _hit_rate),
    Rule("budget_saturated", "steps fill their token budget, and samples wait", _budget),
    Rule("queue_grows", "the queue more than doubles", _queue),
    Rule("too_few_pages", "sequences are preempted", _pages),
    Rule("memory_grows", "the process grows by a tenth within the window, of a minute or more", _memory),
    Rule("too_few_places", "every place is taken and samples wait, but the token budget is half idle", _places),
    Rule("drafts_fail", "under a fifth of the drafted tokens hold", _drafts),
    Rule("planning_is_slow", "planning takes a fifth of the time", _planning),
)
