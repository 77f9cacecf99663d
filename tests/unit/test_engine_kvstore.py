"""The folder of saved blocks: names, its bound, whose files are touched, several users at once."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.engine.fingerprint import Fingerprint
from plait.engine.kvfile import SavedKV
from plait.engine.kvstore import STALE_S, KVStore

MARK = Fingerprint("m", "t", "f16", "cpu-1", "r")


def store(folder: Path, most: int = 1 << 30, mark: Fingerprint = MARK) -> KVStore:
    return KVStore(folder, mark, 4, most)


def block(number: int, size: int = 1000) -> SavedKV:
    tokens = (number, 1, 2, 3)
    return SavedKV(tokens, (0, 1, 2, 3), (bytes([number]) * size,))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> KVStore:
    return store(tmp_path_factory.mktemp("kv"))


@settings(deadline=None)
@given(
    ours=st.lists(st.integers(0, 1), max_size=14),
    theirs=st.lists(st.integers(0, 1), max_size=14),
    salts=st.tuples(st.sampled_from(("", "a", "b")), st.sampled_from(("", "a", "b"))),
    shared=st.sampled_from((0, 4, 6)),
)
def test_names_are_equal_as_far_as_tokens_and_salts_are(
    empty: KVStore, ours: list[int], theirs: list[int], salts: tuple[str, str], shared: int
) -> None:
    mine, others = empty.names(ours, salts[0], shared), empty.names(theirs, salts[1], shared)
    assert len(mine) == len(ours) // 4
    for number, (a, b) in enumerate(zip(mine, others, strict=False), start=1):
        same = ours[: 4 * number] == theirs[: 4 * number] and (salts[0] == salts[1] or 4 * number <= shared)
        assert (a == b) == same


def test_another_fingerprint_has_other_names(tmp_path: Path) -> None:
    other = store(tmp_path, mark=Fingerprint("m", "t", "f16", "cpu-1", "r", "adapter"))
    assert other.names([1, 2, 3, 4]) != store(tmp_path).names([1, 2, 3, 4])


def fill(one: KVStore, count: int, size: int = 1000) -> list[str]:
    names = one.names([n for number in range(count) for n in (number, 1, 2, 3)])
    for number, name in enumerate(names):
        one.write(name, block(number, size))
    return names


def age(folder: Path, names: list[str]) -> None:
    """The first names were used last."""
    for number, name in enumerate(names):
        os.utime(folder / name, (1e9 - number, 1e9 - number))


def test_what_was_written_is_read_and_what_is_not_there_is_none(tmp_path: Path) -> None:
    one = store(tmp_path)
    names = fill(one, 3)
    assert one.stored([*names, "0"]) == 3
    assert one.stored(["0", *names]) == 0
    assert one.read(names[1], (1, 1, 2, 3)) == block(1)
    assert one.read("0" * 40 + ".kv", (1,)) is None
    assert all((tmp_path / name).stat().st_mode & 0o77 == 0 for name in names), "prompts are nobody else's business"


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    names = fill(store(tmp_path), 10)
    age(tmp_path, names)
    size = (tmp_path / names[0]).stat().st_size
    one = store(tmp_path, 6 * size)
    assert [name for name in names if (tmp_path / name).exists()] == names[:5]  # a tenth of room to spare
    age(tmp_path, names[:5])
    one.touch(names[3:5])
    one.write(names[9], block(9))
    one.write(names[8], block(8))
    left = {name for name in names if (tmp_path / name).exists()}
    assert len(left) == 5
    assert {names[3], names[4], names[8], names[9]} < left
    assert one.read(names[0], (0, 1, 2, 3)) in (None, block(0))


def test_reading_counts_as_use_and_a_path_keeps_its_beginning(tmp_path: Path) -> None:
    one = store(tmp_path)
    names = fill(one, 4)
    one.touch(names)
    times = [(tmp_path / name).stat().st_mtime_ns for name in names]
    assert times == sorted(times, reverse=True)
    age(tmp_path, names)
    assert one.read(names[3], (3, 1, 2, 3)) is not None
    assert (tmp_path / names[3]).stat().st_mtime > 1e9


def test_only_files_of_ours_are_counted_and_removed(tmp_path: Path) -> None:
    (tmp_path / "mine.kv").write_bytes(bytes(10_000))
    (tmp_path / "notes.txt").write_bytes(bytes(10_000))
    names = fill(store(tmp_path), 2)
    (tmp_path / (names[0] + "abc.new")).write_bytes(b"half")
    os.utime(tmp_path / (names[0] + "abc.new"), (1e9, 1e9))
    (tmp_path / (names[1] + "def.new")).write_bytes(b"being written")
    assert STALE_S < 1e8
    store(tmp_path, 5000)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(["mine.kv", "notes.txt", *names, names[1] + "def.new"])


def test_damaged_and_foreign_files_are_removed_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = store(tmp_path)
    names = fill(one, 4)
    (tmp_path / names[0]).write_bytes(b"")
    (tmp_path / names[1]).write_bytes(bytes(3000))
    os.replace(tmp_path / names[2], tmp_path / names[3])
    with caplog.at_level(logging.WARNING, logger="plait"):
        assert [one.read(names[n], (n, 1, 2, 3)) for n in (0, 1, 3)] == [None] * 3
    assert [("it is removed" in r.getMessage()) for r in caplog.records] == [True] * 3
    assert list(tmp_path.iterdir()) == []


def test_several_users_share_a_folder(tmp_path: Path) -> None:
    """Each writes, reads and trims; nobody ever sees a wrong block, and the bound holds in the end."""
    stores = [store(tmp_path, 20_000) for _ in range(3)]
    names = stores[0].names([n for number in range(40) for n in (number, 1, 2, 3)])
    seen: list[bool] = []

    def work(one: KVStore) -> None:
        for number, name in enumerate(names):
            one.write(name, block(number))
            got = one.read(names[number // 2], (number // 2, 1, 2, 3))
            seen.append(got in (None, block(number // 2)))

    threads = [threading.Thread(target=work, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 120
    assert all(seen)
    store(tmp_path, 20_000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
