"""Matchers of the samples whose request has a grammar, and the token masks that they give.

Knows llguidance, the vocabulary's bytes and the tokens drawn; knows no model and no logits. A matcher is made from a
grammar and the tokens drawn so far, so it is rebuilt after anything. Grammars are compiled on a thread of their own,
and masks computed on others while the model runs; what goes wrong with a matcher is the error of its sample's row.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from plait.errors import GrammarError, StepError, TokenizerError
from plait.ops.sampling import U32Array, mask_words
from plait.scheduler.plan import Constraint, PlannedSampling, StepPlan
from plait.tokenizer.deep import deep_threads
from plait.types import EngineRequest, Grammar, TokenEvent, TokenId

if TYPE_CHECKING:  # takes long to import
    from llguidance import LLMatcher, LLTokenizer

    from plait.tokenizer import Tokenizer

Key: TypeAlias = tuple[str, int]
"""A request and a sample of it."""
REMEMBERED = 32
"""Compiled grammars that are kept for requests to come."""
MASK_THREADS = 4


class Grammars:
    """The grammars of an engine's requests. `tokenizer` is asked for once, by the first grammar, on the compiling
    thread; `vocabulary` counts the model's tokens, which may be more than the tokenizer's."""

    def __init__(self, tokenizer: Callable[[], Tokenizer], vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._words: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, Future[LLMatcher]] = OrderedDict()
        self._requests: dict[str, _Request] = {}
        self._matches: dict[Key, _Match] = {}
        self._masks: dict[Key, _Mask] = {}
        self._compiler = deep_threads(1, "plait-grammar")
        self._workers = deep_threads(min(MASK_THREADS, os.cpu_count() or 1), "plait-mask")

    # --- requests ---------------------------------------------------------------------------------------------------

    def add(self, request: EngineRequest) -> None:
        """A request came: begin to compile its grammar, if it has one."""
        grammar = request.sampling.grammar
        if grammar is None:
            return
        compiled = self._compiled.get(grammar)
        if compiled is None or (compiled.done() and compiled.exception() is not None):
            compiled = self._compiled[grammar] = self._compiler.submit(self._compile, grammar)
            if len(self._compiled) > REMEMBERED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        samples = [index for index in range(request.sampling.n) if index not in request.ended]
        words = mask_words(self._vocabulary)
        self._matches.update({(request.request_id, index): _Match(compiled, words) for index in samples})
        self._requests[request.request_id] = _Request(compiled, len(samples))

    def ready(self, request: EngineRequest) -> bool:
        """Whether the request's grammar, if any, is compiled, or has turned out not to be one."""
        known = self._requests.get(request.request_id)
        return known is None or known.compiled.done()

    def wait(self, seconds: float) -> bool:
        """Wait for a grammar that is being compiled, so long at most; False if there is none."""
        compiling = [known.compiled for known in self._requests.values() if not known.compiled.done()]
        if compiling:
            wait(compiling, seconds, FIRST_COMPLETED)
        return bool(compiling)

    def end(self, events: Iterable[TokenEvent]) -> None:
        """Forget the samples that have ended."""
        for event in events:
            key = event.request_id, event.index
            if event.final and self._matches.pop(key, None) is not None:
                self._masks.pop(key, None)
                known = self._requests[event.request_id]
                known.open -= 1
                if not known.open:
                    del self._requests[event.request_id]

    def close(self) -> None:
        """Stop the threads."""
        self._compiler.shutdown(wait=True, cancel_futures=True)
        self._workers.shutdown(wait=True, cancel_futures=True)

    # --- masks ------------------------------------------------------------------------------------------------------

    def begin(self, plan: StepPlan) -> None:
        """Begin to compute the masks of the plan's rows that are not on their way since their last token came."""
        for planned in plan.sequences:
            for _, sampling in planned.outputs:
                if isinstance(sampling, PlannedSampling) and sampling.constraint is not None:
                    request_id, sample, tokens = sampling.constraint
                    known = self._masks.get((request_id, sample))
                    if known is None or known.length != len(tokens):
                        mask = self._workers.submit(self._matches[request_id, sample].mask, tokens)
                        self._masks[request_id, sample] = _Mask(len(tokens), mask)

    def mask(self, constraint: Constraint) -> U32Array:
        """The mask that `begin` began to compute. Raises the `PlaitError` of a grammar that failed."""
        return self._masks[constraint.request_id, constraint.sample].words.result()

    def completed(self, events: Iterable[TokenEvent]) -> list[Key]:
        """Take in the tokens of events; returns the samples that have not ended and to whom nothing can be added. For
        the others the next mask is begun: nothing else keeps the machine busy now."""
        done = []
        for event in events:
            key = event.request_id, event.index
            match = self._matches.get(key)
            if match is None or not event.tokens or event.final:
                continue
            if match.take(event.tokens):
                done.append(key)
            else:
                self._masks[key] = _Mask(match.taken, self._workers.submit(match.mask))
        return done

    # --- compiling --------------------------------------------------------------------------------------------------

    def _compile(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher

        from plait.tokenizer.grammar import LIMITS, refused, source_of

        if self._words is None:
            self._words = words_of(self._tokenizer(), self._vocabulary)
        matcher = LLMatcher(self._words, source_of(grammar), log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise refused(grammar, matcher.get_error())
        return matcher


@dataclass(slots=True)
class _Request:
    """`open` of its samples have not ended."""

    compiled: Future[LLMatcher]
    open: int


class _Mask(NamedTuple):
    """What may follow the first `length` tokens drawn for a sample, once it is known."""

    length: int
    words: Future[U32Array]


class _Match:
    """One sample's matcher, which has taken in the first `taken` of the tokens drawn for it."""

    __slots__ = ("_compiled", "_lock", "_matcher", "_words", "taken")

    def __init__(self, compiled: Future[LLMatcher], words: int) -> None:
        self._compiled = compiled
        self._words = words  # of a mask; llguidance's has one more where the vocabulary fills the last
        self._matcher: LLMatcher | None = None
        self.taken = 0
        self._lock = Lock()

    def mask(self, tokens: tuple[TokenId, ...] = ()) -> U32Array:
        """Which tokens may come next; `tokens` are all that were drawn, if some may not have been taken in."""
        with self._lock:
            if self._matcher is None:
                self._matcher = self._compiled.result().deep_copy()
            self._feed(self._matcher, tokens[self.taken :])
            mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: self._words]
            if self._matcher.is_error():
                raise _failure(self._matcher.get_error())
            return mask

    def take(self, tokens: tuple[TokenId, ...]) -> bool:
        """Further tokens were drawn; whether the grammar is complete and nothing can follow."""
        with self._lock:
            matcher = self._matcher
            assert matcher is not None, "a token was drawn without a mask"
            self._feed(matcher, tokens)
            return matcher.is_stopped() and not matcher.is_error()

    def _feed(self, matcher: LLMatcher, tokens: tuple[TokenId, ...]) -> None:
        if tokens:
            matcher.consume_tokens(list(tokens))
            self.taken += len(tokens)


def _failure(said: str) -> GrammarError | StepError:
    """The error of a matcher, of whose words only the first line is for people."""
    why = " ".join(said.strip().splitlines()[:1])
    if "panic" in why:
        return StepError(f"the grammar failed on this sample: {why}")
    return GrammarError(f"the answer cannot be held to this grammar: {why}")


def words_of(tokenizer: Tokenizer, vocabulary: int) -> LLTokenizer:
    """The vocabulary as llguidance wants it. A special token stands for no text; one that has none, or is beyond the
    tokenizer's, is never allowed. Raises `TokenizerError` for a tokenizer without an end token."""
    from llguidance import LLTokenizer
    from llguidance._tokenizer import TokenizerWrapper

    ends = sorted(token for token in tokenizer.eog_ids if token < vocabulary)
    if not ends:
        raise TokenizerError(f"{tokenizer.source}: the tokenizer has no end token, which a grammar needs")
    return LLTokenizer(TokenizerWrapper(_Words(tokenizer, vocabulary, ends[0])), n_vocab=vocabulary, eos_token=ends)


class _Words:
    """What llguidance asks a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end: TokenId) -> None:
        known = range(min(tokenizer.vocab_size, vocabulary))
        self.eos_token_id, self.bos_token_id = end, tokenizer.bos_id
        self.special_token_ids = [token for token in known if tokenizer.is_special(token)]
        special = frozenset(self.special_token_ids)
        self.tokens = [_spelled(tokenizer, t) if t in special else tokenizer.token_bytes(t) for t in known]
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[TokenId]:
        return self._encode(text, False, False)


def _spelled(tokenizer: Tokenizer, token: TokenId) -> bytes:
    return tokenizer.token_text(token).encode("utf-8", "replace")
