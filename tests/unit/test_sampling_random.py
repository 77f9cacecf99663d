import pytest

from plait.ops.random import philox4x32, token_uniform


# Known answers published with the Random123 library (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert philox4x32(counter, key) == expected


def test_the_whole_key_matters() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (1 << 32, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1 << 32)]
    assert len({token_uniform(*key) for key in keys}) == len(keys)


def test_uniform_is_the_top_53_bits_of_the_first_two_words() -> None:
    high, low, _, _ = philox4x32((7, 0, 3, 0), (5, 2))
    bits = (high >> 5) << 26 | low >> 6
    assert token_uniform((2 << 32) | 5, 3, 7) == bits / 2**53


def test_uniforms_lie_in_the_unit_interval_and_are_spread() -> None:
    draws = [token_uniform(42, 0, position) for position in range(4000)]
    assert 0 <= min(draws) < 0.002
    assert 0.998 < max(draws) < 1
    assert abs(sum(draws) / len(draws) - 0.5) < 0.02
