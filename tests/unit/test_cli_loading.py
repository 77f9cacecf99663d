"""The loading bar: on a terminal only, and only when loading takes its time."""

import io

from plait.cli.loading import LoadingBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_slow_load_shows_a_bar_on_a_terminal_and_takes_it_away() -> None:
    terminal = Terminal()
    bar = LoadingBar(terminal, patience_s=0)
    bar(50 * 2**20, 100 * 2**20)
    bar(100 * 2**20, 100 * 2**20)
    bar.close()
    assert "loading" in terminal.getvalue()
    assert "100.0" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K"), "the line is cleared"


def test_a_quick_load_shows_nothing() -> None:
    terminal = Terminal()
    bar = LoadingBar(terminal)
    bar(1, 2)
    bar.close()
    assert terminal.getvalue() == ""


def test_a_pipe_gets_nothing() -> None:
    for stream in (io.StringIO(), None):
        bar = LoadingBar(stream, patience_s=0)
        bar(1, 2)
        bar.close()
        assert stream is None or stream.getvalue() == ""
