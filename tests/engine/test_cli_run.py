"""`plait run` and `plait inspect` as a user meets them: a process, its output, its exit code."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PLAIT = [sys.executable, "-W", "error", "-m", "plait"]
FAST = ["-c", "256", "-n", "12", "--temp", "0"]


def plait(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PLAIT, *args], capture_output=True, text=True, input=stdin, timeout=120, check=False)


def run_json(*args: str) -> tuple[list[dict[str, object]], dict[str, float]]:
    done = plait("run", *FAST, "--json", *args)
    assert done.returncode == 0, done.stderr
    *sequences, last = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted(sequences, key=lambda s: int(s["index"])), last["summary"]


def test_one_prompt_in_four_sequences_shares_the_prompts_memory() -> None:
    sequences, summary = run_json("-p", "Once upon a time there was a little", "-np", "4", "--temp", "0.8", "-s", "1")
    assert [s["index"] for s in sequences] == [0, 1, 2, 3]
    assert len({s["text"] for s in sequences}) > 1
    for sequence in sequences:
        assert sequence["prompt"] == "Once upon a time there was a little"
        assert len(sequence["token_ids"]) <= 12
        assert sequence["finish_reason"] in ("length", "stop")
    assert summary["prompt_tokens"] == 4 * sequences[0]["prompt_tokens"]
    assert summary["hit_rate"] == pytest.approx(0.75)
    assert summary["generated_tokens"] == sum(len(s["token_ids"]) for s in sequences)
    assert 0 < summary["batch_utilisation"] <= 1
    assert summary["peak_memory_mib"] > 10


def test_several_prompts_give_what_each_gives_alone() -> None:
    together, _ = run_json("-p", "Once upon a time", "-p", "The little dog", "-p", "A")
    for sequence in together:
        alone, _ = run_json("-p", str(sequence["prompt"]))
        assert alone[0]["token_ids"] == sequence["token_ids"]


def test_piped_text_is_the_text_alone_and_the_figures_go_to_standard_error() -> None:
    done = plait("run", *FAST, "-p", "Once upon a time")
    assert done.returncode == 0
    assert done.stdout.startswith("Once upon a time")
    assert "tokens/s" not in done.stdout
    assert "hit rate" in done.stderr
    assert "generated" in done.stderr


def test_the_same_seed_gives_the_same_text_and_another_another() -> None:
    texts = [plait("run", "-n", "20", "-c", "256", "-p", "The king", "-s", seed).stdout for seed in ("5", "5", "6")]
    assert texts[0] == texts[1] != texts[2]


def test_prompts_come_from_files_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("The little dog\n")
    expected = plait("run", *FAST, "-p", "The little dog").stdout
    assert plait("run", *FAST, "-f", str(tmp_path / "prompt.txt")).stdout == expected
    assert plait("run", *FAST, "-f", "-", stdin="The little dog\n").stdout == expected


def test_a_stop_string_ends_the_text_and_is_not_shown() -> None:
    done = plait("run", "-c", "256", "-n", "100", "--temp", "0", "--json", "-p", "Once upon a time", "-r", ".")
    sequence = json.loads(done.stdout.splitlines()[0])
    assert sequence["finish_reason"] == "stop"
    assert "." not in sequence["text"]


@pytest.mark.parametrize("args", [["-n", "2"], ["-n", "2", "--json"], ["-n", "2", "-np", "2"]])
def test_a_terminal_that_lacks_a_character_is_no_failure(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = plait("run", "-p", "h\u00e9 \u4f60\u597d", *args)
    assert done.returncode == 0, done.stderr


def test_zero_tokens_is_an_empty_continuation() -> None:
    sequences, summary = run_json("-p", "Hello", "-n", "0")
    assert (sequences[0]["text"], sequences[0]["token_ids"], sequences[0]["finish_reason"]) == ("", [], "length")
    assert summary["generated_tokens"] == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run"], "no prompt"),
        (["run", "-p", "x", "-m", "missing.gguf"], "missing.gguf"),
        (["run", "-p", "x", "-m", "{dir}"], "{dir}"),
        (["run", "-p", "x", "-m", "{text}"], "text"),
        (["run", "-p", "x", "-np", "0"], "--parallel"),
        (["run", "-p", "x", "-np", "four"], "four"),
        (["run", "-p", "x", "-np", "2000"], "--parallel"),
        (["run", "-p", "x", "--temp", "-1"], "--temperature is -1"),
        (["run", "-p", "x", "--top-p", "2"], "--top-p is 2"),
        (["run", "-p", "x", "-b", "0"], "--batch-size"),
        (["run", "-p", "x", "--no-such-flag"], "--no-such-flag"),
        (["run", "-p", "word " * 300, "-c", "64"], "64"),
        (["run", "-f", "missing.txt"], "missing.txt"),
        (["run", "-p", "x", "--device", "tpu"], "tpu"),
        (["run", "-p", "x", "-ngl", "99"], "-ngl"),
        (["run", "-p", "x", "-fa"], "-fa"),
        (["run", "-p", "x", "--lora", "a.gguf"], "--lora"),
        (["run", "-p", "x", "--kv-memory", "2000000000"], "--kv-memory"),
        (["run", "-p", "x", "--cpu-mask", "g"], "--cpu-mask"),
        (["run", "-p", "x", "-Cr", "8000-8001"], "may not use CPU 8000, 8001; it may use"),
        (["run", "-p", "x", "-t", "1024", "--cpu-strict", "1"], "1024 threads"),
        (["run", "-p", "x", "-Cb", "3"], "-Cb"),
        (["run", "x"], "x"),
        (["inspect", "missing.gguf"], "missing.gguf"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_line_that_says_what_and_how_to_mend_it(args: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("just some notes\n" * 100)
    places = {"dir": str(tmp_path / "empty"), "text": str(tmp_path / "notes.gguf")}
    (tmp_path / "empty").mkdir()
    done = plait(*[arg.format(**places) if "{" in arg else arg for arg in args])
    assert done.returncode != 0
    assert said.format(**places) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_shows_what_the_bundled_model_holds() -> None:
    done = plait("inspect")
    assert done.returncode == 0, done.stderr
    for word in (
        "llama",
        "Q8_0",
        "CPU kernels here",
        "scalar",
        "token_embd.weight",
        "chat_template",
        "kv_bytes_per_token",
        "8,192",
    ):
        assert word in done.stdout
    report = json.loads(plait("inspect", "--json").stdout)
    assert report["model"]["runs"] == "yes"
    assert {t["kernel"] for t in report["tensors"] if len(t["shape"]) == 2} == {"int8, repacked"}
    assert {t["kernel"] for t in report["tensors"] if len(t["shape"]) == 1} == {None}
    memory = report["model"]["memory"]
    assert memory["kv_of_one_sequence"] == 8192 * report["model"]["kv_bytes_per_token"]["f16"]
    assert memory["weights_and_one_sequence"] == memory["weights_repacked"] + memory["kv_of_one_sequence"]
    assert 0.99 < memory["weights_repacked"] / report["model"]["bytes"] < 1.01
    assert report["model"]["parameters"] == sum(_product(t["shape"]) for t in report["tensors"])


def _product(shape: list[int]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def test_kept_repacked_weights_give_the_same_text_and_a_bad_file_is_a_warning(tmp_path: Path) -> None:
    args = ["run", *FAST, "-p", "Once", "--repack-cache", str(tmp_path / "cache")]
    first, second = plait(*args), plait(*args)
    assert first.stdout == second.stdout == plait("run", *FAST, "-p", "Once").stdout
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text("no such thing")
    third = plait(*args)
    assert (third.returncode, third.stdout) == (0, first.stdout)
    assert "warning" in third.stderr
    assert "Traceback" not in third.stderr


PERSON = """{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"],
 "additionalProperties": false}"""


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        (("--grammar", 'root ::= "yes" | "no" "!"'), "yes|no!"),
        (("-j", PERSON), r'\{\s*"age"\s*:\s*-?\d+\s*.*\}'),
        (("--grammar-file", "FILE"), "[ab]{3}"),
        (("--json-schema-file", "FILE"), "[0-9]"),
    ],
)
def test_answers_are_held_to_a_grammar(tmp_path: Path, flags: tuple[str, str], pattern: str) -> None:
    file = tmp_path / "grammar"
    file.write_text("root ::= [ab]{3}" if flags[0] == "--grammar-file" else '{"enum": [1, 2, 3]}')
    option, value = flags
    value = value.replace("FILE", str(file))
    done = plait("run", "--json", "-p", "The answer:", "-n", "200", "-s", "3", option, value)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(pattern, json.loads(done.stdout.splitlines()[0])["text"], re.DOTALL)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--grammar", "root ::= x"), "the grammar (gbnf) cannot be used"),
        (("-j", '{"not": {}}'), "the grammar (json_schema) cannot be used"),
        (("-j", "{}", "--grammar", 'root ::= "a"'), "give one of --grammar, --json-schema"),
        (("--grammar-file", "/no/such/file"), "there is no --grammar-file /no/such/file"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_one_line(flags: tuple[str, ...], said: str) -> None:
    done = plait("run", "-p", "x", *flags)
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_rarer_samplers_have_options() -> None:
    args = ["run", "-p", "The", "-n", "24", "-s", "1", "--temp", "1.5", "--json"]
    texts = {
        json.loads(plait(*args, *flags).stdout.splitlines()[0])["text"]
        for flags in (
            (), ("--mirostat", "2", "--mirostat-ent", "9"), ("--xtc-probability", "1", "--xtc-threshold", "0.01"),
            ("--top-nsigma", "0.1"),
        )
    }  # fmt: skip
    assert len(texts) == 4


def test_help_names_every_option() -> None:
    text = plait("run", "--help").stdout
    for flag in ("--ctx-size", "-np", "--temp", "--seed", "--json", "--kv-memory"):
        assert flag in text
    assert plait("--version").stdout.strip().endswith("0.1.0")


def test_the_options_reference_is_up_to_date() -> None:
    from plait.cli.reference import options_reference

    page = Path(__file__).parents[2] / "docs" / "reference" / "options.md"
    assert page.read_text() == options_reference(), "run: python -m plait.cli.reference > docs/reference/options.md"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux's")
@pytest.mark.parametrize(
    ("redirections", "said"), [("-p x -n 1 > /dev/full", "No space left"), ("-f - <&-", "standard input")]
)
def test_trouble_with_the_standard_streams_is_one_line(redirections: str, said: str) -> None:
    line = f"{shlex.quote(sys.executable)} -m plait run {redirections}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
