"""Which device the GPU tests use, and the table of measured errors that they print at the end."""

from __future__ import annotations

import pytest
from gpu_report import Report

REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torch-device", default="cuda", help="device of the GPU tests; cpu tries them without a GPU")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash[REPORT]


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    """The device asked for; skips where it is CUDA and there is none."""
    torch = pytest.importorskip("torch")
    name = str(pytestconfig.getoption("--torch-device", default="cuda"))
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if name == "cpu":
        torch.set_num_threads(1)  # these tensors are too small to share
    return name


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash[REPORT]
    if not report.rows:
        return
    terminalreporter.section("torch backend against the numpy reference")
    terminalreporter.line(f"{'compared':<58} {'type':<5} {'error':>10} {'bound':>10}")
    for row in sorted(report.rows, key=lambda row: (row.dtype, row.what)):
        verdict = "ok" if row.held else "TOO FAR"
        terminalreporter.line(f"{row.what:<58} {row.dtype:<5} {row.error:>10.2e} {row.bound:>10.2e}  {verdict}")
    for note in report.notes:
        terminalreporter.line(note)
