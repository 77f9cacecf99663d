"""The parts of `plait chat`: messages out of lines, the loop with a partner that plays its part, a server's stream."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from plait.cli.lines import read_message
from plait.cli.partners import Answer, AnswerError, Figures, Message, RemotePartner, Thought, _pieces
from plait.cli.talk import Talk, printable
from plait.errors import OptionError
from plait.tokenizer.toolcalls import OutputParser, answer_format


def lines_of(*lines: str) -> Callable[[str], str]:
    left = list(lines)

    def read_line(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return read_line


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (["one\\"], "one"),
        (['"""', "a", "", "  b", '"""'], "a\n\n  b"),
        (['"""one line"""'], "one line"),
        (['"""a', 'b"""'], "a\nb"),
        (['"""', "cut off"], "cut off"),
        (['"""', "a\\", '"""'], "a\\"),
        (['say """x"""'], 'say """x"""'),
    ],
)
def test_messages_of_several_lines(lines: list[str], message: str) -> None:
    read_line = lines_of(*lines)
    assert read_message(read_line, "> ") == message
    with pytest.raises(EOFError):
        read_message(read_line, "> ")


class Parrot:
    """Says what was said, in two pieces; fails or is interrupted after the first where the text asks for it."""

    name, note = "parrot", ""

    def __init__(self) -> None:
        self.seen: list[list[Message]] = []

    def answer(self, messages: Sequence[Message]) -> Answer:
        self.seen.append(list(messages))
        text = messages[-1]["content"]
        yield text[:2]
        if text == "fail":
            raise AnswerError("it failed")
        if text == "stop":
            raise KeyboardInterrupt
        yield text[2:]
        yield Figures(prompt_tokens=10, cached_tokens=4, generated_tokens=5, seconds=2.0)


def talk(*lines: str, system: str = "") -> tuple[Talk, Parrot]:
    partner = Parrot()
    made = Talk(partner, lines_of(*lines), system, "> ")
    made.run()
    return made, partner


def test_a_turn_sees_the_turns_before_it() -> None:
    made, partner = talk("hello", "again", system="Be kind.")
    assert [m["content"] for m in partner.seen[1]] == ["Be kind.", "hello", "hello", "again"]
    assert [m["role"] for m in made.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_a_stopped_answer_stays_and_a_failed_turn_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = talk("stop", "fail", "next")
    assert [m["content"] for m in made.messages] == ["stop", "st", "next", "next"]
    said = capsys.readouterr()
    assert "stopped" in said.err
    assert "error: it failed" in said.err
    assert said.out.endswith("next\n")


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    made, partner = talk(
        "/stats", "one", "two", "/stats", "/system Be brief.", "/system", "//etc", "/nonsense", "/help"
    )
    said = capsys.readouterr().err
    assert "no answer is complete yet" in said
    assert "last: 10 prompt tokens, 4 of them cached; 5 generated, 2.0 tokens/s" in said
    assert "all 2: 20 prompt tokens, 8 of them cached; 10 generated, 2.0 tokens/s" in said
    assert "Be brief." in said
    assert "no command /nonsense" in said
    assert "/save FILE" in said
    assert [m["content"] for m in made.messages] == ["Be brief.", "/etc", "/etc"]
    assert len(partner.seen) == 3


def test_reset_keeps_the_system_message() -> None:
    made, _ = talk("one", "/reset", system="Be kind.")
    assert [m["content"] for m in made.messages] == ["Be kind."]


def test_save_writes_anew_only_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, other = tmp_path / "mine.json", tmp_path / "other.json"
    other.write_text("precious")
    talk("one", f"/save {mine}", "two", f"/save {mine}", f"/save {other}", f"/save {tmp_path / 'no' / 'x'}", "/save")
    assert [m["content"] for m in json.loads(mine.read_text())["messages"]] == ["one", "one", "two", "two"]
    assert other.read_text() == "precious"
    said = capsys.readouterr().err
    assert "other.json exists" in said
    assert "No such file" in said
    assert "needs a file name" in said


def test_the_terminal_does_not_obey_a_model() -> None:
    assert printable("a\x1b[2J\x07\x9b\r\tö\n👩‍🚀") == "a\ufffd[2J\ufffd\ufffd\ufffd\tö\n👩‍🚀"


# --- a server -----------------------------------------------------------------------------------------------------


@contextmanager
def serving(body: bytes, status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers every request with `body`; its address, and the requests it had."""
    had: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b'{"data": [{"id": "only"}]}', 200)

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            had.append({"path": self.path, "key": self.headers["Authorization"], **sent})
            self._answer(body, status)

        def _answer(self, data: bytes, code: int) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", had
        finally:
            server.shutdown()
            thread.join()


def sse(*events: object) -> bytes:
    return b"".join(b"data: %s\n\n" % (e if isinstance(e, bytes) else json.dumps(e).encode()) for e in events)


def delta(**fields: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}
ASK: list[Message] = [{"role": "user", "content": "hi"}]


def test_an_answer_from_a_server() -> None:
    stream = sse(delta(role="assistant", content=""), delta(content="Hé"), delta(content="llo"), {"choices": [], "usage": USAGE}, b"[DONE]")  # fmt: skip  # noqa: E501
    with serving(b": a comment\n\n" + stream) as (url, had):
        *texts, figures = RemotePartner(url + "/v1/", "secret", None, {"temperature": 0.5}).answer(ASK)
    assert texts == ["Hé", "llo"]
    assert isinstance(figures, Figures)
    assert (figures.prompt_tokens, figures.cached_tokens, figures.generated_tokens) == (9, 3, 7)
    assert had[0]["path"] == "/v1/chat/completions"
    assert had[0]["key"] == "Bearer secret"
    assert (had[0]["model"], had[0]["temperature"], had[0]["messages"]) == ("only", 0.5, ASK)


def test_reasoning_is_told_apart_and_stays_out_of_the_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    stream = sse(delta(reasoning_content="Hm"), delta(reasoning_content="m."), delta(content="Yes"), {"choices": [], "usage": USAGE}, b"[DONE]")  # fmt: skip  # noqa: E501
    with serving(stream) as (url, _):
        partner = RemotePartner(url, None, "m", {})
        *found, _ = partner.answer(ASK)
        assert found == [Thought("Hm"), Thought("m."), "Yes"]
        made = Talk(partner, lines_of("hi"), "", "> ")
        made.run()
    assert made.messages[-1] == {"role": "assistant", "content": "Yes"}
    assert capsys.readouterr() == ("Yes\n", "Hmm.\n")


def test_reasoning_is_dim_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    partner = Parrot()
    monkeypatch.setattr(partner, "answer", lambda messages: iter([Thought("Hm\x1b[2J"), "Yes"]))
    made = Talk(partner, lines_of("hi"), "", "> ")
    made.run()
    assert capsys.readouterr() == ("Yes\n", "\x1b[2mHm\ufffd[2J\x1b[22m\n")


def test_reasoning_of_a_model_in_this_process() -> None:
    parser = OutputParser(answer_format("{{ messages }} <think></think>").without_tools())
    texts = ["<thi", "nk>Hm", "m.</think>\n\nYe", "s"]
    found = [piece for i, text in enumerate(texts) for piece in _pieces(parser, text, i == 3)]
    assert "".join(piece.text for piece in found if isinstance(piece, Thought)) == "Hmm."
    assert "".join(piece for piece in found if isinstance(piece, str)).strip() == "Yes"
    assert list(_pieces(None, "<think>", True)) == ["<think>"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"error": {"message": "no such key"}}', 401, "no such key"),
        (b"<html>", 502, "status 502"),
        (sse(delta(content="a")), 200, "ended early"),
        (sse({"error": {"message": "the engine died"}}), 200, "the engine died"),
        (sse(b"{"), 200, "broke"),
    ],
)
def test_a_server_that_fails(body: bytes, status: int, said: str) -> None:
    with serving(body, status) as (url, _), pytest.raises(AnswerError, match=said):
        list(RemotePartner(url, None, "m", {}).answer(ASK))


def test_an_address_where_nobody_answers() -> None:
    with serving(b"") as (url, _):
        pass
    with pytest.raises(AnswerError, match="cannot be reached"):
        RemotePartner(url, None, None, {})
    with pytest.raises(OptionError, match="http"):
        RemotePartner("localhost:8080", None, None, {})
