"""The pure parts of `plait bench`: lists of numbers, the arithmetic of a case, the cutting of steps, the chart."""

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.api.bench import BenchCase, BenchTimes, _cut
from plait.cli.bench import BenchRow, parse_counts
from plait.cli.chart import Point, chart, nice_ticks
from plait.errors import OptionError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("128", [128]),
        ("128,512", [128, 512]),
        ("8, 1", [8, 1]),
        ("1-4", [1, 2, 3, 4]),
        ("128-512+128", [128, 256, 384, 512]),
        ("1-32*2", [1, 2, 4, 8, 16, 32]),
        ("1-30*2,5", [1, 2, 4, 8, 16, 5]),
        ("3-3", [3]),
    ],
)
def test_lists_and_ranges(text: str, values: list[int]) -> None:
    assert parse_counts("-npl", text, 1) == values


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "1,",
        "x",
        "1.5",
        "-1",
        "0",
        "4-1",
        "1-8*1",
        "0-8*2",
        "1-8+0",
        "1-100000",
        "9" * 100,
        "4294967296",
        "1-4-8",
    ],
)
def test_a_bad_list_is_refused_by_its_flag(text: str) -> None:
    with pytest.raises(OptionError, match="-npl"):
        parse_counts("-npl", text, 1)


@given(st.text(alphabet="0123456789-+*, x", max_size=12))
def test_any_text_gives_numbers_or_one_error(text: str) -> None:
    try:
        values = parse_counts("-npp", text, 1)
    except OptionError:
        return
    assert values
    assert all(1 <= value < 2**31 for value in values)


def test_the_tokens_of_a_case() -> None:
    assert BenchCase(128, 64, 4).kv_tokens == 4 * (128 + 64)
    assert BenchCase(128, 64, 4, shared=True).kv_tokens == 128 + 4 * 64
    assert BenchCase(128, 64, 4, shared=True).prompt_tokens == 128


def test_the_pages_of_a_case_hold_it() -> None:
    assert BenchCase(17, 16, 3).pages(16) == 3 * 3
    # A prompt of one whole page and a ragged one; each sequence: its copy of the ragged one, and what follows.
    assert BenchCase(17, 16, 3, shared=True).pages(16) == 2 + 3 * 2


@given(prompt=st.integers(1, 9), sequences=st.integers(1, 5), n_batch=st.integers(1, 20))
def test_steps_cut_the_prompts_without_gap_or_overlap(prompt: int, sequences: int, n_batch: int) -> None:
    total = prompt * sequences
    seen = []
    for start in range(0, total, n_batch):
        parts = _cut(start, min(start + n_batch, total), prompt)
        assert sum(high - low for _, low, high in parts) <= n_batch
        seen += [(seq, place) for seq, low, high in parts for place in range(low, high)]
    assert seen == [(seq, place) for seq in range(sequences) for place in range(prompt)]


def test_rates_of_a_row() -> None:
    row = BenchRow(BenchCase(100, 50, 4), BenchTimes(2.0, 4.0, 0.2, 1.0, 0.0))
    values = row.as_dict()
    assert (values["speed_pp"], values["speed_tg"], values["speed"]) == (200.0, 50.0, 100.0)
    assert (values["python_share_pp"], values["python_share_tg"]) == (0.1, 0.25)
    cells = [cell.strip() for cell in row.markdown().strip("|").split("|")]
    assert cells == ["100", "50", "4", "600", "2.000", "200.00", "4.000", "50.00", "6.000", "100.00"]


def test_nothing_decoded_has_no_rate() -> None:
    row = BenchRow(BenchCase(100, 0, 1), BenchTimes(2.0, 1e-7, 0.2, 1e-7, 0.0))
    assert row.generate_rate == 0
    assert row.as_dict()["speed_tg"] == 0


def test_medians_are_of_each_figure() -> None:
    times = [BenchTimes(a, b, 0.0, 0.0, 0.0) for a, b in ((1.0, 9.0), (3.0, 1.0), (2.0, 5.0))]
    assert BenchTimes.medians(times) == BenchTimes(2.0, 5.0, 0.0, 0.0, 0.0)


@given(st.floats(0, 1e9, allow_nan=False))
def test_ticks_reach_the_largest_value_in_few_round_steps(largest: float) -> None:
    ticks = nice_ticks(largest)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 8
    assert ticks[-1] >= largest * (1 - 1e-6)
    assert ticks[-1] < 2 * largest or ticks == [0.0, 1.0]


def test_the_chart_has_a_line_for_each_label_in_both_panels_and_stays_inside() -> None:
    points = [Point(f"PP {pp} <&>", b, 10.0 * b, 1.0 * b) for pp in (1, 2) for b in (1, 2, 3, 4, 32)]
    root = ET.fromstring(chart("a & b", points))
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 4
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for line in lines:
        places = [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
        assert len(places) == 5
        assert [x for x, _ in places] == sorted(x for x, _ in places)
        assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
        assert all(0 < x < width and 0 < y < height and math.isfinite(y) for x, y in places)
    assert {text.text for text in root.iter(f"{SVG}text")} >= {"PP 1 <&>", "PP 2 <&>", "a & b", "32"}


def test_a_chart_of_one_point_and_of_no_speed() -> None:
    root = ET.fromstring(chart("m", [Point("PP 1", 4, 5.0, 0.0)]))
    assert len(root.findall(f"{SVG}circle")) == 2
