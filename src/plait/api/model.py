"""A model opened and recorded, with its tokenizer; not yet on a device."""

from __future__ import annotations

from pathlib import Path

from plait.formats.hub import resolve_model
from plait.formats.open import open_weights
from plait.models.registry import LoadedModel, load_model
from plait.tokenizer import Tokenizer


class Model:
    """A model file or directory, with `loaded` (the recorded program and its config) and `tokenizer`."""

    def __init__(self, path: Path, loaded: LoadedModel, tokenizer: Tokenizer) -> None:
        self.path = path
        self.loaded = loaded
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, model: str | Path | None = None, n_ctx: int = 0, load_format: str = "auto") -> Model:
        """Open `model`: a .gguf file, a directory, a hub id, or None for the bundled model. `n_ctx`: sequences will be
        no longer than so many tokens (0: than the model was made for); some models rotate short ones by other factors.
        `load_format`: "random" for weights that nobody trained, of the shape in the directory's config.json.

        Raises `ModelNotFoundError`, `ModelFileError`, `UnsupportedModelError` or `TokenizerError`.
        """
        path = resolve_model(None if model is None else str(model))
        source = open_weights(path, load_format)
        return cls(path, load_model(source, n_ctx), Tokenizer.from_source(source))

    @property
    def context_length(self) -> int:
        """The longest sequence the model was made for, in tokens."""
        return self.loaded.context_length

    @property
    def vocab_size(self) -> int:
        return self.loaded.vocab_size
