"""The backend under test."""

from __future__ import annotations

import pytest

from plait.ops.api import Backend
from support.backends import BACKENDS, make_backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return make_backend(request.param)
