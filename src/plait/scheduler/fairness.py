"""What each tenant has been given: token counters after VTC ("Fairness in serving large language models", OSDI'24).

Knows counts; knows no requests and no clock.
"""

from __future__ import annotations

MOST_IDLE = 10_000
"""Counters of tenants without requests that are kept."""


class Account:
    """One tenant's counter, in weighted tokens, and how many of its requests have not ended."""

    __slots__ = ("open", "tenant", "tokens")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.tokens = 0.0
        self.open = 0


class FairShare:
    """The accounts. A tenant that comes back from a pause saves up no credit: its counter is lifted to the least one
    of those who have requests, or, if there are none, of who was the last to have some."""

    def __init__(self) -> None:
        self._active: dict[str, Account] = {}
        self._idle: dict[str, Account] = {}
        self._last = 0.0

    def enter(self, tenant: str) -> Account:
        """A request of the tenant begins to count. Tenants with the same name before the first slash share one account:
        who has one key has one share, whatever names its requests go by."""
        tenant = tenant.partition("/")[0]
        account = self._active.get(tenant)
        if account is None:
            least = min((other.tokens for other in self._active.values()), default=self._last)
            account = self._active[tenant] = self._idle.pop(tenant, Account(tenant))
            account.tokens = max(account.tokens, least)
        account.open += 1
        return account

    def leave(self, account: Account) -> None:
        """One of its requests has ended."""
        account.open -= 1
        if account.open:
            return
        del self._active[account.tenant]
        self._last = account.tokens
        self._idle[account.tenant] = account
        if len(self._idle) > MOST_IDLE:  # the one that has been idle longest
            del self._idle[next(iter(self._idle))]

    def counters(self) -> dict[str, float]:
        """Weighted tokens of the tenants that have requests."""
        return {tenant: account.tokens for tenant, account in self._active.items()}
