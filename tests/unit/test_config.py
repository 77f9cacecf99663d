"""Options are declared once, checked once, and only config reads the environment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.config import EngineOptions, flag_of, from_environment, option_fields
from plait.errors import OptionError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_parallel", 0),
        ("n_batch", 0),
        ("n_ctx", -1),
        ("threads", -1),
        ("threads", 1025),
        ("n_ctx", 100.5),
        ("n_ctx", 10**11),
        ("n_batch", "many"),
        ("kv_type", "q9"),
        ("device", "tpu"),
        ("cpu_mask", "0x"),
        ("cpu_mask", "xyz"),
        ("cpu_mask", "0"),
        ("cpu_mask", "f" * 3000),
        ("cpu_range", "3"),
        ("cpu_range", "3-1"),
        ("cpu_range", "0-99999"),
        ("cpu_range", "-1-2"),
        ("cpu_strict", 2),
    ],
)
def test_an_unusable_option_is_refused_by_its_flag(name: str, value: object) -> None:
    with pytest.raises(OptionError) as caught:
        EngineOptions(**{name: value})
    assert flag_of(EngineOptions, name) in str(caught.value)


def test_the_environment_fills_what_is_not_given() -> None:
    assert from_environment({}, {"PLAIT_THREADS": "3"}).threads == 3
    assert from_environment({"threads": 2}, {"PLAIT_THREADS": "3"}).threads == 2
    assert from_environment({}, {"PLAIT_CPU": "scalar"}).cpu_path == "scalar"
    assert from_environment({}, {"PLAIT_CPU": ""}).cpu_path == "auto"


@pytest.mark.parametrize("value", ["x", "-3"])
def test_a_bad_variable_is_named(value: str) -> None:
    with pytest.raises(OptionError, match="PLAIT_THREADS"):
        from_environment({}, {"PLAIT_THREADS": value})


def test_every_option_has_help_and_a_flag() -> None:
    for name, _, _, info in option_fields(EngineOptions):
        assert info.help.endswith("."), name
        assert info.flags


@given(st.sets(st.integers(0, 200), min_size=1))
def test_a_mask_has_a_bit_for_each_cpu(cpus: set[int]) -> None:
    mask = sum(1 << cpu for cpu in cpus)
    for text in (f"{mask:x}", f"0x{mask:X}", f"0X{mask:064x}"):
        assert EngineOptions(cpu_mask=text).cpus() == tuple(sorted(cpus))


def test_a_range_holds_both_ends() -> None:
    assert EngineOptions(cpu_range="2-5").cpus() == (2, 3, 4, 5)
    assert EngineOptions(cpu_range="7-7").cpus() == (7,)
    assert EngineOptions().cpus() == ()
    with pytest.raises(OptionError, match="give one of them"):
        EngineOptions(cpu_mask="1", cpu_range="0-0")
