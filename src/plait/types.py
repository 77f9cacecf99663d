"""Plain data that crosses module seams: sampling parameters, requests, token events.

Parsed and checked once, here, at the edge: a `SamplingParams` that exists is valid. Knows only `errors` and `checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias, TypedDict, TypeVar

from plait.checks import MAX_BIAS, MAX_NUMBER, is_bias, is_real, is_token, said
from plait.errors import RequestError

TokenId: TypeAlias = int


class FinishReason(StrEnum):
    """Why a sequence ended. The names are OpenAI's where it has them."""

    STOP = "stop"  # an end-of-generation token, a stop id or a stop string
    LENGTH = "length"  # max_tokens, or the context is full
    ABORT = "abort"  # the caller cancelled


class Priority(IntEnum):
    """Class of a request; a lower number goes first. A request that waits rises, one class at a time, but for
    BACKGROUND, which takes only what nobody else wants and is the first to give way."""

    HIGH = 0
    NORMAL = 1
    LOW = 2
    BACKGROUND = 3


class CacheMode(StrEnum):
    """What a request may do with the KV memory of equal prefixes."""

    OFF = "off"  # neither take nor leave
    READ = "read"  # take what is there, leave nothing to others
    READ_WRITE = "read-write"


class SamplerStage(StrEnum):
    """One stage of the sampler chain; llama.cpp's names."""

    PENALTIES = "penalties"
    DRY = "dry"
    TOP_N_SIGMA = "top_n_sigma"
    TOP_K = "top_k"
    TYPICAL_P = "typ_p"
    TOP_P = "top_p"
    MIN_P = "min_p"
    XTC = "xtc"
    TEMPERATURE = "temperature"


LLAMA_CPP_CHAIN: tuple[SamplerStage, ...] = tuple(SamplerStage)

OPENAI_CHAIN: tuple[SamplerStage, ...] = (
    SamplerStage.PENALTIES,
    SamplerStage.DRY,
    SamplerStage.TEMPERATURE,
    SamplerStage.TOP_N_SIGMA,
    SamplerStage.TOP_K,
    SamplerStage.TYPICAL_P,
    SamplerStage.TOP_P,
    SamplerStage.MIN_P,
    SamplerStage.XTC,
)


class GrammarKind(StrEnum):
    """What a grammar is written in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GBNF = "gbnf"  # llama.cpp's
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like, as a whole. Whether it compiles is for `tokenizer.grammar.check_grammar` to say.

    Raises `RequestError` for an unknown kind, or an empty source."""

    kind: GrammarKind
    source: str

    def __post_init__(self) -> None:
        if self.kind not in set(GrammarKind):
            raise RequestError(f"the grammar's kind is {self.kind!r}; choose one of {', '.join(GrammarKind)}")
        object.__setattr__(self, "kind", GrammarKind(self.kind))
        if not isinstance(self.source, str) or not self.source.strip():
            raise RequestError("the grammar is empty; give its source as text, or none at all")


class Pooling(StrEnum):
    """How the hidden states of a prompt become one vector."""

    MEAN = "mean"  # of all tokens, summed in their order
    LAST = "last"  # the last token's


MAX_SEED = 2**64 - 1
MAX_SAMPLES = 1024
_STAGES = frozenset(SamplerStage)
_WHOLE = frozenset(
    "top_k n repeat_last_n dry_penalty_last_n dry_allowed_length max_tokens seed logprobs mirostat".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose the next token, and when to stop. Defaults are llama.cpp's.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1, `min_p` 0, `typical_p` 1, `repeat_penalty` 1 and the zeros of the
    other penalties switch a stage off, as do `top_n_sigma` 0 or less and `xtc_probability` 0. `mirostat` 1 or 2 draws
    by Mirostat with the target `mirostat_tau` (bits of surprise) and rate `mirostat_eta` instead of `samplers`, after
    the temperature alone. `grammar` is what the answer must look like: it ends where that is complete.
    `repeat_last_n` and `dry_penalty_last_n` count tokens; -1 is the whole context. `logit_bias` is added to the raw
    logits before the chain runs. `seed` None lets the caller's face draw one. `logprobs` is the number of alternatives
    to report for each token (0: only the chosen one; None: nothing).

    Raises `RequestError` for a value of the wrong kind or out of range.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[TokenId, float], ...] = ()
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[TokenId, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    samplers: tuple[SamplerStage, ...] = LLAMA_CPP_CHAIN
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name in ("top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold", "mirostat_eta"):
            self._range(name, 0, 1)
        for name in ("top_k", "dry_allowed_length", "dry_multiplier"):
            self._range(name, 0)
        for name in ("repeat_last_n", "dry_penalty_last_n"):
            self._range(name, -1)
        for name in ("presence_penalty", "frequency_penalty"):
            self._range(name, -100, 100)
        for name in ("temperature", "mirostat_tau"):
            self._range(name, 0, 100)
        self._range("repeat_penalty", 0.01, 100)  # logits beyond it would not stay finite
        self._range("n", 1, MAX_SAMPLES)
        self._range("dry_base", 1)
        self._range("top_n_sigma", -MAX_NUMBER)
        self._range("mirostat", 0, 2)
        if self.max_tokens is not None:
            self._range("max_tokens", 0)
        if self.seed is not None:
            self._range("seed", 0, MAX_SEED)
        if self.logprobs is not None:
            self._range("logprobs", 0, 100)

        self._entries("stop", "strings", lambda entry: isinstance(entry, str))
        self._entries("dry_sequence_breakers", "strings", lambda entry: isinstance(entry, str))
        self._entries("stop_token_ids", "token ids", is_token)
        self._entries("samplers", f"stages ({', '.join(SamplerStage)})", lambda entry: entry in _STAGES)
        self._entries("logit_bias", f"pairs of a token id and a number, at most {MAX_BIAS:g}", is_bias)
        if "" in self.stop:
            raise RequestError("stop has an empty string; give at least one character, or leave it out")
        if len(set(self.samplers)) != len(self.samplers):
            raise RequestError("samplers names a stage twice; name each at most once")
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise RequestError(f"grammar is {self.grammar!r}; give a Grammar(kind, source)")

    @property
    def chain(self) -> tuple[SamplerStage, ...]:
        """The stages that are applied: with Mirostat the temperature alone, as llama.cpp has it."""
        return (SamplerStage.TEMPERATURE,) if self.mirostat else self.samplers

    def _entries(self, name: str, what: str, sound: Callable[[object], bool]) -> None:
        value = getattr(self, name)
        if not isinstance(value, (tuple, list)) or not all(map(sound, value)):
            raise RequestError(f"{name} is {value!r}; give a list of {what}")

    def _range(self, name: str, low: float, high: float = MAX_NUMBER) -> None:
        value: Any = getattr(self, name)
        whole = name in _WHOLE
        a_number = isinstance(value, Integral if whole else Real)
        if not a_number:
            raise RequestError(f"{name} is {value!r}; give a {'whole ' if whole else ''}number")
        if not low <= value <= high:  # also refuses NaN
            bound = f"at least {low}" if high == MAX_NUMBER and value < low else f"between {low} and {high}"
            raise RequestError(f"{name} is {said(value)}; it must be {bound}")


class ServiceFields(TypedDict, total=False):
    """The fields of `Service`, as keywords; a class or a mode may be given by its name."""

    priority: Priority | str
    tenant: str
    timeout: float | None
    queue_timeout: float | None
    cache: CacheMode | str
    salt: str
    salt_from: int
    pin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How a request is served; changes none of its tokens.

    `priority` is its class: high, normal, low or background. `tenant` is whose share it counts against, by the part of
    the name before the first slash. `timeout` and `queue_timeout` are seconds from now, to its end and until it is
    begun: then it fails with `DeadlineError` or `QueueTimeoutError`. `cache` says what it may do with the KV memory of
    equal prefixes: off, read or read-write. Prefixes are shared only under an equal `salt`, but for the whole pages of
    the first `salt_from` tokens. `pin` is for how many seconds after its end the request's prompt and answer stay in KV
    memory, for the next turn of a session (0: as long as nobody else needs the room). A pin ends early where pages are
    missing for who runs or waits.

    Raises `RequestError` for a value of the wrong kind or out of range.
    """

    priority: Priority | str = Priority.NORMAL
    tenant: str = ""
    timeout: float | None = None
    queue_timeout: float | None = None
    cache: CacheMode | str = CacheMode.READ_WRITE
    salt: str = ""
    salt_from: int = 0
    pin: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "priority", _named(self.priority, "priority", _PRIORITIES))
        object.__setattr__(self, "cache", _named(self.cache, "cache", _CACHE_MODES))
        for name in ("tenant", "salt"):
            if not isinstance(getattr(self, name), str):
                raise RequestError(f"{name} is {getattr(self, name)!r}; give text")
        for name in ("timeout", "queue_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not (is_real(seconds) and 0 < seconds <= MAX_NUMBER):
                raise RequestError(f"{name} is {said(seconds)}; give seconds greater than 0, or None for no bound")
        whole = isinstance(self.salt_from, Integral) and not isinstance(self.salt_from, bool)
        if not whole or not 0 <= self.salt_from <= MAX_NUMBER:
            raise RequestError(f"salt_from is {said(self.salt_from)}; give a number of tokens, 0 to {MAX_NUMBER}")
        if self.salt_from and not self.salt:
            raise RequestError(f"salt_from is {self.salt_from} and there is no salt; give the rest a salt of its own")
        if not is_real(self.pin) or not 0 <= self.pin <= MAX_NUMBER:
            raise RequestError(f"pin is {said(self.pin)}; give seconds, or 0 for none")
        if self.pin and self.cache is not CacheMode.READ_WRITE:
            raise RequestError(f"pin is {self.pin} and cache is {self.cache}; what is to stay must be read-write")

    def applied(self, request: EngineRequest, now: float) -> EngineRequest:
        """The request served so, `now` being the time of the scheduler's clock."""
        return replace(
            request,
            priority=_named(self.priority, "priority", _PRIORITIES),
            tenant=self.tenant,
            deadline=None if self.timeout is None else now + self.timeout,
            queue_timeout=self.queue_timeout,
            cache=_named(self.cache, "cache", _CACHE_MODES),
            salt=self.salt,
            salt_from=self.salt_from,
            pin=self.pin,
        )


_Choice = TypeVar("_Choice", Priority, CacheMode)
_PRIORITIES: dict[str, Priority] = {priority.name.lower(): priority for priority in Priority}
_CACHE_MODES: dict[str, CacheMode] = {mode.value: mode for mode in CacheMode}


def _named(value: Any, what: str, known: dict[str, _Choice]) -> _Choice:
    """One of the `known`, given as such or by its name."""
    found = known.get(value) if type(value) is str else value if value in known.values() else None
    if found is None or isinstance(value, bool):
        raise RequestError(f"{what} is {value!r}; choose one of {', '.join(known)}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One request as the engine sees it: token ids and resolved limits. `request_id` is the caller's, unique.

    `sampling.seed` is set. Sample `i` of `sampling.n` draws from the stream keyed by (seed, i, position).
    `stop_token_ids` already holds the model's end-of-generation ids unless they are ignored.
    `deadline` is in seconds of the scheduler's clock; the others from `priority` to `pin` are as in `Service`.
    `resume` is set for a request that an engine had taken before, and which is given to a new one: for each sample the
    tokens that were handed out already. It goes on after them as if it had never stopped, and only further tokens are
    news; `max_tokens` counts all. Samples in `ended` had their final event, and take no part. `mus`: see `TokenEvent`.
    `prompt_logprobs` asks for so many alternatives to each prompt token; `pooling` for one vector and no tokens. Both,
    or a number out of range, raise `RequestError`.
    """

    request_id: str
    prompt: tuple[TokenId, ...]
    sampling: SamplingParams
    stop_token_ids: frozenset[TokenId] = frozenset()
    salt: str = ""
    dry_breaker_ids: tuple[tuple[TokenId, ...], ...] = ()
    priority: Priority = Priority.NORMAL
    tenant: str = ""
    deadline: float | None = None
    queue_timeout: float | None = None
    cache: CacheMode = CacheMode.READ_WRITE
    salt_from: int = 0
    pin: float = 0.0
    resume: tuple[tuple[TokenId, ...], ...] = ()
    ended: frozenset[int] = frozenset()
    mus: tuple[float | None, ...] = ()
    prompt_logprobs: int | None = None
    pooling: Pooling | None = None

    @property
    def whole(self) -> bool:
        """Whether every position of the prompt is looked at, so that none may come from KV memory."""
        return self.prompt_logprobs is not None or self.pooling is Pooling.MEAN

    def __post_init__(self) -> None:
        wanted = self.prompt_logprobs
        if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted <= 100):
            raise RequestError(f"prompt_logprobs is {wanted!r}; give a whole number, at most 100")
        if self.pooling is not None and (wanted is not None or self.sampling.n > 1):
            raise RequestError("a request that pools draws nothing: it has one sample and no prompt_logprobs")


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural-log probability of a token under the model's own distribution, before the sampler chain."""

    token: TokenId
    logprob: float


class TokenEvent(NamedTuple):
    """News of one sample of one request: new tokens, and perhaps its end. Exactly one event of a sample is final:
    it has `finish_reason` or `error`, never both. Usage counters are set on the final event.

    `prompt_logprobs` come with the first event of sample 0: entry i is about prompt token i, that token first, then the
    most likely ones; entry 0 is empty. `embedding`, of length 1, comes with the final event of a request that pools.
    So do `queue_s`, its wait, and `mean_batch_tokens`, of the steps while it ran, or 0. `mu` is Mirostat's state."""

    request_id: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks for here
    tokens: tuple[TokenId, ...] = ()
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_logprobs: tuple[tuple[Logprob, ...], ...] = ()
    embedding: tuple[float, ...] = ()
    queue_s: float = 0.0
    mean_batch_tokens: float = 0.0
    mu: float | None = None

    @property
    def final(self) -> bool:
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a conversation. `role` is usually system, user, assistant or tool."""

    role: str
    content: str
    extra: dict[str, object] = field(default_factory=dict)
