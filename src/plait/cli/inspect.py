"""`plait inspect`: what a model file holds, whether Plait can run it or not."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from plait.cli.options import command
from plait.errors import BackendError, PlaitError, UnsupportedModelError
from plait.formats.hub import resolve_model
from plait.formats.open import open_model
from plait.formats.tensor import LazyTensor, ModelSource
from plait.models.registry import LoadedModel, load_model
from plait.ops.api import KV_TYPES, KVShape
from plait.tokenizer import Tokenizer

if TYPE_CHECKING:
    from plait.ops.cpu.plan import WeightPlan

LONG = 8  # arrays longer than this are shown by their length


def inspect(model: str | None, as_json: bool) -> None:
    """Show a model's metadata, tensors, types and sizes, tokenizer, chat template, memory, and CPU kernels.

    MODEL is a .gguf file, a directory or a hub id; without it the bundled model is shown.
    """
    source = open_model(resolve_model(model))
    loaded, why_not = _load(source)
    plan = None if loaded is None else _plan(loaded)
    kernels = {} if plan is None else plan.kernels
    report = {
        "path": str(source.path),
        "container": source.container,
        "model": _model(source, loaded, why_not) | ({} if loaded is None else {"memory": _memory(loaded, plan)}),
        "metadata": {key: _short(value) for key, value in source.metadata.items()},
        "cpu_paths": _cpu_paths(),
        "tokenizer": _tokenizer(source),
        "types": _types(source),
        "tensors": [
            {"name": t.name, "type": t.format, "shape": list(t.shape), "bytes": t.nbytes, "kernel": kernels.get(t.name)}
            for t in source.tensors.values()
        ],
    }
    if as_json:
        print(json.dumps(report, default=str))
    else:
        _print(report)


def _load(source: ModelSource) -> tuple[LoadedModel | None, str]:
    """The model, or why Plait does not run it."""
    if not source.tensors:
        return None, "the file has no tensors"
    try:
        return load_model(source), ""
    except UnsupportedModelError as error:
        return None, error.reason


def _plan(loaded: LoadedModel) -> WeightPlan | None:
    """What the CPU library does with the weights; None where it is not built, or cannot run them."""
    try:
        from plait.ops.cpu.plan import plan_weights

        return plan_weights(loaded.program)
    except (ImportError, BackendError):
        return None


def _memory(loaded: LoadedModel, plan: WeightPlan | None) -> dict[str, int]:
    """Bytes on the CPU: weights, KV memory of one sequence at full context (f16), both; what the process itself and a
    step's rows take comes on top."""
    kv = kv_bytes_per_token(loaded.kv)["f16"] * loaded.context_length
    if plan is None:
        return {"kv_of_one_sequence": kv}
    weights = plan.repacked_bytes + plan.mapped_bytes
    return {
        "weights_repacked": plan.repacked_bytes,
        "weights_in_file": plan.mapped_bytes,
        "kv_of_one_sequence": kv,
        "weights_and_one_sequence": weights + kv,
    }


def _model(source: ModelSource, loaded: LoadedModel | None, why_not: str) -> dict[str, Any]:
    """What Plait makes of it; an unsupported model says so here and is shown all the same."""
    parameters = sum(_count(t) for t in source.tensors.values())
    size = sum(t.nbytes for t in source.tensors.values())
    facts: dict[str, Any] = {"parameters": parameters, "bytes": size, "bits_per_weight": 8 * size / max(parameters, 1)}
    if loaded is None:
        return facts | {"runs": f"no: {why_not}"}
    return facts | {
        "runs": "yes",
        "architecture": loaded.architecture,
        "context_length": loaded.context_length,
        "vocabulary": loaded.vocab_size,
        "layers": loaded.program.kv.n_layers,
        "heads": loaded.program.n_heads,
        "kv_heads": loaded.program.kv.n_kv_heads,
        "head_dim": loaded.program.kv.head_dim,
        "kv_bytes_per_token": kv_bytes_per_token(loaded.program.kv),
    }


def _cpu_paths() -> list[str]:
    """SIMD paths of the kernels on this CPU, fastest first: the first one runs unless `--cpu-path` names another."""
    try:
        from plait.ops.cpu import CpuBackend
    except ImportError:
        return []
    return list(CpuBackend.paths())


def kv_bytes_per_token(kv: KVShape) -> dict[str, int]:
    """Bytes of KV memory that one token takes, for each KV type that can hold the heads."""
    fitting = (t for t, (values, _) in KV_TYPES.items() if kv.head_dim % values == kv.v_head_dim % values == 0)
    return {kv_type: kv.n_layers * kv.layer_bytes(kv_type) for kv_type in fitting}


def _tokenizer(source: ModelSource) -> dict[str, Any]:
    try:
        tokenizer = Tokenizer.from_source(source)
    except PlaitError as error:
        return {"error": str(error)}
    return {
        "kind": tokenizer.kind,
        "vocabulary": tokenizer.vocab_size,
        "bos": _named(tokenizer, tokenizer.bos_id),
        "end_of_generation": [_named(tokenizer, token) for token in sorted(tokenizer.eog_ids)],
        "chat_template": tokenizer.chat_template,
    }


def _named(tokenizer: Tokenizer, token: int | None) -> str | None:
    return None if token is None else f"{token} {tokenizer.token_text(token)!r}"


def _types(source: ModelSource) -> dict[str, dict[str, int]]:
    tensors: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for tensor in source.tensors.values():
        tensors[tensor.format] += 1
        size[tensor.format] += tensor.nbytes
    return {name: {"tensors": tensors[name], "bytes": size[name]} for name, _ in size.most_common()}


def _count(tensor: LazyTensor) -> int:
    n = 1
    for d in tensor.shape:
        n *= d
    return n


def _short(value: Any) -> object:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, dict):
        return {str(k): _short(v) for k, v in value.items()}
    return [_plain(v) for v in value] if len(value) <= LONG else f"{len(value)} values"


def _plain(value: Any) -> object:
    """numpy scalars as Python numbers."""
    return value.item() if hasattr(value, "item") else value


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    show = console.print
    show(f"[bold]{report['path']}[/]  ({report['container']})")
    for title, facts in (("model", report["model"]), ("tokenizer", report["tokenizer"])):
        show(f"\n[bold]{title}[/]")
        for key, value in facts.items():
            show(f"  {key:20}", end="")
            show(_fact(key, value), markup=False)
    show(f"\n[bold]CPU kernels here[/]  {', '.join(report['cpu_paths']) or 'not built'} (fastest first; --cpu-path)")
    show("\n[bold]metadata[/]")
    for key, value in report["metadata"].items():
        show(f"  {key:44} {_one_line(value)}", markup=False)
    show("\n[bold]tensors[/]")
    for name, facts in report["types"].items():
        show(f"  {name:8} {facts['tensors']:5} tensors  {_size(facts['bytes']):>10}")
    table = Table(box=None, pad_edge=False)
    for column in ("name", "type", "shape", "size", "kernel"):
        table.add_column(column, justify="right" if column == "size" else "left", no_wrap=True)
    for t in report["tensors"]:
        table.add_row(t["name"], t["type"], " x ".join(map(str, t["shape"])), _size(t["bytes"]), t["kernel"])
    show(table)


def _fact(key: str, value: object) -> str:
    if key == "bytes" and isinstance(value, int):
        return _size(value)
    if key == "memory" and isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_size(size)}" for name, size in value.items())
    if key == "chat_template":
        return "none" if value is None else _one_line(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if isinstance(value, float) else str(value)


def _one_line(value: object) -> str:
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= 100 else text[:97] + "..."


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.2f} GiB"


COMMAND = command(
    "inspect",
    [
        click.Argument(["model"], required=False),
        click.Option(["as_json", "--json"], is_flag=True, help="One JSON object instead of tables."),
    ],
    inspect,
)
