"""Values of options that have a form of their own: bounds, hours, sets of CPUs. Knows `errors`."""

from __future__ import annotations

import re

from plait.errors import OptionError

PROFILES = ("latency", "balanced", "throughput")
MOST_CPUS = 8192

_SLO = re.compile(r"(ttft|itl)=([0-9]*\.?[0-9]+)(ms|s)")
_HOURS = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])-([01]?[0-9]|2[0-3]):([0-5][0-9])=(\w+)")


def parse_slo(text: str) -> dict[str, float]:
    """Bounds in seconds by name (`ttft`, `itl`) from a text like "ttft=500ms,itl=0.05s"; none from an empty one.

    Raises `OptionError` for another form, for a bound of 0, or one that is named twice.
    """
    bounds: dict[str, float] = {}
    for part in text.split(",") if text else ():
        match = _SLO.fullmatch(part.strip())
        if match is None or match[1] in bounds or float(match[2]) == 0:
            raise OptionError(f"--slo is '{text}'; give bounds like ttft=500ms,itl=50ms, each at most once")
        bounds[match[1]] = float(match[2]) * (0.001 if match[3] == "ms" else 1.0)
    return bounds


def parse_hours(text: str) -> tuple[tuple[int, int, str], ...]:
    """(first minute of the day, minute after the last, profile) from a text like "22:00-06:00=throughput,...".

    Raises `OptionError` for another form or an unknown profile.
    """
    found = []
    for part in text.split(",") if text else ():
        match = _HOURS.fullmatch(part.strip())
        if match is None or match[5] not in PROFILES:
            raise OptionError(
                f"--hours is '{text}'; give hours like 22:00-06:00=throughput, with a profile of {', '.join(PROFILES)}"
            )
        found.append((60 * int(match[1]) + int(match[2]), 60 * int(match[3]) + int(match[4]), match[5]))
    return tuple(found)


def mask_cpus(text: str) -> tuple[int, ...]:
    digits = text.lower().removeprefix("0x")
    if not digits or len(digits) > MOST_CPUS // 4 or not set(digits) <= set("0123456789abcdef") or not int(digits, 16):
        raise OptionError(f"--cpu-mask is '{text}'; give a hexadecimal number with a bit for each CPU, as 0xff")
    mask = int(digits, 16)
    return tuple(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def range_cpus(text: str) -> tuple[int, ...]:
    parts = text.split("-")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise OptionError(f"--cpu-range is '{text}'; give the first CPU and the last, as 0-3")
    first, last = map(int, parts)
    if not first <= last < MOST_CPUS:
        raise OptionError(f"--cpu-range is '{text}'; it must go upwards, to less than {MOST_CPUS}")
    return tuple(range(first, last + 1))
