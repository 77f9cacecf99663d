"""The loop of `plait chat`: reads messages and commands, shows answers, keeps the conversation.

Answers go to standard output, everything else to standard error, reasoning too (dim, where that is a terminal).
Knows partners and lines; no model and no server.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from plait.cli.lines import read_message
from plait.cli.partners import Figures, Partner, Thought
from plait.errors import PlaitError

HELP = """\
/stats         tokens, speed, and how much of the prompts was found in memory
/reset         forget the conversation, but for the system message
/system TEXT   set the system message and begin anew; without a text, show it
/save FILE     write the conversation as JSON
/help          this
A line that ends with \\ goes on in the next one; three quotes (\"\"\") begin and end a block of lines.
Ctrl-C stops an answer, Ctrl-D ends the chat. A message that begins with // is sent with one slash."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Talk:
    """A conversation with `partner`. `read_line(prompt)` gives the next typed line, or raises `EOFError`."""

    def __init__(self, partner: Partner, read_line: Callable[[str], str], system: str, prompt: str) -> None:
        self._partner, self._read_line, self._prompt = partner, read_line, prompt
        self._system = system
        self._turns: list[dict[str, str]] = []
        self._figures: list[Figures] = []
        self._saved: set[Path] = set()  # files of ours, which may be written again
        self._commands: dict[str, Callable[[str], None]] = {
            "/stats": self._stats,
            "/reset": self._reset,
            "/system": self._set_system,
            "/save": self._save,
            "/help": lambda _: _note(HELP),
        }

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, system message first."""
        return [*([{"role": "system", "content": self._system}] if self._system else []), *self._turns]

    def run(self) -> None:
        """Until the lines end."""
        while True:
            try:
                text = read_message(self._read_line, self._prompt)
            except EOFError:
                return
            except KeyboardInterrupt:
                _note("\n(Ctrl-D ends the chat)")
                continue
            self.take(text)

    def take(self, text: str) -> None:
        """One message, or one command."""
        if not text.strip():
            return
        if text.startswith("/") and not text.startswith("//"):
            self._command(text)
        else:
            self._say(text[1:] if text.startswith("//") else text)

    def _say(self, text: str) -> None:
        """Send a message and show the answer. What was said until an interrupt stays; a failed turn leaves nothing."""
        self._turns.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            self._show(pieces)
        except KeyboardInterrupt:
            _note(" (stopped)")
        except PlaitError as error:
            self._turns.pop()
            _note(("\n" if pieces else "") + f"error: {error}")
            return
        else:
            print(flush=True)
        if pieces:
            self._turns.append({"role": "assistant", "content": "".join(pieces)})
        else:
            self._turns.pop()

    def _show(self, pieces: list[str]) -> None:
        thinking = False
        for piece in self._partner.answer(self.messages):
            if isinstance(piece, Figures):
                self._figures.append(piece)
                continue
            thought = isinstance(piece, Thought)
            if thinking and not thought:
                print(file=sys.stderr, flush=True)
            thinking = thought
            if isinstance(piece, Thought):
                _think(piece.text)
            else:
                pieces.append(piece)
                print(printable(piece), end="", flush=True)
        if thinking:
            print(file=sys.stderr, flush=True)

    # --- commands ---------------------------------------------------------------------------------------------------

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        action = self._commands.get(name.strip())
        if action is None:
            _note(f"there is no command {name.strip()}; /help lists them")
        else:
            action(rest.strip())

    def _stats(self, _: str) -> None:
        if not self._figures:
            _note("no answer is complete yet")
            return
        _note(f"last: {_line(self._figures[-1:])}")
        _note(f"all {len(self._figures)}: {_line(self._figures)}")

    def _reset(self, _: str) -> None:
        self._turns.clear()
        _note("a new conversation")

    def _set_system(self, text: str) -> None:
        if text:
            self._system = text
            self._reset("")
        else:
            _note(self._system or "there is no system message")

    def _save(self, name: str) -> None:
        if not name:
            _note("/save needs a file name")
            return
        path = Path(name).expanduser()
        try:
            with path.open("w" if path in self._saved else "x", encoding="utf-8") as file:
                json.dump({"messages": self.messages}, file, ensure_ascii=False, indent=1)
                file.write("\n")
        except FileExistsError:
            _note(f"{name} exists; give another name")
        except OSError as error:
            _note(f"error: {error}")
        else:
            self._saved.add(path)
            _note(f"saved {len(self.messages)} messages in {name}")


def printable(text: str) -> str:
    """A terminal obeys control characters, and a model is not to be obeyed: they become U+FFFD."""
    return _CONTROL.sub("\ufffd", text)


def _line(figures: Sequence[Figures]) -> str:
    prompt, cached = sum(f.prompt_tokens for f in figures), sum(f.cached_tokens for f in figures)
    made = sum(f.generated_tokens for f in figures)
    seconds = sum(f.seconds for f in figures)
    gaps = sum(max(0, f.generated_tokens - 1) for f in figures if f.seconds > 0)
    speed = f", {gaps / seconds:.1f} tokens/s" if seconds > 0 and gaps else ""
    return f"{prompt} prompt tokens, {cached} of them cached; {made} generated{speed}"


def _think(text: str) -> None:
    """Each piece is dim by itself, so that whatever ends it leaves the terminal as it was."""
    text = printable(text)
    print(f"\x1b[2m{text}\x1b[22m" if sys.stderr.isatty() else text, end="", file=sys.stderr, flush=True)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
