"""Counter-based random numbers: a draw is a pure function of its key and counter, so nothing has to be remembered.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Knows nothing
of sampling; keeps no state.
"""

from __future__ import annotations

from typing import TypeAlias

Words: TypeAlias = tuple[int, int, int, int]

_MASK = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Four 32-bit words for a counter of four and a key of two 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


TOKEN_STREAM, XTC_STREAM = 0, 1
"""What a uniform number decides: which token, or whether XTC takes part."""


def token_uniform(seed: int, sample_index: int, position: int, stream: int = TOKEN_STREAM) -> float:
    """The one uniform number in [0, 1), a multiple of 2**-53, for the token at `position` of this sample.

    Key: the 64-bit seed, low word first. Counter: the position (low word, high word), the sample index, the stream."""
    counter = (position & _MASK, (position >> 32) & _MASK, sample_index & _MASK, stream)
    high, low, _, _ = philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))
    return ((high >> 5) * 67108864 + (low >> 6)) / 9007199254740992  # 27 and 26 bits, over 2**53
