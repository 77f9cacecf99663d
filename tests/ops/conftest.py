"""Fixtures of the ops tier."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if not Path("/dev/nvidiactl").exists():
    # Before triton is imported by anyone: it is then that it chooses how kernels run.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Torch's threads wait for each other at every op: on a busy machine, tiny tensors take ten times as long."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
