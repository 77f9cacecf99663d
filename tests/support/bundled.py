"""The bundled model in other clothes: the same weights rounded to float16, as a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from plait.formats.hub import resolve_model
from plait.formats.open import open_model

PROMPTS = (
    "Once upon a time, there was a little girl who",
    'The old sailor looked at the sea and said, "',
    "One day, a small dog found a big red ball. He wanted to play, but",
)


def write_f16(path: Path, model: Path | None = None) -> Path:
    """Writes the bundled model (or another GGUF file) with every matrix as F16, vectors as F32, metadata as it is."""
    return write_floats(path, np.float16, model)


def write_floats(path: Path, dtype: type[np.floating], model: Path | None = None) -> Path:
    """The same in another float type."""
    source = open_model(model or resolve_model(None))
    writer = GGUFWriter(path, str(source.metadata["general.architecture"]))
    for name, field in GGUFReader(source.path).fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub)
    for tensor in source.tensors.values():
        values = tensor.numpy()
        writer.add_tensor(tensor.name, values.astype(dtype) if values.ndim == 2 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
