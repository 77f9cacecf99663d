"""The one tree of errors, each with a stable code.

Everything Plait raises on purpose is a `PlaitError`. A message says what was wrong and, where there is one, how to
mend it; faces (CLI, Python, HTTP) print it in one line. Knows nothing of any other module.
"""

from __future__ import annotations


class PlaitError(Exception):
    """Root of the tree. `code` is stable and machine-readable; `str(error)` is one line for a person."""

    code = "internal"


class OptionError(PlaitError):
    """An option or argument whose value cannot be used."""

    code = "invalid_option"


class ModelNotFoundError(PlaitError):
    """No model at that path, and no such model id."""

    code = "model_not_found"


class ModelFileError(PlaitError):
    """A model file with a defect. Names the file, the tensor or key (if any), and the reason."""

    code = "bad_model_file"

    def __init__(self, file: object, reason: str, tensor: str | None = None) -> None:
        self.file = str(file)
        self.tensor = tensor
        self.reason = reason
        where = f"{self.file}: tensor '{tensor}'" if tensor else self.file
        super().__init__(f"{where}: {reason}")


class UnsupportedModelError(ModelFileError):
    """A sound file that holds something Plait does not run: an architecture, a tensor type, a tokenizer."""

    code = "unsupported_model"


class TokenizerError(PlaitError):
    """A tokenizer that is missing, damaged or of an unknown kind, or a token id outside its vocabulary."""

    code = "tokenizer"


class TemplateError(PlaitError):
    """A chat template that is missing or fails to render these messages."""

    code = "chat_template"


class RequestError(PlaitError):
    """A request that cannot be served as asked: a parameter out of range, an empty prompt."""

    code = "invalid_request"


class PromptTooLongError(RequestError):
    """The prompt does not fit into the context, or never into the KV memory there is."""

    code = "prompt_too_long"


class GrammarError(RequestError):
    """A grammar that compiles, and that no answer can be held to: it grows beyond its bounds, or needs letters that no
    token has."""

    code = "grammar_failed"


class QueueFullError(PlaitError):
    """The queue is at its bound; nothing of the request was looked at. `retry_after` is a guess in seconds."""

    code = "queue_full"

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class QueueTimeoutError(PlaitError):
    """The request waited for longer than its `queue_timeout` and was not begun."""

    code = "queue_timeout"


class DeadlineError(PlaitError):
    """The request's `deadline` passed before it was done."""

    code = "deadline_exceeded"


class OutOfPagesError(PlaitError):
    """An operation on sequences needs more pages of KV memory than are free or can be evicted. Nothing was changed."""

    code = "out_of_pages"


class KVFileError(PlaitError):
    """A file of saved KV memory that is damaged, or was made with another model or other settings. Names the file and
    what is wrong with it."""

    code = "bad_kv_file"

    def __init__(self, file: object, reason: str) -> None:
        self.file = str(file)
        self.reason = reason
        super().__init__(f"{self.file}: {reason}")


class BackendError(PlaitError):
    """A kernel library that cannot be used here, or cannot run this model; says what was tried and why."""

    code = "backend_unavailable"


class StepError(PlaitError):
    """A step of the model that failed for one request, for example with logits that are not finite."""

    code = "step_failed"

    @staticmethod
    def of(error: Exception) -> StepError:
        """The error itself if it is one, else one that names it."""
        if isinstance(error, StepError):
            return error
        found = StepError(f"the step failed on this request: {type(error).__name__}: {error}")
        found.__cause__ = error
        return found


class EngineDownError(PlaitError):
    """The engine accepts no requests: it is draining, has given up after crashes, or does not answer."""

    code = "engine_down"


class EngineCrashError(PlaitError):
    """The engine process died of this request: alone, and twice in a row."""

    code = "engine_crash"
