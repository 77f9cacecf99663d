"""API keys: who asks, and what each may ask. Pure but for the reading of a file; the clock is passed in."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plait.errors import OptionError
from plait.server.errors import AuthenticationError, FieldError, OverloadedError, RateLimitError

MINUTE_S = 60.0


class KeyRing:
    """The known keys. Without any, everybody is let in as the tenant ""."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Raises `OptionError` for an empty key or one with characters that no header can carry."""
        for key in keys:
            if not key or not key.isascii() or not key.isprintable():
                raise OptionError("an API key is empty or has characters other than printable ASCII")
        self._keys = [key.encode() for key in dict.fromkeys(keys)]

    @property
    def required(self) -> bool:
        return bool(self._keys)

    def tenant(self, authorization: str | None) -> str:
        """Who sends this Authorization header. Every key is compared, each in constant time.

        Raises `AuthenticationError`, with no word about the key that was sent."""
        if not self._keys:
            return ""
        scheme, _, given = (authorization or "").partition(" ")
        found = None
        for number, key in enumerate(self._keys, 1):
            if hmac.compare_digest(key, given.strip().encode("utf-8", "replace")):
                found = number
        if found is None or scheme.lower() != "bearer":
            what = "is not known" if given else "is missing"
            raise AuthenticationError(f"the API key {what}; send it as the header Authorization: Bearer KEY")
        return f"key-{found}"


def read_keys(file: str) -> list[str]:
    """The keys of a file: one a line, blank lines and those that begin with # left out. Raises `OptionError`."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the key file {file}: {error}") from None
    keys = [line.strip() for line in lines]
    return [key for key in keys if key and not key.startswith("#")]


@dataclass(slots=True)
class _Bucket:
    """A sum over the last minute that drains evenly."""

    per_minute: float
    level: float = 0.0
    at: float = 0.0

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` fits; 0 if it does now."""
        if not self.per_minute:
            return 0.0
        self.level = max(0.0, self.level - (now - self.at) * self.per_minute / MINUTE_S)
        self.at = now
        over = self.level + amount - self.per_minute
        return max(0.0, over) * MINUTE_S / self.per_minute


@dataclass(slots=True)
class _Account:
    requests: _Bucket
    tokens: _Bucket
    open_requests: int = 0
    open_tokens: int = 0


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """For each key: requests and tokens at once, and in a minute; 0 is no bound."""

    requests: int = 0
    tokens: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(slots=True)
class Gate:
    """Lets requests in while the limits allow. `most_open` bounds all keys together.

    A request comes in by `enter`, before anything of it is looked at, says its size by `size` when it is known, and
    goes by `leave`.
    """

    limits: KeyLimits = field(default_factory=KeyLimits)
    most_open: int = 0
    open: int = 0
    _accounts: dict[str, _Account] = field(default_factory=dict)

    def enter(self, tenant: str, now: float) -> None:
        """Raises `OverloadedError` or `RateLimitError`, and then nothing has changed."""
        limits, account = self.limits, self._account(tenant)
        if self.most_open and self.open >= self.most_open:
            raise OverloadedError(f"the server has {self.open} requests open, as many as it takes", 1.0)
        if limits.requests and account.open_requests >= limits.requests:
            raise RateLimitError(f"this key has {account.open_requests} requests open, as many as it may", 1.0)
        wait = account.requests.wait(1, now)
        if wait:
            raise RateLimitError(f"this key may send {limits.requests_per_minute} requests a minute", wait)
        wait = account.tokens.wait(1, now)
        if wait:
            raise RateLimitError(f"this key may use {limits.tokens_per_minute} tokens a minute", wait)
        account.requests.level += 1
        account.open_requests += 1
        self.open += 1

    def size(self, tenant: str, tokens: int, now: float, had: int = 0) -> None:
        """A request that is in turns out to need so many tokens, beside the `had` it said before: they are taken from
        the key's minute. Raises `RateLimitError`, or `FieldError` for one that would never fit; it is still in then."""
        account, limits = self._account(tenant), self.limits
        for most, when in ((limits.tokens, "at once"), (limits.tokens_per_minute, "a minute")):
            if most and had + tokens > most:
                raise FieldError(
                    f"this request may come to {had + tokens} tokens in all, and this key has {most} {when}; "
                    "shorten the prompt, or give a smaller max_tokens", "max_tokens",
                )  # fmt: skip
        most = limits.tokens
        if most and account.open_tokens + tokens > most:
            raise RateLimitError(f"this key has {account.open_tokens} tokens in flight of the {most} it may have", 1.0)
        wait = account.tokens.wait(tokens, now)
        if wait:
            raise RateLimitError(f"this key may use {limits.tokens_per_minute} tokens a minute", wait)
        account.open_tokens += tokens
        account.tokens.level += tokens

    def leave(self, tenant: str, tokens: int, used: int, now: float) -> None:
        """A request is over: `tokens` as it said them (0 if it never did), of which it `used` so many. The rest is
        given back."""
        account = self._account(tenant)
        account.open_requests -= 1
        account.open_tokens -= tokens
        account.tokens.wait(0, now)
        account.tokens.level = max(0.0, account.tokens.level + used - tokens)
        self.open -= 1

    def _account(self, tenant: str) -> _Account:
        if tenant not in self._accounts:
            limits = self.limits
            self._accounts[tenant] = _Account(_Bucket(limits.requests_per_minute), _Bucket(limits.tokens_per_minute))
        return self._accounts[tenant]
