"""The table of models: `PYTHONPATH=src:tests python -m support.models_table > docs/reference/models.md`.

From the registry, and from the tiny models that the tests run.
"""

from __future__ import annotations

from collections.abc import Mapping

from plait.models.families import GGUF_ARCHITECTURES, HF_ARCHITECTURES, Architecture
from support.families import CASES, load_tiny

HEAD = """# Models

Generated from the registry and the tests: `PYTHONPATH=src:tests python -m support.models_table`.

Every architecture runs from both containers where both are listed, on the CPU and on CUDA, from one definition.
*Tested* names what `tests/model/test_families.py` runs: a tiny random model whose logits equal those of transformers
(float32), for prefill, decode and batches, on the reference and on every SIMD path of the CPU, there with the same bits
in any batch; on CUDA the plain path is compared on torch's CPU device. ALiBi runs on CUDA without the Triton kernels.

| architecture | name in the file | models | tested |
|---|---|---|---|
"""


def models_table() -> str:
    """The page, as Markdown."""
    tested: dict[str, set[str]] = {"gguf": set(), "safetensors": set()}
    for name, container in CASES:
        tested[container].add(load_tiny(name, container).architecture)
    rows = [*_rows(HF_ARCHITECTURES, "safetensors", tested), *_rows(GGUF_ARCHITECTURES, "gguf", tested)]
    return HEAD + "\n".join(sorted(rows)) + "\n"


def _rows(table: Mapping[str, Architecture], container: str, tested: Mapping[str, set[str]]) -> list[str]:
    kind = "GGUF" if container == "gguf" else "Hugging Face"
    return [
        f"| {one.name} | {kind}: `{name}` | {one.serves} | {'yes' if one.name in tested[container] else 'no'} |"
        for name, one in table.items()
    ]


if __name__ == "__main__":
    print(models_table(), end="")
