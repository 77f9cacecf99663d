"""The house's own rules that a plain test can check."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "plait"


def test_importing_plait_loads_nothing_heavy() -> None:
    code = "import sys, plait; print([m for m in ('numpy', 'tokenizers', 'torch', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_the_package_exists() -> None:
    import plait

    for name in plait.__all__:
        assert getattr(plait, name) is not None


def test_only_config_reads_the_environment() -> None:
    readers = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if "os.environ" in path.read_text() or "os.getenv" in path.read_text()
    }
    assert readers <= {"config.py"}


def test_every_module_says_what_it_is() -> None:
    for path in SOURCE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_no_file_is_over_400_lines() -> None:
    assert [path.name for path in SOURCE.rglob("*.py") if len(path.read_text().splitlines()) > 400] == []
