"""The command line: finds the subcommand, and turns every failure into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Heavy modules are imported by the subcommand that runs.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence

import click

from plait import __version__
from plait.errors import OptionError, PlaitError, RequestError

COMMANDS = {
    "run": ("plait.cli.run", "Continue prompts, many sequences at once."),
    "serve": ("plait.cli.serve", "Serve a model over HTTP, as OpenAI's API and llama.cpp's server do."),
    "chat": ("plait.cli.chat", "Talk with a model in the terminal, here or on a server."),
    "bench": ("plait.cli.bench", "Measure prefill and decode speed against the number of sequences."),
    "pull": ("plait.cli.pull", "Fetch a model from the Hugging Face hub."),
    "inspect": ("plait.cli.inspect", "Show what a model file holds."),
    "quantize": ("plait.cli.quantize", "Write a model as GGUF, in smaller types."),
}


class Plait(click.Group):
    """The group of subcommands; imports one only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = module.COMMAND
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _root() -> Plait:
    group = Plait(
        "plait",
        help="Batched LLM inference on your own machine.",
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
    )
    return click.version_option(__version__, prog_name="plait")(group)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        _root().main(args=None if args is None else list(args), prog_name="plait", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        return _fail(_usage(error), 2)
    except (OptionError, RequestError) as error:
        return _fail(str(error), 2)
    except PlaitError as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        _drop_output()  # the reader has gone, and nothing is left to say
        return 1
    except OSError as error:
        _drop_output()
        return _fail(str(error), 1)
    except MemoryError:
        return _fail("out of memory; try a smaller --ctx-size, --parallel or --kv-memory", 1)
    return 0


def _drop_output() -> None:
    """What could not be written must not trouble Python's flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "plait"
    return f"{message.rstrip('.')}; see {where} --help"


def _fail(message: str, code: int) -> int:
    print(f"plait: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def entry() -> None:
    """The console script. What the terminal's character set lacks is shown as a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where it is closed or replaced
            stream.reconfigure(errors="replace")
    handler = logging.StreamHandler()
    handler.setFormatter(LogLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    sys.exit(main())


class LogLines(logging.Formatter):
    """Lines of the log as the program's other lines: "plait: warning: ..."; what is only told has no such word."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"plait: {level}{super().format(record)}"
