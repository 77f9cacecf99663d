"""`plait quantize`: a model, GGUF or Hugging Face's, to a GGUF file of other types."""

from __future__ import annotations

import math
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from plait.cli.options import command
from plait.errors import OptionError
from plait.formats.gguf_writer import encode_value
from plait.formats.hub import resolve_model
from plait.formats.mixes import MIXES
from plait.formats.open import open_model
from plait.formats.requantize import copied_pairs, default_threads, plan_conversion, write_conversion
from plait.formats.tensor import ModelSource
from plait.models.gguf_export import export_model
from plait.tokenizer.gguf_export import tokenizer_pairs


def quantize(model: str, out: str, kind: str, threads: int | None, force: bool, allow_requantize: bool) -> None:
    """Write the model IN to the GGUF file OUT, its matrices in the types of --type.

    IN is a GGUF file, a Hugging Face directory, or a hub id. Types and mixes are llama.cpp's; it loads the file, too.
    OUT appears when it is whole.
    """
    target = Path(out)
    if target.exists() and not force:
        raise OptionError(f"{out} exists; --force overwrites it")
    if target.is_dir() or not target.parent.is_dir():
        raise OptionError(f"{out}: {'is a directory' if target.is_dir() else 'its directory does not exist'}")
    opened, mix = open_model(resolve_model(model)), MIXES[kind.upper()]
    source, pairs = _as_gguf(opened)
    work = plan_conversion(source, mix, allow_requantize)
    total = sum(one.tensor.nbytes for one in work)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{mix.name}", total=sum(math.prod(one.tensor.shape) for one in work))
        write_conversion(
            source.path, pairs, target, mix, work, threads or default_threads(), lambda n: bar.advance(task, n)
        )
    written = sum(one.plan.nbytes for one in work)
    print(f"{out}: {mix.name}, {written / 1e6:,.1f} MB of tensors instead of {total / 1e6:,.1f}")


def _as_gguf(source: ModelSource) -> tuple[ModelSource, dict[str, bytes]]:
    """The model under GGUF's names, and its encoded keys."""
    if source.container == "gguf":
        return source, copied_pairs(source.path)
    exported = export_model(source)
    n_vocab = exported.tensors["token_embd.weight"].shape[0]
    pairs = {**exported.metadata, **tokenizer_pairs(source.path, n_vocab)}
    return exported, {key: encode_value(value) for key, value in pairs.items()}


COMMAND = command(
    "quantize",
    [
        click.Argument(["model"], metavar="IN"),
        click.Argument(["out"], metavar="OUT"),
        click.Option(
            ["kind", "--type"],
            required=True,
            type=click.Choice(sorted(MIXES), case_sensitive=False),
            help="Type of the matrices, or llama.cpp's name of a mix of types.",
        ),
        click.Option(
            ["threads", "-t", "--threads"], type=click.IntRange(1), help="Threads. Default: one for each core."
        ),
        click.Option(["force", "--force"], is_flag=True, help="Overwrite OUT."),
        click.Option(
            ["allow_requantize", "--allow-requantize"], is_flag=True, help="Quantise what is quantised already."
        ),
    ],
    quantize,
)
