"""The metrics reference, generated: `python -m plait.metrics.reference > docs/reference/metrics.md`."""

from __future__ import annotations

from plait.metrics.advice import RULES
from plait.metrics.catalogue import METRICS, Metric


def metrics_reference() -> str:
    """Markdown: a table of metrics, and one of the advice, from their declarations."""
    lines = ["# Metrics", "", "Generated from their declarations: `python -m plait.metrics.reference`.", ""]
    lines += ["| name | kind | unit | label | meaning |", "|---|---|---|---|---|"]
    lines += [f"| `{m.name}` | {m.kind} | {m.unit} | {_label(m)} | {m.help} |" for m in METRICS]
    lines += ["", "## Buckets of the histograms", "", "Upper bounds; one more bucket holds what is above.", ""]
    lines += [f"- `{m.name}`: {', '.join(f'{b:g}' for b in m.buckets)}" for m in METRICS if m.buckets]
    lines += [
        "",
        "## Advice",
        "",
        "Rules over the figures of a stretch of time; each shows the figures behind it.",
        "",
    ]
    lines += ["| code | when |", "|---|---|"]
    lines += [f"| `{rule.code}` | {rule.when} |" for rule in RULES]
    return "\n".join([*lines, ""])


def _label(metric: Metric) -> str:
    return f"`{metric.label}`: {', '.join(metric.values) or 'any'}" if metric.label else ""


if __name__ == "__main__":
    print(metrics_reference(), end="")
