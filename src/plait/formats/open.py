"""From a path to an opened model, whatever the container. Knows both containers; knows no architecture."""

from __future__ import annotations

from pathlib import Path

from plait.errors import ModelNotFoundError
from plait.formats.gguf import open_gguf, part_names
from plait.formats.hf import CONFIG, INDEX, open_hf
from plait.formats.mapped import unreadable
from plait.formats.random import open_random
from plait.formats.tensor import ModelSource

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_LISTED = 8


def open_model(path: str | Path) -> ModelSource:
    """Open a GGUF file (or any part of a split one), a Hugging Face directory, or a directory with one GGUF model.

    Reads headers only: tensors stay in the file until asked for. Raises `ModelNotFoundError` if there is no model,
    `ModelFileError` for a defect, `UnsupportedModelError` for what Plait does not read.
    """
    path = Path(path)
    try:
        is_directory = path.is_dir()
        names = sorted(entry.name for entry in path.iterdir()) if is_directory else []
    except OSError as error:
        raise unreadable(path, error) from None
    return _open_directory(path, names) if is_directory else open_gguf(path)


def open_weights(path: str | Path, load_format: str) -> ModelSource:
    """`open_model`, or for the load format "random" the shape in a folder's config.json with weights nobody trained.

    Raises as `open_model` and `open_random` do."""
    return open_random(Path(path)) if load_format == "random" else open_model(path)


def gguf_models(names: list[str]) -> dict[str, str]:
    """The GGUF models among file names: the first part's name to a name that is there. Parts of a split are one model;
    multimodal projectors, which lie beside their model, are none."""
    models: dict[str, str] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if file.endswith(".gguf") and not file.startswith("mmproj"):
            first = part_names(file)[0]
            models.setdefault(f"{folder}/{first}" if folder else first, name)
    return models


def listing(names: list[str]) -> str:
    """Names for a message: the first few, and how many more."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _open_directory(path: Path, names: list[str]) -> ModelSource:
    models = gguf_models(names)
    safetensors = any(name.endswith(".safetensors") or name == INDEX for name in names)
    if safetensors and (CONFIG in names or not models):
        return open_hf(path)
    if len(models) == 1:
        return open_gguf(path / next(iter(models.values())))
    if models:
        raise ModelNotFoundError(f"{path}: holds {len(models)} models, name one of them: {listing(list(models))}")
    pickles = [name for name in names if name.endswith(_PICKLES)]
    found = f"; it holds {listing(pickles)}, which must be converted to safetensors or GGUF" if pickles else ""
    raise ModelNotFoundError(f"{path}: holds no model, neither a .gguf file nor {CONFIG} with safetensors{found}")
