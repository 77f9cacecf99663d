"""Every metric, declared once: name, kind, unit, labels, buckets, help. Exporters and the reference derive from here.

Names follow Prometheus' conventions: base units, `_total` for counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from plait.metrics.histogram import log_buckets


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` names its label and the values it takes (none: any value)."""

    name: str
    kind: Kind
    unit: str
    help: str
    label: str = ""
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, unit: str, help: str, label: str = "", values: tuple[str, ...] = ()) -> Metric:  # noqa: A002
    return Metric(f"plait_{name}_total", Kind.COUNTER, unit, help, label, values)


def _gauge(name: str, unit: str, help: str, label: str = "", values: tuple[str, ...] = ()) -> Metric:  # noqa: A002
    return Metric(f"plait_{name}", Kind.GAUGE, unit, help, label, values)


def _histogram(name: str, unit: str, help: str, buckets: tuple[float, ...]) -> Metric:  # noqa: A002
    return Metric(f"plait_{name}", Kind.HISTOGRAM, unit, help, buckets=buckets)


SECONDS = log_buckets(0.001, 100.0, 5)
SHORT_SECONDS = log_buckets(0.0001, 10.0, 6)
PHASES = ("planning", "prefill", "decode", "sampling")
LIMITS = ("n_batch", "n_prefill", "n_parallel", "row_share", "ttft_s", "token_s")

TTFT = _histogram("time_to_first_token_seconds", "s", "From arrival to the first token (TTFT).", SECONDS)
ITL = _histogram("inter_token_latency_seconds", "s", "Between two tokens of one stream (ITL).", SHORT_SECONDS)
END_TO_END = _histogram("request_seconds", "s", "From the arrival of a request to the end of a sample.", SECONDS)
QUEUE = _histogram("queue_seconds", "s", "From the arrival of a request to its first place in a step.", SECONDS)
TOKEN_TIME = _histogram("time_per_token_seconds", "s", "Mean ITL of one finished sample.", SHORT_SECONDS)
STEP_TIME = _histogram("step_duration_seconds", "s", "Duration of one step of the model.", SHORT_SECONDS)

SAMPLES = _counter("samples", "samples", "Samples that ended, by how.", "end", ("stop", "length", "abort", "error"))
IN_TIME = _counter("samples_in_time", "samples", "Samples that met the bounds on TTFT and ITL, if there are bounds.")
REJECTED = _counter("requests_rejected", "requests", "Requests refused at the door, by the error's code.", "reason")
PROMPT_TOKENS = _counter("prompt_tokens", "tokens", "Prompt tokens of the samples that ended, cached ones included.")
CACHED_TOKENS = _counter("cached_tokens", "tokens", "Those of them whose KV was found in memory.")
GENERATED_TOKENS = _counter("generated_tokens", "tokens", "Tokens handed out.")
STEPS = _counter("steps", "steps", "Steps of the model.")
STEP_TOKENS = _counter("step_tokens", "tokens", "Tokens computed in steps.", "kind", ("prefill", "decode"))
STEP_SECONDS = _counter(
    "step_seconds", "s", "Seconds of the steps; a step's own time is split by its tokens.", "phase", PHASES
)
STEP_SEQUENCES = _counter("step_sequences", "sequences", "Sequences in steps, each counted in every step.")
BUDGET_TOKENS = _counter("budget_tokens", "tokens", "Token budgets of the steps.")
BUDGET_SEQUENCES = _counter("budget_sequences", "sequences", "Sequence limits of the steps.")
PREEMPTIONS = _counter("preemptions", "sequences", "Sequences that gave their pages back and wait to be recomputed.")
RECOMPUTED = _counter("recomputed_tokens", "tokens", "Tokens computed again after a preemption.")
DRAFTED = _counter("draft_tokens", "tokens", "Draft tokens put into steps.")
ACCEPTED = _counter("accepted_draft_tokens", "tokens", "Draft tokens that the model confirmed.")
EVICTIONS = _counter("evicted_pages", "pages", "Cached pages given up for new tokens.")
PINS_ENDED = _counter(
    "pins_ended", "pins", "Pinned sessions let go, at their time or before it for lack of pages.",
    "end", ("expired", "dropped"),
)  # fmt: skip
DECISIONS = _counter("decisions", "decisions", "Changes of a limit by the controller.", "limit", LIMITS)

RUNNING = _gauge("running_sequences", "sequences", "Sequences that take part in steps.")
WAITING = _gauge("waiting_samples", "samples", "Samples in the queue.")
PAGES = _gauge("kv_pages", "pages", "Pages of KV memory.", "state", ("used", "cached", "free"))
PINNED = _gauge("pinned_pages", "pages", "Used pages of KV memory that pinned sessions hold.")
HIT_RATE = _gauge("prefix_hit_rate", "ratio", "Cached over all prompt tokens, since the start.")
TOKEN_USE = _gauge("batch_utilisation", "ratio", "Tokens of the last steps over their token budgets.")
SEQUENCE_USE = _gauge("sequence_utilisation", "ratio", "Sequences of the last steps over their sequence limits.")
ACCEPTANCE = _gauge("draft_acceptance", "ratio", "Confirmed over drafted tokens, since the start.")
LIMIT = _gauge("limit", "tokens, sequences, seconds or a ratio", "Limits in force.", "limit", LIMITS)
MODEL = _gauge(
    "step_time_model_seconds", "s", "What the controller takes each term of a step's time for.",
    "term", ("step", "decode_row", "prompt_token", "key_read"),
)  # fmt: skip
MEMORY = _gauge("memory_bytes", "bytes", "Resident memory of the process.")
CPU_LOAD = _gauge("cpu_load", "cores", "Processor time of this process per second, lately.")
MACHINE_LOAD = _gauge("machine_load", "processes", "Processes of the machine that want to run, mean of a minute.")

METRICS: tuple[Metric, ...] = (
    TTFT, ITL, END_TO_END, QUEUE, TOKEN_TIME, STEP_TIME,
    SAMPLES, IN_TIME, REJECTED, PROMPT_TOKENS, CACHED_TOKENS, GENERATED_TOKENS,
    STEPS, STEP_TOKENS, STEP_SECONDS, STEP_SEQUENCES, BUDGET_TOKENS, BUDGET_SEQUENCES,
    PREEMPTIONS, RECOMPUTED, DRAFTED, ACCEPTED, EVICTIONS, PINS_ENDED, DECISIONS,
    RUNNING, WAITING, PAGES, PINNED, HIT_RATE, TOKEN_USE, SEQUENCE_USE, ACCEPTANCE, LIMIT, MODEL,
    MEMORY, CPU_LOAD, MACHINE_LOAD,
)  # fmt: skip
