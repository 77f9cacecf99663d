"""What a value must be to be sent on, and how a message says one that is not. Knows nothing."""

from __future__ import annotations

from numbers import Integral, Real

MAX_NUMBER = 2**31 - 1
"""Of whatever has no closer bound: no context has more tokens, and every number that is taken can be sent on."""
MAX_BIAS = 1e9


def is_token(entry: object) -> bool:
    return isinstance(entry, Integral) and abs(int(entry)) <= MAX_NUMBER


def is_bias(entry: object) -> bool:
    match entry:
        case (token, Integral() as amount) if is_token(token):
            return -MAX_NUMBER <= int(amount) <= MAX_BIAS
        case (token, Real() as amount) if is_token(token):
            return bool(amount <= MAX_BIAS)  # minus infinity bans; not-a-number is no bias
    return False


def said(value: object) -> str:
    """As a message says it: Python itself refuses to write whole numbers of thousands of digits."""
    long = isinstance(value, int) and abs(value) >= 10**30
    return "a number of more than 30 digits" if long else repr(value)


def is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
