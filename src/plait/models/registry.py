"""From an opened model file to a recorded program: which architectures there are, and which a file holds.

An architecture is a row of `families`: how its config is read, its tables of names, and the function that records it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from plait.errors import ModelFileError, UnsupportedModelError
from plait.formats.tensor import ModelSource
from plait.models.config import DecoderConfig
from plait.models.families import GGUF_ARCHITECTURES, HF_ARCHITECTURES, Architecture
from plait.models.names import pick
from plait.models.weights import WeightReader
from plait.ops.api import KVShape, Program


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to be compiled. `n_parameters` counts shared tensors once; `weight_bytes` are those in the file."""

    architecture: str
    config: DecoderConfig
    program: Program
    n_parameters: int
    weight_bytes: int

    @property
    def context_length(self) -> int:
        """Tokens the model was made for."""
        return self.config.context_length

    @property
    def vocab_size(self) -> int:
        return self.config.vocab

    @property
    def kv(self) -> KVShape:
        return self.program.kv


def load_model(source: ModelSource, n_ctx: int = 0) -> LoadedModel:
    """Reads config and names, and records the program for sequences of up to `n_ctx` tokens (0: as many as it was made
    for); no weight is read yet.

    Raises UnsupportedModelError for an architecture that Plait does not run, ModelFileError for a defective file."""
    architecture = find_architecture(source)
    config = architecture.read_config(source).for_context(n_ctx)
    names, weights = pick(architecture.names, source), WeightReader(source)
    program = architecture.record(config, names, weights)
    weights.check_all_taken(names.unused)
    return LoadedModel(architecture.name, config, program, weights.n_parameters(), weights.nbytes())


def find_architecture(source: ModelSource) -> Architecture:
    """The row for this file. Raises UnsupportedModelError, naming the nearest supported ones, if there is none."""
    supported = GGUF_ARCHITECTURES if source.container == "gguf" else HF_ARCHITECTURES
    name = _architecture_name(source)
    if name not in supported:
        nearest = difflib.get_close_matches(name, supported, n=3, cutoff=0.5) or list(supported)[:3]
        raise UnsupportedModelError(
            source.path, f"the architecture '{name}' is not supported; the nearest that are: {', '.join(nearest)}"
        )
    return supported[name]


def _architecture_name(source: ModelSource) -> str:
    if source.container == "gguf":
        key, value = "general.architecture", source.metadata.get("general.architecture")
    else:
        key, listed = "architectures", source.metadata.get("architectures")
        value = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(value, str):
        raise ModelFileError(source.path, f"key '{key}' is missing: it must name the model's architecture")
    return value
