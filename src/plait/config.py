"""Options: declared once with their help, resolved once, then frozen.

The command line, validation and the options reference are all derived from the declarations here. The only module that
reads the environment. Knows `errors` and `types`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from plait.config_values import PROFILES, mask_cpus, range_cpus
from plait.config_values import parse_hours as parse_hours
from plait.config_values import parse_slo as parse_slo
from plait.errors import OptionError
from plait.types import SamplingParams

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda", "reference")
KV_TYPES = ("f16", "f32", "bf16", "q8_0")
GPU_TYPES = ("bf16", "f16", "f32")
LOAD_FORMATS = ("auto", "random")
MOST = 2**31 - 1
MOST_THREADS = 1024
_LEAST = {
    "n_ctx": 0,
    "n_batch": 1,
    "n_parallel": 1,
    "threads": 0,
    "kv_memory": 0,
    "kv_cache_size": 1,
    "max_queue_requests": 0,
    "max_queue_tokens": 0,
    "cpu_strict": 0,
    "draft_max": 0,
}
ON_OFF = ("on", "off")
LIMITS = ("n_batch", "n_parallel")
MOST_CALIBRATION_S = 60
CPU_PATHS = ("auto", "scalar", "avx2", "avx512", "avx_vnni", "avx512_vnni", "neon", "neon_dotprod")


class NotGiven(int):
    """A default that the controller may move; the same number, given, stays."""


class NotNamed(str):
    """A default that follows the device; the same word, given, stays."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """How an option looks to a person: its flags (the first long one names it), help, and the allowed words."""

    flags: tuple[str, ...]
    help: str
    choices: tuple[str, ...] = ()
    env: str | None = None


def option(default: Any, *flags: str, help: str, choices: tuple[str, ...] = (), env: str | None = None) -> Any:  # noqa: A002 - `help` is the field's word
    """A dataclass field that is also an option of the command line."""
    return field(default=default, metadata={"option": OptionInfo(flags, help, choices, env)})


def option_fields(cls: type) -> list[tuple[str, type | str, Any, OptionInfo]]:
    """(name, annotation, default, info) of each field of `cls` that was declared with `option`."""
    return [(f.name, f.type, f.default, f.metadata["option"]) for f in fields(cls) if "option" in f.metadata]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the engine runs: limits, memory, device. Counts are of tokens or sequences; `kv_memory` is in MiB.

    Raises `OptionError` for a value that cannot be used.
    """

    n_ctx: int = option(
        0, "-c", "--ctx-size", help="Context of each sequence, in tokens; 0 is the model's own. It is never split."
    )
    n_batch: int = option(
        NotGiven(1024), "-b", "--batch-size", help="Token budget of a step: at most this many tokens run at once."
    )
    n_parallel: int = option(
        NotGiven(8), "-np", "--parallel", help="At most this many sequences run at once; others wait."
    )
    threads: int = option(
        0, "-t", "--threads", help="CPU threads; 0 takes the cores this process may use.", env="PLAIT_THREADS"
    )
    kv_type: str = option(
        NotNamed("f16"),
        "-ctk",
        "--cache-type",
        help="Number type of the KV memory; on a GPU bf16, if not given.",
        choices=KV_TYPES,
    )
    kv_memory: int = option(
        0, "--kv-memory", help="KV memory in MiB; 0 holds every sequence at full context, within a quarter of the RAM."
    )
    gpu_memory: float = option(
        0.9, "--gpu-memory", help="Share of a GPU's memory to use for weights, steps and KV memory; above 0, at most 1."
    )
    gpu_type: str = option(
        "bf16", "--gpu-type", help="Number type that a GPU computes in; weights are turned to it.", choices=GPU_TYPES
    )
    load_format: str = option(
        "auto",
        "--load-format",
        help="random draws weights on the GPU instead of reading them, for a folder with a config.json: to measure.",
        choices=LOAD_FORMATS,
    )
    device: str = option("auto", "--device", help="Where to run.", choices=DEVICES, env="PLAIT_DEVICE")
    cpu_path: str = option(
        "auto",
        "--cpu-path",
        help="Instruction set of the CPU kernels; auto takes the fastest that the CPU has.",
        choices=CPU_PATHS,
        env="PLAIT_CPU",
    )
    cpu_mask: str = option("", "-C", "--cpu-mask", help="CPUs that the CPU threads run on: a hexadecimal mask, 0xff.")
    cpu_range: str = option("", "-Cr", "--cpu-range", help="The same as a range, 0-3.")
    cpu_strict: int = option(
        0, "--cpu-strict", help="1 gives each CPU thread a CPU of its own; 0 lets the system move them."
    )
    repack_cache: str = option(
        "",
        "--repack-cache",
        help="Keep repacked weights in this folder for the next start on the CPU; as large again as the model file.",
        env="PLAIT_REPACK_CACHE",
    )
    prefix_cache: bool = option(True, "--prefix-cache/--no-prefix-cache", help="Share the KV memory of equal prefixes.")
    kv_cache_dir: str = option(
        "",
        "--kv-cache-dir",
        help="Keep the KV memory of prompts in this folder: after a restart an equal beginning is not computed again.",
        env="PLAIT_KV_CACHE_DIR",
    )
    kv_cache_size: int = option(
        4096, "--kv-cache-size", help="At most this many MiB in --kv-cache-dir; the least recently used go first."
    )
    max_queue_requests: int = option(
        0, "--max-queue-requests", help="At most this many requests wait, others are refused at once; 0 is no bound."
    )
    max_queue_tokens: int = option(
        0, "--max-queue-tokens", help="At most this many prompt tokens wait, others are refused; 0 is no bound."
    )
    profile: str = option("balanced", "--profile", help="What to hold: bounds on latency, by name.", choices=PROFILES)
    slo: str = option(
        "", "--slo", help="Bounds to hold instead of the profile's, such as ttft=500ms,itl=50ms (either or both)."
    )
    hours: str = option(
        "", "--hours", help="Another profile at some hours, such as 22:00-06:00=throughput; several with commas."
    )
    adaptive: str = option(
        "on", "--adaptive", help="Move -b and -np with the load; one that is given stays as it is.", choices=ON_OFF
    )
    calibrate: float = option(
        0.0, "--calibrate", help="Seconds at load to learn how long steps take; 0 learns from the first requests."
    )
    draft_max: int = option(
        0,
        "--draft-max",
        help="Guess up to this many tokens ahead from what followed before in the context; changes no token; 0 is off.",
    )
    page_size: int = 16
    in_flight: int = 1

    def __post_init__(self) -> None:
        for name, low in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int):
                raise OptionError(f"{flag_of(EngineOptions, name)} is {value!r}; give a whole number")
            if not low <= value <= MOST:
                raise OptionError(f"{flag_of(EngineOptions, name)} is {value}; give {low} to {MOST}")
        for name in ("kv_type", "gpu_type", "load_format", "device", "cpu_path", "profile", "adaptive"):
            info = next(info for n, _, _, info in option_fields(EngineOptions) if n == name)
            if getattr(self, name) not in info.choices:
                raise OptionError(
                    f"{info.flags[-1]} is '{getattr(self, name)}'; choose one of {', '.join(info.choices)}"
                )
        if self.threads > MOST_THREADS:
            raise OptionError(f"--threads is {self.threads}; give at most {MOST_THREADS}")
        if not isinstance(self.calibrate, Real) or not 0 <= self.calibrate <= MOST_CALIBRATION_S:
            raise OptionError(f"--calibrate is {self.calibrate}; give 0 to {MOST_CALIBRATION_S} seconds")
        if not isinstance(self.gpu_memory, Real) or not 0 < self.gpu_memory <= 1:
            raise OptionError(f"--gpu-memory is {self.gpu_memory}; give a share above 0, at most 1")
        parse_slo(self.slo)
        parse_hours(self.hours)
        if self.cpu_strict > 1:
            raise OptionError(f"--cpu-strict is {self.cpu_strict}; give 0 or 1")
        self.cpus()

    def cpus(self) -> tuple[int, ...]:
        """The CPUs that the threads may run on, ascending; empty where none were named."""
        if self.cpu_mask and self.cpu_range:
            raise OptionError("--cpu-mask and --cpu-range name the same thing; give one of them")
        return mask_cpus(self.cpu_mask) if self.cpu_mask else range_cpus(self.cpu_range) if self.cpu_range else ()

    @property
    def fixed(self) -> frozenset[str]:
        """Those of `n_batch` and `n_parallel` that are not adapted."""
        if self.adaptive == "off":
            return frozenset(LIMITS)
        return frozenset(name for name in LIMITS if not isinstance(getattr(self, name), NotGiven))


@dataclass(frozen=True, slots=True)
class SamplingOption:
    """An option that fills the field `name` of `SamplingParams`; its default is that class's."""

    name: str
    info: OptionInfo


def _sampling(name: str, *flags: str, help: str) -> SamplingOption:  # noqa: A002 - as above
    return SamplingOption(name, OptionInfo(flags, help))


SAMPLING_OPTIONS: tuple[SamplingOption, ...] = (
    _sampling(
        "max_tokens", "-n", "--predict", help="At most this many new tokens a sequence; -1 is until the model ends."
    ),
    _sampling("temperature", "--temp", "--temperature", help="0 is greedy; higher is more varied."),
    _sampling("top_k", "--top-k", help="Keep the k most likely tokens; 0 is off."),
    _sampling("top_p", "--top-p", help="Keep the most likely tokens that make up this probability; 1 is off."),
    _sampling("min_p", "--min-p", help="Drop tokens less likely than this share of the best one; 0 is off."),
    _sampling("typical_p", "--typical", help="Locally typical sampling; 1 is off."),
    _sampling("repeat_penalty", "--repeat-penalty", help="Divide the logits of recent tokens by this; 1 is off."),
    _sampling("repeat_last_n", "--repeat-last-n", help="Recent means this many tokens; -1 is the whole context."),
    _sampling("presence_penalty", "--presence-penalty", help="Lower the logits of recent tokens by this; 0 is off."),
    _sampling("frequency_penalty", "--frequency-penalty", help="The same for each time the token occurred; 0 is off."),
    _sampling("dry_multiplier", "--dry-multiplier", help="Strength of the DRY penalty on repeated runs; 0 is off."),
    _sampling("dry_base", "--dry-base", help="Growth of the DRY penalty for each further token of the run."),
    _sampling("dry_allowed_length", "--dry-allowed-length", help="Runs up to this length carry no DRY penalty."),
    _sampling("dry_penalty_last_n", "--dry-penalty-last-n", help="How far back DRY looks; -1 is the whole context."),
    _sampling("top_n_sigma", "--top-nsigma", "--top-n-sigma", help="Keep tokens within n deviations; -1 is off."),
    _sampling("xtc_probability", "--xtc-probability", help="How often XTC drops all but the least likely top token."),
    _sampling("xtc_threshold", "--xtc-threshold", help="A token of at least this probability is a top one for XTC."),
    _sampling("mirostat", "--mirostat", help="Draw by Mirostat 1 or 2, after the temperature alone; 0 is off."),
    _sampling("mirostat_tau", "--mirostat-ent", help="Surprise of a token that Mirostat aims at, in bits."),
    _sampling("mirostat_eta", "--mirostat-lr", help="How fast Mirostat adapts."),
    _sampling(
        "seed",
        "-s",
        "--seed",
        help="Seed of the random numbers; without one a fresh seed is drawn and reported. One seed serves all prompts.",
    ),
    _sampling("ignore_eos", "--ignore-eos", help="Go on past the model's end-of-text token."),
    _sampling("stop", "-r", "--stop", help="End when this text appears; may be given several times."),
)


NOT_HERE: dict[tuple[str, ...], str] = {
    ("-ngl", "--gpu-layers", "--n-gpu-layers"): "a model runs on one device as a whole; choose it with --device",
    ("-fa", "--flash-attn"): "attention never stores the score matrix, so there is nothing to switch",
    ("-ub", "--ubatch-size"): "a step is one batch; bound it with -b",
    ("-ctv", "--cache-type-v"): "K and V have one type; choose it with -ctk",
    ("-tb", "--threads-batch"): "prefill and decode share their steps; choose threads with -t",
    ("-Cb", "--cpu-mask-batch", "-Crb", "--cpu-range-batch", "--cpu-strict-batch"): (
        "prefill and decode share their steps; choose CPUs with -C or -Cr"
    ),
    ("--prio", "--poll"): "threads run at the process's priority (see nice), and wait as long as pays",
    ("--lora", "--lora-scaled"): "adapters are not there yet",
    ("--mmproj", "--image"): "multimodal input is not there yet",
    (
        "--draft-min",
        "--draft-n-min",
        "--draft-p-min",
    ): "guesses adapt to how often they are right; see --draft-max",
    ("-md", "--model-draft"): "draft models are not there yet",
    ("-cnv", "--conversation", "-sys", "--system-prompt"): "use plait chat; in plait run, --chat is one turn",
    ("--no-mmap", "--mlock"): "weights are always mapped from the file",
    ("--rope-scaling", "--rope-freq-base", "--rope-freq-scale"): "these are taken from the model file",
    ("--slot-save-path",): "it is an option of plait serve",
    ("--api-key", "--api-key-file"): "it is an option of plait serve",
    (
        "--metrics",
        "--slots",
        "--props",
        "--embedding",
        "--embeddings",
        "--jinja",
        "--webui",
    ): "plait serve always has it",
    ("--no-webui", "--no-slots", "--no-jinja"): "what plait serve has cannot be switched off",
    ("-cb", "--cont-batching", "-nocb", "--no-cont-batching"): "batching is always continuous",
    ("--threads-http",): "HTTP is served by one thread; --max-connections bounds it",
    ("-sps", "--slot-prompt-similarity"): "sequences have no slots: a prefix is found wherever it is",
    ("--reranking", "--rerank"): "reranking is not there yet",
    ("--chat-template", "--chat-template-file"): "it is an option of plait serve",
    ("--reasoning-format", "--reasoning-budget"): "reasoning is always given apart from the answer",
}
"""Flags of llama.cpp's that Plait does not have, each with what to do instead: refused by name, never ignored."""


def flag_of(cls: type, name: str) -> str:
    """The longest flag of a field, to name it in messages."""
    return max(next(info for n, _, _, info in option_fields(cls) if n == name).flags, key=len)


def from_environment(values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> EngineOptions:
    """`resolve` for the engine's options."""
    return resolve(EngineOptions, values, environ)


def resolve(cls: type[T], values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> T:
    """Options of the class `cls` from explicit `values`, then the environment (see each option's `env`), then defaults.

    Raises `OptionError` for an unusable value, naming the variable it came from.
    """
    environ = os.environ if environ is None else environ
    resolved = dict(values)
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for name in resolved:
        if name not in known:
            raise OptionError(f"there is no option '{name}'; there are {', '.join(known)}")
    for name, _, default, info in option_fields(cls):
        if name in resolved or info.env is None or not environ.get(info.env):
            continue
        text = environ[info.env]
        try:
            resolved[name] = (text,) if isinstance(default, tuple) else type(default)(text)
            cls(**{name: resolved[name]})
        except ValueError:
            raise OptionError(f"environment variable {info.env} is '{text}'; give a whole number") from None
        except OptionError as error:
            raise OptionError(f"environment variable {info.env} is '{text}': {error}") from None
    return cls(**resolved)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """How an engine process is watched. Times are in seconds.

    Raises `OptionError` for a value that cannot be used.
    """

    step_timeout: float = option(
        120.0, "--step-timeout", help="A step of more seconds than this hangs: the engine is started anew; 0 never is."
    )
    max_restarts: int = option(
        5, "--max-restarts", help="Give up after so many crashes in a row without a single new token in between."
    )
    drain_timeout: float = option(
        30.0, "--drain-timeout", help="Seconds that running requests have to end when the server is stopped."
    )

    def __post_init__(self) -> None:
        for name in ("step_timeout", "drain_timeout", "max_restarts"):
            value: Any = getattr(self, name)
            whole = name == "max_restarts"
            is_number = isinstance(value, Integral if whole else Real)
            if not is_number or not 0 <= value <= MOST:
                what = "a whole number" if whole else "seconds"
                raise OptionError(f"{flag_of(SupervisorOptions, name)} is {value!r}; give {what}, 0 or more")


CRASH_TOKEN = "PLAIT_TEST_CRASH_TOKEN"
CHECKED = "PLAIT_TEST_CHECK"


def checked(environ: Mapping[str, str] | None = None) -> bool:
    """Whether an engine process is to verify its bookkeeping whenever it is asked how it is: for tests of long runs."""
    return bool((os.environ if environ is None else environ).get(CHECKED))


def crash_token(environ: Mapping[str, str] | None = None) -> int | None:
    """For tests of recovery: the token whose step kills the process, None outside of them. Raises `OptionError`."""
    text = (os.environ if environ is None else environ).get(CRASH_TOKEN, "")
    if text and not text.isdecimal():
        raise OptionError(f"environment variable {CRASH_TOKEN} is '{text}'; give a token id")
    return int(text) if text else None


def sampling_default(name: str) -> Any:
    """The default of a field of `SamplingParams`."""
    return next(f.default for f in fields(SamplingParams) if f.name == name)
