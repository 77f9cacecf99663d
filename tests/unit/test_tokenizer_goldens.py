"""Token ids are llama.cpp's: see tests/golden/tokenizers/make.py for how the expected ones were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plait.formats.open import open_model
from plait.tokenizer import Tokenizer
from plait.tokenizer.pre import PRE_TOKENIZERS

GOLDENS = Path(__file__).parent.parent / "golden" / "tokenizers"
GOLDEN: dict[str, Any] = json.loads((GOLDENS / "ids.json").read_text())


def name_of(variant: dict[str, Any]) -> str:
    return "-".join([variant["file"].removesuffix(".gguf"), *map(str, variant["replaced"].values())])


@pytest.fixture(scope="module")
def metadata() -> dict[str, dict[str, object]]:
    files = {variant["file"] for variant in GOLDEN["variants"]}
    return {file: dict(open_model(GOLDENS / file).metadata) for file in files}


@pytest.mark.parametrize("variant", GOLDEN["variants"], ids=name_of)
def test_ids_are_those_of_llama_cpp(variant: dict[str, Any], metadata: dict[str, dict[str, object]]) -> None:
    tokenizer = Tokenizer.from_metadata(variant["file"], {**metadata[variant["file"]], **variant["replaced"]})
    assert sorted(tokenizer.eog_ids) == variant["ends"]
    for text, pool, chosen in zip(GOLDEN["texts"], GOLDEN["ids"], variant["chosen"], strict=True):
        for mode, expected in zip(GOLDEN["modes"], pool[chosen], strict=True):
            assert tokenizer.encode(text, **mode) == expected, (text, mode)


def test_every_known_pre_tokenizer_has_a_golden() -> None:
    names = {variant["replaced"].get("tokenizer.ggml.pre") for variant in GOLDEN["variants"]}
    assert set(PRE_TOKENIZERS) - names == NOT_NAMED_IN_A_GOLDEN


# gemma4 goes by its model kind; the others differ from a golden one in nothing but their name.
NOT_NAMED_IN_A_GOLDEN = {"gemma4", "granite-embed-multi-311m", "jina-v2-es", "jina-v2-de", "jina-v2-code"}
