"""The C++ tests, built without Python and run under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
def test_native_tests_pass_under_sanitizers(tmp_path: Path) -> None:
    cmake, ctest = shutil.which("cmake"), shutil.which("ctest")
    if cmake is None or ctest is None:
        pytest.skip("cmake is not on the path")
    run(cmake, "-S", ROOT, "-B", tmp_path, "-DPLAIT_NATIVE_TESTS=ON", "-DPLAIT_SANITIZE=address,undefined")
    run(cmake, "--build", tmp_path, "--parallel", "2")
    run(ctest, "--test-dir", tmp_path, "--output-on-failure")
