"""The largest of a list of logits: by rank, by mass and by a floor; and what is kept of the list.

A logit's key is an unsigned number that orders as the logits do. Lists lie in memory, and one program sweeps over them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weight(x, top, temperature):
    """exp((x - top) / temperature), float64, as the quotient is taken by `ops.candidates`."""
    # One subtraction at temperature 1, where nothing is divided: the same bits either way.
    return tl.exp(x.to(tl.float64) / temperature - top.to(tl.float64) / temperature)


@triton.jit
def key_of(x):
    bits = x.to(tl.int32, bitcast=True)
    # -0 and 0 are equal.
    bits = tl.where(x == 0, 0, bits)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 2147483648


@triton.jit
def kth_key(values, count, k, SWEEP: tl.constexpr):
    """The key of the k-th largest, and how many of that key are among the k largest; by digits of eight bits."""
    prefix = tl.zeros((), tl.int64)
    left = k
    digit = tl.arange(0, 256)
    for step in range(4):
        shift = 24 - 8 * step
        histogram = tl.zeros((256,), tl.int32)
        for start in range(0, count, SWEEP):
            at = start + tl.arange(0, SWEEP)
            key = key_of(tl.load(values + at, mask=at < count, other=0.0))
            alike = (at < count) & ((key >> (shift + 8)) == prefix)
            histogram += tl.histogram(((key >> shift) & 255).to(tl.int32), 256, mask=alike)
        reach = tl.sum(histogram, 0) - tl.cumsum(histogram, 0) + histogram
        best = tl.max(tl.where(reach >= left, digit, 0), 0)
        left -= tl.sum(tl.where(digit > best, histogram, 0), 0)
        prefix = prefix * 256 + best
    return prefix, left


@triton.jit
def whole_mass(values, count, top, temperature, SWEEP: tl.constexpr):
    """What all of them weigh."""
    total = tl.zeros((SWEEP,), tl.float64)
    for start in range(0, count, SWEEP):
        at = start + tl.arange(0, SWEEP)
        x = tl.load(values + at, mask=at < count, other=float("-inf"))
        total += tl.where(at < count, weight(x, top, temperature), 0.0)
    return tl.sum(total, 0)


@triton.jit
def _masses(values, count, top, temperature, key, step, SWEEP: tl.constexpr):
    """What those of at least `key` + `step` weigh, of `key` + 2 * `step`, of `key` + 3 * `step`."""
    one, two, three = (tl.zeros((SWEEP,), tl.float64), tl.zeros((SWEEP,), tl.float64), tl.zeros((SWEEP,), tl.float64))
    for start in range(0, count, SWEEP):
        at = start + tl.arange(0, SWEEP)
        x = tl.load(values + at, mask=at < count, other=float("-inf"))
        own = tl.where(at < count, key_of(x), 0)
        w = weight(x, top, temperature)
        one += tl.where(own >= key + step, w, 0.0)
        two += tl.where(own >= key + 2 * step, w, 0.0)
        three += tl.where(own >= key + 3 * step, w, 0.0)
    return tl.sum(one, 0), tl.sum(two, 0), tl.sum(three, 0)


@triton.jit
def light_key(count, top, temperature, rest):
    """A key below which `count` logits weigh less than `rest` together, by half at least: without them the same are the
    largest that weigh all but `rest`."""
    return floor_key(top, temperature, tl.log(rest / (2.0 * count.to(tl.float64))))


@triton.jit
def mass_key(values, count, top, temperature, wanted, SWEEP: tl.constexpr):
    """The largest key such that those of at least that key weigh `wanted`; and how many of that key it takes. By digits
    of two bits: what costs is to weigh, and three sums are taken of one weight."""
    key = tl.zeros((), tl.int64)
    above = tl.zeros((), tl.float64)  # of what has a larger digit here, or before
    for digit in range(16):
        step = tl.full((), 1, tl.int64) << (30 - 2 * digit)
        one, two, three = _masses(values, count, top, temperature, key, step, SWEEP)
        above = tl.where(one < wanted, one, tl.where(two < wanted, two, tl.where(three < wanted, three, above)))
        key += step * ((one >= wanted).to(tl.int64) + (two >= wanted).to(tl.int64) + (three >= wanted).to(tl.int64))
    x = value_of(key)
    each = weight(x, top, temperature)
    ties = tl.where(each > 0, tl.ceil((wanted - above) / tl.where(each > 0, each, 1.0)), count.to(tl.float64))
    return key, tl.maximum(ties, 1.0).to(tl.int32)


@triton.jit
def value_of(key):
    bits = (key - 2147483648).to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def floor_key(top, temperature, log_share):
    """The least key of a logit at least exp(log_share) times as probable as `top`."""
    at_one = (top + log_share.to(tl.float32)).to(tl.float64)  # undivided logits are float32, and so is their floor
    floor = top.to(tl.float64) / temperature + log_share
    exact = tl.where(temperature == 1, at_one, floor * temperature)
    near = exact.to(tl.float32)
    key = key_of(near)
    # Rounding may have gone either way: the first of the neighbours that reaches the floor.
    for _ in tl.static_range(2):
        below = value_of(key - 1).to(tl.float64)
        reached = tl.where(temperature == 1, below >= at_one, below / temperature >= floor)
        key = tl.where(reached, key - 1, key)
    here = value_of(key).to(tl.float64)
    reached = tl.where(temperature == 1, here >= at_one, here / temperature >= floor)
    return tl.where(reached, key, key + 1)


@triton.jit
def compact(values, ids, count, key, ties, SWEEP: tl.constexpr):
    """Keeps in place those above `key` and the first `ties` at it; returns how many there are."""
    kept = tl.zeros((), tl.int32)
    tied = tl.zeros((), tl.int32)
    for start in range(0, count, SWEEP):
        at = start + tl.arange(0, SWEEP)
        x = tl.load(values + at, mask=at < count, other=0.0)
        token = tl.load(ids + at, mask=at < count, other=0)
        own = key_of(x)
        equal = ((at < count) & (own == key)).to(tl.int32)
        keep = (at < count) & ((own > key) | ((equal == 1) & (tied + tl.cumsum(equal, 0) <= ties)))
        place = kept + tl.cumsum(keep.to(tl.int32), 0) - 1
        # Nothing is written before every thread has read: the list only moves down.
        tl.debug_barrier()
        tl.store(values + place, x, mask=keep)
        tl.store(ids + place, token, mask=keep)
        kept += tl.sum(keep.to(tl.int32), 0)
        tied += tl.sum(equal, 0)
    # The next sweep reads what other threads wrote.
    tl.debug_barrier()
    return kept
