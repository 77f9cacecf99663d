"""From what a person calls a model to a path: nothing (the bundled one), a path, or a Hugging Face hub id.

Knows the file names of models, and the hub's client, which it imports only when a hub id is asked for.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

from plait.errors import ModelNotFoundError
from plait.formats.gguf import part_names
from plait.formats.hf import CONFIG
from plait.formats.open import gguf_models, listing

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<file>.+))?", re.ASCII)
USUAL_QUANTISATION = "Q4_K_M"
_TOKENIZER_FILES = ("tokenizer.model", "merges.txt", "vocab.txt")


@dataclass(frozen=True, slots=True)
class HubId:
    """`owner/name`, and after a colon the GGUF file wanted, or a part of its name such as Q4_K_M."""

    repo: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}:{self.file}" if self.file else self.repo


class Hub(Protocol):
    """The hub, or what a test puts in its place. Methods raise `ModelNotFoundError`."""

    def list_files(self, repo: str) -> list[str]:
        """Names of all files of the repository; of those in the local cache when the hub cannot be reached."""
        ...

    def download(self, repo: str, files: list[str]) -> Path:
        """Fetch the files unless they are cached; the directory that holds them."""
        ...


def pull_model(name: str, hub: Hub) -> Path:
    """Fetch the model `name` (`owner/name`, `owner/name:FILE.gguf` or `owner/name:QUANTISATION`) from the hub, or what
    the local cache lacks of it; the path to give to the other commands. Raises `ModelNotFoundError`."""
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise ModelNotFoundError(f"{name!r} is no hub id; give owner/name, or owner/name:Q4_K_M for one of its files")
    return _fetch(HubId(match["repo"], match["file"]), hub)


def resolve_model(name: str | None, hub: Hub | None = None) -> Path:
    """The path of the model that a person calls `name`.

    None is the bundled model; an existing path is itself; `owner/name` and `owner/name:FILE.gguf` are fetched from the
    hub (or found in its local cache). Raises `ModelNotFoundError`, which says what was looked for.
    """
    if name is None:
        # An editable install has several roots: ask for the folder, which lies in one of them.
        return bundled_model(Path(str(resources.files("plait").joinpath("data"))))
    path = Path(name).expanduser()
    if name and _exists(path):
        return path
    match = _HUB_ID.fullmatch(name)
    if match is None or _looks_like_path(name):
        raise ModelNotFoundError(_no_such_file(name, path))
    if hub is None:
        from plait.formats.hub_client import HuggingFaceHub

        hub = HuggingFaceHub()
    return _fetch(HubId(match["repo"], match["file"]), hub)


def bundled_model(directory: Path) -> Path:
    """The one .gguf file in `directory`. Raises `ModelNotFoundError` if there is none, or more."""
    found = sorted(directory.glob("*.gguf"))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} bundled models in {directory}" if found else "no bundled model in this installation"
    raise ModelNotFoundError(f"{what}; name a model: a .gguf file, a directory, or a hub id such as owner/name")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # not readable, or no name a file can have: opening it says which
    except ValueError:
        return False


def _looks_like_path(name: str) -> bool:
    if name.startswith((".", "~", "/")):
        return True
    if ":" not in name and name.endswith((".gguf", ".safetensors")):
        return True
    # `models/tiny` beside a directory `models` is a mistyped path rather than a hub id.
    return Path(name.split("/")[0]).is_dir()


def _no_such_file(name: str, path: Path) -> str:
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        siblings = []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    if close:
        return f"{name!r}: no such file or directory; did you mean {str(path.parent / close[0])!r}?"
    return f"{name!r}: no such file or directory; give a .gguf file, a model directory, or a hub id such as owner/name"


def _fetch(hub_id: HubId, hub: Hub) -> Path:
    files = hub.list_files(hub_id.repo)
    chosen = choose_files(hub_id, files)
    directory = hub.download(hub_id.repo, chosen)
    return directory / chosen[0] if chosen[0].endswith(".gguf") else directory


def choose_files(hub_id: HubId, files: list[str]) -> list[str]:
    """Which of a repository's `files` make up the model that `hub_id` asks for.

    Either the parts of one GGUF model, the first part first, or the configuration, tokenizer and safetensors files at
    the repository's top. Of several GGUF models, none of which is named, that in Q4_K_M is taken. Raises
    `ModelNotFoundError` if nothing, or more than one model, fits.
    """
    models = sorted(gguf_models(files))
    if hub_id.file is None and CONFIG in files and any(_is_weights(file) for file in files):
        return sorted(file for file in files if _belongs_to_hf(file))
    wanted = models if hub_id.file is None else [model for model in models if _fits(model, hub_id.file)]
    if hub_id.file is None and len(wanted) > 1:
        usual = [model for model in wanted if _fits(model, USUAL_QUANTISATION)]
        wanted = usual if len(usual) == 1 else wanted
    if len(wanted) == 1:
        return _with_parts(wanted[0], hub_id, files)
    if not models:
        raise ModelNotFoundError(f"{hub_id}: the repository holds neither a GGUF file nor {CONFIG} with safetensors")
    if not wanted:
        raise ModelNotFoundError(f"{hub_id}: no such GGUF file in the repository; it holds {listing(models)}")
    example = f"{hub_id.repo}:{wanted[0]}"
    raise ModelNotFoundError(f"{hub_id}: {len(wanted)} models fit, name one ({example}): {listing(wanted)}")


def _fits(model: str, wanted: str) -> bool:
    file = model.rpartition("/")[2]
    if wanted.endswith(".gguf"):
        folder, _, name = wanted.rpartition("/")
        first = part_names(name)[0]
        return model == (f"{folder}/{first}" if folder else first) or (not folder and file == first)
    return re.search(rf"(?:^|[-_.]){re.escape(wanted)}(?:[-_.]|$)", file, re.IGNORECASE) is not None


def _with_parts(model: str, hub_id: HubId, files: list[str]) -> list[str]:
    folder, _, first = model.rpartition("/")
    parts = [f"{folder}/{name}" if folder else name for name in part_names(first)]
    missing = [part for part in parts if part not in files]
    if missing:
        raise ModelNotFoundError(f"{hub_id}: the repository (or the local cache of it) lacks {listing(missing)}")
    return parts


def _is_weights(file: str) -> bool:
    return file.startswith("model") and file.endswith(".safetensors") and "/" not in file


def _belongs_to_hf(file: str) -> bool:
    return "/" not in file and (_is_weights(file) or file.endswith((".json", ".jinja")) or file in _TOKENIZER_FILES)
