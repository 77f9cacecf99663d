"""`plait chat` as a user meets it: a process, lines typed into it, a terminal with Ctrl-C and Ctrl-D."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHAT = [sys.executable, "-W", "error", "-m", "plait", "chat"]
FAST = ["-c", "512", "-n", "12", "--temp", "0"]


def chat(*args: str, typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CHAT, *args], capture_output=True, text=True, input=typed, timeout=120, check=False)


def test_piped_messages_give_an_answer_each_and_the_second_turn_finds_the_first_in_memory(tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    done = chat(*FAST, typed=f"Tell me of a dog.\nAnd\\\nof a cat.\n/stats\n/save {saved}\n")
    assert done.returncode == 0, done.stderr
    messages = json.loads(saved.read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2]["content"] == "And\nof a cat."
    assert done.stdout == f"{messages[1]['content']}\n{messages[3]['content']}\n"
    cached = re.search(r"last: (\d+) prompt tokens, (\d+) of them cached; (\d+) generated", done.stderr)
    assert cached is not None, done.stderr
    assert 0 < int(cached[2]) < int(cached[1])
    assert 0 < int(cached[3]) <= 12


def test_a_message_that_does_not_fit_is_refused_and_the_chat_goes_on() -> None:
    done = chat("-c", "64", "-n", "4", "--temp", "0", typed="word " * 200 + "\nHello\n")
    assert done.returncode == 0, done.stderr
    assert "error: " in done.stderr
    assert len(done.stdout) > 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-m", "missing.gguf"], "missing.gguf"),
        (["--temp", "-1"], "--temperature is -1"),
        (["--url", "localhost:1"], "--url is localhost:1"),
        (["--url", "http://127.0.0.1:1"], "cannot be reached"),
        (["--url", "http://127.0.0.1:1", "-c", "64"], "--ctx-size is the server's to choose"),
        (["--url", "http://127.0.0.1:1", "--no-prefix-cache"], "prefix-cache"),
    ],
)
def test_bad_options_are_one_line(args: list[str], said: str) -> None:
    done = chat(*args, typed="hello\n")
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_on_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_ends_the_chat() -> None:
    with Terminal([*CHAT, "-c", "8192", "-n", "-1", "--ignore-eos"]) as terminal:
        terminal.until("> ")
        terminal.type("Tell me a long story.\n")
        terminal.until("Tell me a long story.")
        terminal.more()  # it has begun to answer
        terminal.type("\x03")
        terminal.until("(stopped)")
        terminal.until("> ")
        terminal.insist("\x03", "Ctrl-D ends")
        terminal.until("> ")
        terminal.type("/stats\n")
        terminal.until("no answer is complete yet")
        terminal.until("> ")  # what is typed before readline listens may be lost
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0


class Terminal:
    """A process whose terminal is ours."""

    def __init__(self, command: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=_take_terminal
        )
        os.close(theirs)
        self._seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, wanted: str) -> None:
        """Read until `wanted` is there, and drop what is up to it."""
        while wanted not in self._seen:
            self._read(wanted)
        self._seen = self._seen.split(wanted, 1)[1]

    def insist(self, key: str, wanted: str) -> None:
        """Press a key again until `wanted` is there: Python's readline sleeps over a signal that comes in the moment
        between showing its prompt and waiting."""
        for _ in range(60):
            self.type(key)
            while wanted not in self._seen and select.select([self._ours], [], [], 1.0)[0]:
                self._read(wanted)
            if wanted in self._seen:
                return self.until(wanted)
        raise AssertionError(f"no {wanted!r} in {self._seen!r}")

    def more(self) -> None:
        """Read until there are words that were not read yet."""
        while len(self._seen.strip()) < 20:
            self._read("an answer")

    def _read(self, wanted: str) -> None:
        end = time.monotonic() + 90
        if not select.select([self._ours], [], [], end - time.monotonic())[0]:
            raise AssertionError(f"no {wanted!r} in {self._seen!r}")
        self._seen += os.read(self._ours, 4096).decode(errors="replace")


def _take_terminal() -> None:
    """Ctrl-C reaches only who has the terminal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
