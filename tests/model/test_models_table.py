"""docs/reference/models.md is what the registry and the tests say."""

from __future__ import annotations

from pathlib import Path

from support.models_table import models_table


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "models.md"
    assert page.read_text() == models_table()
