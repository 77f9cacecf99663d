"""The table of models: `PYTHONPATH=src:tests python -m support.models_table > docs/reference/models.md`.

From the registry, from the tiny models that the tests run, and from the newest comparison with llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from plait.models.families import GGUF_ARCHITECTURES, HF_ARCHITECTURES, Architecture
from plait.models.registry import load_model
from plait.ops.api import Attention
from support.families import CASES
from support.tensors import MemorySource
from support.tiny_files import OTHER_FILES
from support.tiny_models import tiny_models
from support.types_table import types_tables

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
HEAD = """# Models

Generated from the registry and the tests: `PYTHONPATH=src:tests python -m support.models_table`.

Every architecture is one definition for both containers, the CPU and CUDA. *Tested as* names the tiny random models of
it whose logits equal those of transformers (float32, 1e-4): for prefill, decode and batches on the reference and on the
CPU, there with the same bits in any batch and on every SIMD path (`tests/model/test_families.py`), and on CUDA's op by
op path on torch's CPU device (`tests/ops/test_cuda_families.py`; `tests/gpu` runs them on a GPU). *llama.cpp* is the
largest difference from its logits, as a share of the largest one (`benchmarks/results`). *CUDA* says what runs there:
the Triton kernels, or torch op by op, for ALiBi.

| architecture | name in the file | models | tested as | llama.cpp | CUDA |
|---|---|---|---|---|---|
"""


def models_table() -> str:
    """The page, as Markdown."""
    tested: dict[tuple[str, str], list[str]] = {}
    kernels: dict[str, bool] = {}
    for variant, source in _sources():
        model = load_model(source)
        key = source.container, _name(source)
        tested.setdefault(key, []).append(variant)
        alibi = any(isinstance(op, Attention) and op.slopes is not None for op in model.program.instructions)
        kernels[model.architecture] = kernels.get(model.architecture, False) or not alibi
    rows = [
        *_rows(HF_ARCHITECTURES, "safetensors", tested, kernels),
        *_rows(GGUF_ARCHITECTURES, "gguf", tested, kernels),
    ]
    return HEAD + "\n".join(sorted(rows)) + "\n" + types_tables()


def _sources() -> Iterator[tuple[str, MemorySource]]:
    for name, container in CASES:
        yield name, tiny_models()[name].source(container)
    for name, make in OTHER_FILES.values():
        yield name, make()


def _name(source: MemorySource) -> str:
    if source.container == "gguf":
        return str(source.metadata["general.architecture"])
    architectures = source.metadata["architectures"]
    assert isinstance(architectures, list)
    return str(architectures[0])


def _rows(
    table: Mapping[str, Architecture],
    container: str,
    tested: Mapping[tuple[str, str], list[str]],
    kernels: Mapping[str, bool],
) -> list[str]:
    kind = "GGUF" if container == "gguf" else "Hugging Face"
    beside = _beside_llama_cpp() if container == "gguf" else {}
    rows = []
    for name, one in table.items():
        variants = ", ".join(dict.fromkeys(tested[container, name]))
        cuda = "kernels" if kernels[one.name] else "op by op"
        rows.append(f"| {one.name} | {kind}: `{name}` | {one.serves} | {variants} | {beside.get(name, '')} | {cuda} |")
    return rows


def _beside_llama_cpp() -> dict[str, str]:
    """For each architecture the smallest difference among its variants: of the others the comparison says why."""
    newest = max(RESULTS.glob("*-llama-cpp-parity.md"))
    found: dict[str, str] = {}
    for line in newest.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[3][:1].isdigit():
            found[cells[2]] = min(found.get(cells[2], cells[3]), cells[3], key=float)
    return found


if __name__ == "__main__":
    print(models_table(), end="")
