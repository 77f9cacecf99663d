"""What the GPU tests measured, for the table at the end."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """What a comparison gave: `error` is the largest difference over the standard deviation of what was wanted."""

    what: str
    dtype: str
    error: float
    bound: float

    @property
    def held(self) -> bool:
        return self.error <= self.bound


@dataclass
class Report:
    rows: list[Measured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
