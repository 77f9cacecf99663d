"""A Hugging Face directory: config.json, and safetensors in one file or in shards. Knows no architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from plait.errors import ModelFileError
from plait.formats.checkpoints import weights_of
from plait.formats.json_file import read_json_object
from plait.formats.safetensors_reader import read_safetensors
from plait.formats.stored import StoredTensor
from plait.formats.tensor import LazyTensor

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
QUANTISATION_FILES = {"gptq": "quantize_config.json", "awq": "quant_config.json"}


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    """An opened directory; see `ModelSource`. `metadata` is config.json."""

    path: Path
    metadata: Mapping[str, object]
    tensors: Mapping[str, LazyTensor]
    container: str = "safetensors"


def open_hf(directory: Path) -> HuggingFaceSource:
    """Open `directory`. Raises `ModelFileError` for any defect or missing file."""
    if not (directory / CONFIG).exists():
        raise ModelFileError(directory, f"has no {CONFIG}")
    config = _with_quantisation(directory, read_json_object(directory / CONFIG))
    if (directory / SINGLE).exists():
        tensors = read_safetensors(directory / SINGLE)
    elif (directory / INDEX).exists():
        tensors = _read_shards(directory)
    else:
        raise ModelFileError(directory, f"has neither {SINGLE} nor {INDEX}; Plait reads no other weight files there")
    weights = weights_of(directory, config, tensors)
    return HuggingFaceSource(directory, MappingProxyType(config), MappingProxyType(dict(weights)))


def _with_quantisation(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Older checkpoints describe it in a file of its own."""
    for method, name in QUANTISATION_FILES.items():
        if not config.get("quantization_config") and (directory / name).exists():
            config["quantization_config"] = {"quant_method": method, **read_json_object(directory / name)}
    return config


def _read_shards(directory: Path) -> dict[str, StoredTensor]:
    """The tensors that the index names; others in the shards do not belong to the model."""
    index = directory / INDEX
    weight_map = _weight_map(index)
    shards: dict[str, dict[str, StoredTensor]] = {}
    for shard in sorted(set(weight_map.values())):
        if not (directory / shard).exists():
            raise ModelFileError(index, f"names the shard {shard}, which is missing from {directory}")
        shards[shard] = read_safetensors(directory / shard)
    tensors: dict[str, StoredTensor] = {}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise ModelFileError(index, f"is not in {shard}, where the index says it is", name)
        tensors[name] = shards[shard][name]
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    weight_map: Any = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(index, "key 'weight_map': expected an object of tensor names to file names")
    for name, shard in weight_map.items():
        # A name that leads out of the directory would let an index read any file.
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or Path(shard).name != shard:
            raise ModelFileError(
                index, f"key 'weight_map': {name[:200]!r} is in {shard!r:.200}, which is no shard's name"
            )
    return weight_map
