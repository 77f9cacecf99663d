"""The C++ alone: its tests on the very objects that the extension consists of, and cross-built for ARM in an emulator;
what those objects may hold, so that a library built on one CPU runs on others. `make sanitize` runs the same tests
under sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARM = "aarch64-linux-gnu"
SIMD = "native/simd/"

pytestmark = pytest.mark.timeout(900)  # compiles, for minutes where the processors are busy


def tool(name: str) -> str:
    """Skips the test where the tool is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on the path")
    return found


def run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder in which `make build` made the extension last."""
    folders = [cache.parent for cache in ROOT.glob("build/cp*/CMakeCache.txt")]
    if not folders:
        pytest.skip("the extension was not built in this checkout")
    return max(folders, key=lambda folder: (folder / "CMakeCache.txt").stat().st_mtime)


@pytest.fixture(scope="module", params=["quick", pytest.param("release", marks=pytest.mark.slow)])
def arm(request: pytest.FixtureRequest) -> Path:
    """The C++ for 64-bit ARM with its tests; built anew only as far as the sources changed. The release build takes
    several times as long as the quick one."""
    cmake, ninja = tool("cmake"), tool("ninja")
    compiler, folder = tool(f"{ARM}-g++"), ROOT / "build" / f"native-aarch64-{request.param}"
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}")
    options = ("-DPLAIT_NATIVE_TESTS=ON", "-DPLAIT_WARNINGS_AS_ERRORS=ON", f"-DCMAKE_MAKE_PROGRAM={ninja}")
    quick = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1") if request.param == "quick" else ()
    run(cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", *system, *options, *quick)
    run(cmake, "--build", folder, "--parallel", "2")
    return folder


def objects(folder: Path) -> dict[str, Path]:
    """Object files of the library by the path of their source."""
    inside = folder / "CMakeFiles" / "plait_native.dir"
    return {path.relative_to(inside).as_posix().removesuffix(".o"): path for path in inside.rglob("*.o")}


def test_the_cpp_tests_pass_on_the_objects_of_the_extension(built: Path) -> None:
    run(tool("cmake"), "--build", built, "--target", "native_tests", "--parallel", "2")
    tests = built / "native" / "tests" / "native_tests"
    paths = run(tests, "--paths").split()
    assert "scalar" in paths
    if "avx2" in paths and f"{SIMD}avx_vnni.cpp" in objects(built):
        assert "avx_vnni" in paths, "run by the CPU, or emulated"
    run(tests)


@pytest.mark.parametrize(
    ("cpu", "paths"), [("max", ["neon_dotprod", "neon", "scalar"]), ("cortex-a72", ["neon", "scalar"])]
)
def test_the_cpp_tests_pass_on_arm(arm: Path, cpu: str, paths: list[str]) -> None:
    """With the checksums of x86 (native/tests/golden.h)."""
    emulate = (tool("qemu-aarch64"), "-cpu", cpu, "-L", f"/usr/{ARM}", arm / "native" / "tests" / "native_tests")
    assert run(*emulate, "--paths").split() == paths
    run(*emulate)


def exported(nm: str, path: Path) -> list[str]:
    return [line.split(" ", 2)[2] for line in run(nm, "-C", "--defined-only", "--extern-only", path).splitlines()]


def needed(nm: str, path: Path) -> set[str]:
    return {line.split()[-1] for line in run(nm, "--undefined-only", path).splitlines() if line.strip()}


def check_path_objects(nm: str, folder: Path) -> None:
    """A path exports the accessor of its table, and calls nothing but what every C library has: an inlined template of
    the standard library, exported, might be the one that the linker takes for the whole program."""
    for source, path in objects(folder).items():
        if source.startswith(SIMD):
            assert exported(nm, path) == [f"plait::{Path(source).stem}_kernels()"], source
            assert needed(nm, path) <= {"memcpy", "memmove", "memset", "_GLOBAL_OFFSET_TABLE_"}, source


def test_a_path_exports_its_table_only(built: Path) -> None:
    check_path_objects(tool("nm"), built)


def test_a_path_for_arm_exports_its_table_only(arm: Path) -> None:
    check_path_objects(tool(f"{ARM}-nm"), arm)


def code(objdump: str, path: Path) -> str:
    return run(objdump, "-d", "--no-show-raw-insn", path)


def test_nothing_but_the_paths_needs_more_than_plain_x86_64(built: Path) -> None:
    if f"{SIMD}avx2.cpp" not in objects(built):
        pytest.skip("not built for x86-64")
    objdump, wide = tool("objdump"), re.compile(r"%[yz]mm|\tv[a-z0-9]+ +.*%xmm")
    bindings = {path.name: path for path in built.glob("CMakeFiles/_native.dir/native/*.o")}
    assert "bindings.cpp.o" in bindings
    everything = objects(built) | bindings
    found = {source for source, path in everything.items() if wide.search(code(objdump, path))}
    assert found == {f"{SIMD}{name}.cpp" for name in ("avx2", "avx_vnni", "avx512", "avx512_vnni")} & set(everything)


def test_nothing_but_one_path_needs_dot_products_on_arm(arm: Path) -> None:
    objdump = tool(f"{ARM}-objdump")
    found = {source for source, path in objects(arm).items() if "\tsdot\t" in code(objdump, path)}
    assert found == {f"{SIMD}neon_dotprod.cpp"}


def test_no_build_targets_the_machine_it_runs_on() -> None:
    for name in ("CMakeLists.txt", "native/tests/CMakeLists.txt", "pyproject.toml", "Makefile"):
        assert not re.search(r"-m(arch|cpu|tune)=native", (ROOT / name).read_text()), name
