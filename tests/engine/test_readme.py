"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_readmes_python_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(block, str(README), "exec"), names)
    if "llm" in names:
        names["llm"].close()  # type: ignore[attr-defined]
        assert len(capsys.readouterr().out) > 200
    else:
        assert names["context"].memory.seq_pos_max(1) == names["context"].memory.seq_pos_max(0) > 0  # type: ignore[attr-defined]


def test_there_are_two_samples() -> None:
    assert len(BLOCKS) == 2
