"""`plait run`: continue prompts, many sequences at once, and say how it went."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Any

import click

from plait.cli.options import (
    command,
    engine_options,
    model_option,
    refused_options,
    sampling_options,
    take_engine_options,
    take_sampling,
)
from plait.errors import OptionError
from plait.garbage import uncollected
from plait.types import MAX_SAMPLES, ChatMessage, Grammar, GrammarKind

DEFAULT_MAX_TOKENS = 128


def run(
    model: str | None, prompt: tuple[str, ...], file: tuple[str, ...], chat: bool, as_json: bool, **rest: Any
) -> None:
    """Continue one prompt or several, all in one batch.

    With one prompt, -np N makes N continuations that share the prompt's memory. With several prompts each gets one
    continuation, and -np bounds how many run at once.
    """
    started = time.monotonic()
    prompts = [*prompt, *(_read(name) for name in file)]
    if not prompts:
        raise OptionError(
            'there is no prompt; give one with -p "Once upon a time", or a file with -f (- is standard input)'
        )
    n_parallel = rest.get("n_parallel")
    samples = n_parallel if n_parallel and len(prompts) == 1 else 1
    if samples > MAX_SAMPLES:
        raise OptionError(f"--parallel is {samples}; one prompt is continued at most {MAX_SAMPLES} times")
    options = take_engine_options(rest)
    grammar = _grammar(rest)
    params = take_sampling(rest, n=samples, grammar=grammar, **_fixed(rest))

    with uncollected():
        from plait.api import LLM  # here, so that a wrong option is answered at once
        from plait.cli.loading import loading_bar
        from plait.cli.output import make_printer
        from plait.cli.summary import Summary

        with loading_bar() as progress:
            llm = LLM(model, options=options, progress=progress)
    with llm:
        if llm.options.n_ctx > llm.model.context_length:
            own = llm.model.context_length
            print(f"plait: warning: -c {options.n_ctx} is more than the model's own context of {own}", file=sys.stderr)
        inputs = [llm.chat_prompt([ChatMessage(role="user", content=p)]) if chat else p for p in prompts]
        printer = make_printer(prompts, samples, as_json, gap="\n\n" if chat else "")
        summary = Summary(started)
        with printer:
            for delta in llm.stream(inputs, params):
                summary.see(delta)
                printer.see(delta)
        printer.close(summary.finish(llm.stats, params.seed or 0))


def _grammar(rest: dict[str, Any]) -> Grammar | None:
    """What answers are held to; at most one of the options that say so may be given."""
    given = {name: value for name in _GRAMMARS if (value := rest.pop(name)) is not None}
    if not given:
        return None
    if len(given) > 1:
        raise OptionError(f"give one of {', '.join(_GRAMMARS[name][0] for name in given)}, not several")
    ((name, value),) = given.items()
    flag, kind = _GRAMMARS[name]
    grammar = Grammar(kind, _text(value, f"{flag} {value}") if name.endswith("_file") else value)

    from plait.tokenizer.grammar import check_grammar  # before the model is loaded

    check_grammar(grammar)
    return grammar


def _read(name: str) -> str:
    """A prompt from a file, one trailing newline dropped (editors add it)."""
    if name == "-" and sys.stdin is None:
        raise OptionError("-f - reads standard input, which is closed")
    return _text(name, f"prompt file {name}").removesuffix("\n")


def _text(name: str, what: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OptionError(f"there is no {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read {what}: {error}") from None


def _fixed(rest: dict[str, Any]) -> dict[str, Any]:
    """What this command settles itself: a bound on the length, and a seed that it can report."""
    fixed: dict[str, Any] = {}
    if rest.get("max_tokens") is None:
        fixed["max_tokens"] = DEFAULT_MAX_TOKENS
    if rest.get("seed") in (None, -1):
        rest.pop("seed", None)
        fixed["seed"] = secrets.randbits(32)
    return fixed


_GRAMMARS = {
    "grammar": ("--grammar", GrammarKind.GBNF),
    "grammar_file": ("--grammar-file", GrammarKind.GBNF),
    "json_schema": ("--json-schema", GrammarKind.JSON_SCHEMA),
    "json_schema_file": ("--json-schema-file", GrammarKind.JSON_SCHEMA),
}

_OWN: list[click.Parameter] = [
    model_option(),
    click.Option(["prompt", "-p", "--prompt"], multiple=True, help="A prompt; may be given several times."),
    click.Option(["file", "-f", "--file"], multiple=True, help="A file that holds a prompt; - is standard input."),
    click.Option(
        ["chat", "--chat"], is_flag=True, help="Treat each prompt as a user's message, with the model's chat template."
    ),
    click.Option(["grammar", "--grammar"], help="Hold answers to this grammar, in llama.cpp's GBNF."),
    click.Option(["grammar_file", "--grammar-file"], help="The same from a file."),
    click.Option(
        ["json_schema", "-j", "--json-schema"], help="Hold answers to this JSON schema; {} is any JSON value."
    ),
    click.Option(["json_schema_file", "-jf", "--json-schema-file"], help="The same from a file."),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object a line: each sequence, then the summary."),
]

COMMAND = command("run", [*_OWN, *sampling_options(), *engine_options(), *refused_options()], run)
