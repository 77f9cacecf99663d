"""`LLM` on the bundled model: typed results, streaming, sharing, stops, and what a caller may do wrong."""

import itertools
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from plait import LLM, EngineOptions, SamplingParams
from plait.api import Delta
from plait.api.news import News
from plait.errors import DeadlineError, OptionError, PromptTooLongError, RequestError, StepError
from plait.tokenizer.output import OutputText
from plait.types import ChatMessage, FinishReason

GREEDY = SamplingParams(max_tokens=16, temperature=0)
PROMPTS = ["Once upon a time", "The little dog", "One day, a girl named Lily", "The king said"]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(n_ctx=512, n_parallel=4) as llm:
        yield llm


def collect(deltas: list[Delta]) -> dict[tuple[int, int], str]:
    texts: dict[tuple[int, int], str] = {}
    for delta in deltas:
        key = (delta.prompt_index, delta.index)
        texts[key] = texts.get(key, "") + delta.text
    return texts


def test_results_are_typed_and_in_the_order_of_the_prompts(llm: LLM) -> None:
    results = llm.generate(PROMPTS, GREEDY)
    assert [r.prompt for r in results] == PROMPTS
    for result in results:
        (sample,) = result.samples
        assert sample.error is None
        assert sample.finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
        assert llm.tokenizer.decode(sample.token_ids, continuing=True) == sample.text == result.text


def test_a_batch_gives_what_each_prompt_gives_alone(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=24, seed=i) for i in range(len(PROMPTS))]
    together = llm.generate(PROMPTS, params)
    for prompt, one, result in zip(PROMPTS, params, together, strict=True):
        assert llm.generate([prompt], one)[0].samples[0].token_ids == result.samples[0].token_ids


def test_streaming_gives_the_same_text_as_generating(llm: LLM) -> None:
    streamed = collect(list(llm.stream(PROMPTS, GREEDY)))
    assert streamed == {(i, 0): r.text for i, r in enumerate(llm.generate(PROMPTS, GREEDY))}


def test_samples_of_one_prompt_share_it(llm: LLM) -> None:
    prompt = "A small blue bird sat on a branch near the old red house and sang"
    (result,) = llm.generate([prompt], SamplingParams(n=4, max_tokens=12, seed=7))
    assert [s.index for s in result.samples] == [0, 1, 2, 3]
    assert len({s.text for s in result.samples}) > 1
    assert [s.cached_tokens for s in result.samples[1:]] == [len(result.prompt_token_ids)] * 3
    (again,) = llm.generate([prompt], SamplingParams(n=4, max_tokens=12, seed=7))
    assert [s.token_ids for s in again.samples] == [s.token_ids for s in result.samples]


def test_the_next_turn_of_a_conversation_computes_only_what_is_new(llm: LLM) -> None:
    first = "There was a wise old owl who lived in a tall tree by the river. Every evening the owl would"
    (one,) = llm.generate([first], GREEDY)
    (two,) = llm.generate([first + one.text + " Then"], GREEDY)
    assert two.cached_tokens >= len(two.prompt_token_ids) * 0.5
    fresh = LLM(llm.model, n_ctx=512, prefix_cache=False)
    with fresh:
        assert fresh.generate([first + one.text + " Then"], GREEDY)[0].text == two.text


def test_a_stop_string_ends_the_sample_and_is_not_part_of_its_text(llm: LLM) -> None:
    long = SamplingParams(max_tokens=60, temperature=0)
    whole = llm.generate([PROMPTS[0]], long)[0].samples[0]
    stop = whole.text[12:17]
    cut = llm.generate([PROMPTS[0]], SamplingParams(max_tokens=60, temperature=0, stop=(stop,)))[0].samples[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason is FinishReason.STOP
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert stop in llm.tokenizer.decode(cut.token_ids)
    assert stop not in llm.tokenizer.decode(cut.token_ids[:-1])


def test_a_stop_id_ends_the_sample(llm: LLM) -> None:
    whole = llm.generate([PROMPTS[0]], GREEDY)[0].samples[0]
    last = whole.token_ids[5]
    params = SamplingParams(max_tokens=16, temperature=0, stop_token_ids=(last,))
    cut = llm.generate([PROMPTS[0]], params)[0].samples[0]
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(last)]
    assert cut.finish_reason is FinishReason.STOP


def test_leaving_a_stream_frees_its_memory(llm: LLM) -> None:
    for delta in llm.stream(PROMPTS, SamplingParams(max_tokens=200)):
        if delta.text:
            break
    assert len(llm.generate(["Hello"], GREEDY)[0].samples) == 1
    llm._engine.check()
    assert not llm._engine.has_work


def test_threads_share_the_engine(llm: LLM) -> None:
    expected = [r.text for r in llm.generate(PROMPTS, GREEDY)]
    found: dict[int, str] = {}

    def work(i: int) -> None:
        found[i] = llm.generate([PROMPTS[i]], GREEDY)[0].text

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(PROMPTS))] == expected


def test_a_call_is_open_until_its_last_news_are_there(llm: LLM) -> None:
    """Who reads on another thread would else end without them."""
    call = llm._submit("Once upon a time", SamplingParams(max_tokens=3, n=2, seed=1), {})
    opened: list[int] = []

    class Watched(deque[News]):
        def append(self, news: News) -> None:
            opened.append(call.open)
            super().append(news)

    call.news = Watched()
    while call.open:
        llm._pump(call)
        call.take()
    assert len(opened) == 6
    assert min(opened) >= 1
    llm._forget(call)


def test_chat_answers_with_the_models_template(llm: LLM) -> None:
    answer = llm.chat([{"role": "user", "content": "Tell me a story about a cat."}], GREEDY)
    same = llm.chat([ChatMessage(role="user", content="Tell me a story about a cat.")], GREEDY)
    assert answer.text == same.text != ""
    with pytest.raises(RequestError, match="role"):
        llm.chat([{"content": "x"}])


def test_logprobs_name_the_chosen_token_first(llm: LLM) -> None:
    sample = llm.generate([PROMPTS[0]], SamplingParams(max_tokens=5, temperature=0, logprobs=3))[0].samples[0]
    assert len(sample.logprobs) == len(sample.token_ids)
    for token, (chosen, *best) in zip(sample.token_ids, sample.logprobs, strict=True):
        assert chosen.token == token
        assert len(best) == 3
        assert best[0].logprob == max(entry.logprob for entry in best) <= 0


def test_token_ids_are_prompts_too(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Once upon a time")
    assert llm.generate(ids, GREEDY)[0].text == llm.generate("Once upon a time", GREEDY)[0].text
    assert llm.generate(ids, GREEDY)[0].prompt is None


def test_dry_sampling_runs_with_its_breakers(llm: LLM) -> None:
    params = SamplingParams(max_tokens=30, temperature=0, dry_multiplier=0.8, dry_allowed_length=1, repeat_penalty=1.1)
    assert llm.generate([PROMPTS[0]], params)[0].samples[0].error is None


@pytest.mark.parametrize(
    ("prompts", "params", "error", "said"),
    [
        ([[]], None, RequestError, "empty"),
        (["x"], [GREEDY, GREEDY], RequestError, "one for each"),
        (["x"], {"max_tokens": 3}, RequestError, "SamplingParams"),
        (["word " * 1000], None, PromptTooLongError, "512"),
        ([[10**9]], None, RequestError, "vocabulary"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_before_anything_runs(
    llm: LLM, prompts: list[str], params: object, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        llm.generate(prompts, params)  # type: ignore[arg-type]
    assert not llm._engine.has_work


def test_an_option_that_does_not_exist_is_an_error() -> None:
    with pytest.raises((OptionError, TypeError), match="n_paralel"):
        LLM(n_paralel=4)


def test_an_empty_text_is_the_begin_token_alone(llm: LLM) -> None:
    (result,) = llm.generate([""], GREEDY)
    assert result.prompt_token_ids == (llm.tokenizer.bos_id,)
    assert result.text


def test_no_prompts_give_no_results(llm: LLM) -> None:
    assert llm.generate([], GREEDY) == []


def test_a_stream_that_was_never_read_is_cancelled(llm: LLM) -> None:
    unread = llm.stream(PROMPTS, SamplingParams(max_tokens=400, ignore_eos=True))
    del unread
    steps = llm.stats.steps
    llm.generate(["Hello"], SamplingParams(max_tokens=4, ignore_eos=True))
    assert llm.stats.steps - steps < 10
    assert not llm._engine.has_work
    assert not llm._running


@pytest.mark.timeout(20)
def test_closing_ends_the_streams_and_what_comes_later_is_refused(llm: LLM) -> None:
    short = LLM(llm.model, n_ctx=512)
    stream = short.stream(PROMPTS[:2], SamplingParams(max_tokens=200, ignore_eos=True))
    next(stream)
    short.close()
    assert [d.finish_reason for d in stream if d.final] == [FinishReason.ABORT] * 2
    with pytest.raises(RequestError, match="closed"):
        short.generate("Hello")


def test_threads_take_turns_at_every_step(llm: LLM) -> None:
    """The thread that ran a step must not go on while others cannot fetch their news."""
    arrivals: list[int] = []
    begin = threading.Barrier(3)

    def work(i: int) -> None:
        stream = llm.stream(PROMPTS[i], SamplingParams(max_tokens=60, ignore_eos=True, seed=i))
        begin.wait()
        arrivals.extend(i for delta in stream if delta.token_ids)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = [sum(1 for _ in group) for _, group in itertools.groupby(arrivals)]
    assert max(runs) <= 4


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_process_is_told_to_make_its_own(llm: LLM) -> None:
    llm.generate("Hello", GREEDY)
    child = os.fork()
    if child == 0:
        try:
            llm.generate("Hello", GREEDY)
        except RequestError:
            os._exit(7)
        finally:  # whatever else: the tests do not go on twice
            os._exit(1)
    deadline = time.monotonic() + 10
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if status[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status[1]) == 7


@pytest.mark.parametrize("prompt", [b"abc", None, [None], ["a", 3], [1, "a"], [[1.5]], 5])
def test_a_prompt_of_another_kind_is_refused(llm: LLM, prompt: object) -> None:
    with pytest.raises(RequestError, match="a prompt "):
        llm.generate(prompt, GREEDY)  # type: ignore[arg-type]
    assert not llm._engine.has_work


def test_numpy_ids_and_iterators_of_prompts_are_taken(llm: LLM) -> None:
    ids = np.array(llm.tokenizer.encode(PROMPTS[0]))
    assert llm.generate(ids, GREEDY)[0].text == llm.generate(iter(PROMPTS[:1]), GREEDY)[0].text  # type: ignore[arg-type]


def test_options_come_as_one_object_or_by_name_not_both(llm: LLM) -> None:
    with pytest.raises(OptionError, match="not both"):
        LLM(llm.model, options=EngineOptions(n_ctx=64), n_ctx=128)


def test_a_message_without_text_is_refused(llm: LLM) -> None:
    with pytest.raises(RequestError, match="content"):
        llm.chat([{"role": "user", "content": None}])


def test_how_a_request_is_served_changes_no_token(llm: LLM) -> None:
    prompt = "In a village by the sea there lived an old fisherman who had never once seen a whale"
    (wanted,) = llm.generate(prompt, GREEDY, cache="off")
    ids = len(wanted.prompt_token_ids)
    assert wanted.cached_tokens == 0
    assert llm.generate(prompt, GREEDY, salt="mine", priority="background", tenant="t")[0].cached_tokens == 0
    again = llm.generate(prompt, GREEDY, salt="mine", cache="read")[0]
    assert again.cached_tokens >= (ids - 1) // 16 * 16 > 0
    assert llm.generate(prompt, GREEDY, salt="other", salt_from=16)[0].cached_tokens == 0
    shared = llm.generate(prompt, GREEDY, salt="third", salt_from=16)[0]
    assert shared.cached_tokens == 16
    assert {wanted.text, again.text, shared.text} == {wanted.text}
    with pytest.raises(RequestError, match="priority is 'urgent'; choose one of high, normal, low, background"):
        llm.generate(prompt, GREEDY, priority="urgent")


def test_a_request_that_takes_too_long_fails_by_itself(llm: LLM) -> None:
    long = SamplingParams(max_tokens=400, temperature=0, ignore_eos=True)
    late = llm.stream("Once upon a time", long, timeout=0.05)
    (sample,) = llm.generate("The king said", GREEDY)[0].samples
    last = list(late)[-1]
    assert isinstance(last.error, DeadlineError)
    assert sample.error is None


def test_a_sample_whose_text_cannot_be_made_ends_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["Once upon a time", "The cat", "A dog"]
    wanted = [one.text for one in llm.generate(prompts, GREEDY)]
    inner, calls = OutputText.push, Counter[int]()

    def push(output: OutputText, tokens: Sequence[int], final: bool) -> tuple[str, int, bool]:
        number = outputs.setdefault(id(output), len(outputs))
        calls[number] += 1
        if number == 1 and calls[number] == 3:
            raise ZeroDivisionError("a bug")
        return inner(output, tokens, final)

    outputs: dict[int, int] = {}
    monkeypatch.setattr(OutputText, "plain", lambda output, token: None)  # every token goes the whole way
    monkeypatch.setattr(OutputText, "push", push)
    got = llm.generate(prompts, GREEDY)
    assert [one.text for one in got][::2] == wanted[::2]
    assert wanted[1].startswith(got[1].text)
    assert got[1].samples[0].finish_reason is None
    assert isinstance(got[1].samples[0].error, StepError)
    assert calls[1] == 3
