"""Tokens from logits, wholly on the device: two launches, of which the second is one program for each row.

The first takes the penalties off, looks for numbers that are not finite, and keeps for each chunk of the vocabulary its
largest logit and its sum of probabilities. The second thins the candidates out, stage by stage in the order asked for,
and draws. Probabilities are float64 and candidates stay in the order of their ids, as `ops.sampling` has it; sums are
taken in another order, so that a draw within 1e-13 of a boundary may fall on its other side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from plait.ops.cuda.kernels.philox import token_uniform
from plait.ops.cuda.kernels.runtime import Launched, begin, overlap, power
from plait.ops.cuda.kernels.select import compact, floor_key, kth_key, light_key, mass_key, weight, whole_mass

CHUNK = 1024
SWEEP, WEIGHED, SHORT = 4096, 2048, 1024
"""Entries of a list that are looked at together; that are weighed; of one that has become short."""
LEAST_MASS = tl.constexpr(1e-300)
"""What top-p is to leave at least: of a share of 0 the most probable is left."""
STAGES = 4
TOP_K, TOP_P, MIN_P, TEMPERATURE = 1, 2, 3, 4
INTS = 9 + STAGES
"""int32 of a row: its logits, seed (2), sample index, position (2), first of its history, how many, top_k, stages."""
FLOATS = 6
"""float64 for each row: temperature (0 is greedy), top_p, log(min_p), repeat, frequency and presence penalty."""


@Launched
@triton.jit
def _prepare(
    logits, stride, ints, floats, history, drawn, values, ids, tops, first, sums, bad, vocabulary,
    INTS: tl.constexpr, FLOATS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, COPY: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    begin(PDL)
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    mine, real = ints + row * INTS, floats + row * FLOATS
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = token < vocabulary
    source = logits + tl.load(mine).to(tl.int64) * stride
    x = tl.load(source + token, mask=inside, other=float("-inf")).to(tl.float32)
    wrong = tl.sum(((x != x) | (x == float("inf"))).to(tl.int32), 0)
    oldest, count = tl.load(mine + 6), tl.load(mine + 7)
    if count > 0:
        seen = tl.zeros((CHUNK,), tl.int32)
        for i in range(oldest, oldest + count):
            past = tl.load(history + i)
            if past < 0:
                past = tl.load(drawn - 1 - past)
            seen += (token == past).to(tl.int32)
        repeat = tl.load(real + 3).to(tl.float32)
        lowered = tl.where(x <= 0, x * repeat, tl.div_rn(x, tl.zeros_like(x) + repeat))
        lowered -= seen.to(tl.float32) * tl.load(real + 4).to(tl.float32) + tl.load(real + 5).to(tl.float32)
        x = tl.where(seen > 0, lowered, x)
    if COPY:
        tl.store(values + row * vocabulary + token, x, mask=inside)
        tl.store(ids + row * vocabulary + token, token, mask=inside)
    top = tl.max(x, 0)
    temperature = tl.load(real)
    base = tl.where((top == float("-inf")) | (top == float("inf")), 0.0, top)
    total = tl.sum(weight(x, base, tl.where(temperature == 0, 1.0, temperature)), 0)
    here = row * CHUNKS + chunk
    tl.store(tops + here, top)
    tl.store(first + here, tl.min(tl.where((x == top) & inside, token, 2147483647), 0))
    tl.store(sums + here, tl.where(top == float("-inf"), 0.0, total))
    tl.store(bad + here, wrong)


@triton.jit
def _place(x, live, top, temperature, target):
    """The first entry at which the running sum exceeds `target`, or the last that weighs anything; and the sum."""
    w = tl.where(live, weight(x, top, temperature), 0.0)
    running = tl.cumsum(w, 0)
    at = tl.arange(0, x.shape[0])
    over = tl.min(tl.where(running > target, at, 2147483647), 0)
    return over, tl.max(tl.where(w > 0, at, -1), 0), tl.sum(w, 0)


@triton.jit
def _draw_thinned(
    x_row, id_row, mine, real, parts, vocabulary, top, temperature, uniform, STAGES: tl.constexpr,
    CHUNKS: tl.constexpr, BLOCK_CHUNKS: tl.constexpr, SWEEP: tl.constexpr, WEIGHED: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """A token of what the row's stages leave of its candidates, which they move together in place."""
    count = vocabulary
    now = tl.full((), 1.0, tl.float64)
    for s in range(STAGES):
        stage = tl.load(mine + 9 + s)
        thins = stage == 3
        key, ties = tl.zeros((), tl.int64), count  # of the least that is kept, and how many of that
        if stage == 4:
            now = temperature
        elif stage == 1:
            wanted = tl.load(mine + 8)
            thins = (wanted > 0) & (wanted < count)
            if thins:
                if (wanted <= CHUNKS) & (count == vocabulary):
                    # So many chunks hold a logit of at least this: it leaves a short list.
                    least, _ = kth_key(parts, CHUNKS, wanted, BLOCK_CHUNKS)
                    count = compact(x_row, id_row, count, least, count, SWEEP)
                if count <= SHORT:
                    key, ties = kth_key(x_row, count, wanted, SHORT)
                else:
                    key, ties = kth_key(x_row, count, wanted, SWEEP)
        elif stage == 2:
            share = tl.load(real + 1)
            thins = share < 1
            if thins:
                whole = whole_mass(x_row, count, top, now, WEIGHED)
                wanted_mass = tl.maximum(share * whole, LEAST_MASS)
                if count > SHORT:
                    least = light_key(count, top, now, (1 - share) * whole)
                    count = compact(x_row, id_row, count, least, count, SWEEP)
                if count <= SHORT:
                    key, ties = mass_key(x_row, count, top, now, wanted_mass, SHORT)
                else:
                    key, ties = mass_key(x_row, count, top, now, wanted_mass, WEIGHED)
        elif stage == 3:
            key = floor_key(top, now, tl.load(real + 2))
        if thins:
            if count <= SHORT:
                count = compact(x_row, id_row, count, key, ties, SHORT)
            else:
                count = compact(x_row, id_row, count, key, ties, SWEEP)
    total = tl.zeros((), tl.float64)
    for start in range(0, count, SWEEP):
        at = start + tl.arange(0, SWEEP)
        x = tl.load(x_row + at, mask=at < count, other=float("-inf"))
        total += tl.sum(tl.where(at < count, weight(x, top, now), 0.0), 0)
    before = tl.zeros((), tl.float64)
    found = -1
    last = 0
    for start in range(0, count, SWEEP):
        if found < 0:
            at = start + tl.arange(0, SWEEP)
            x = tl.load(x_row + at, mask=at < count, other=float("-inf"))
            over, heavy, mass = _place(x, at < count, top, now, uniform * total - before)
            before += mass
            if over < SWEEP:
                found = start + over
            if heavy >= 0:
                last = start + heavy
    return tl.load(id_row + tl.where(found < 0, last, found))


@triton.jit
def _draw_whole(
    x_row, parts, part_sums, vocabulary, top, temperature, uniform, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """A token of the whole vocabulary: its chunk by the chunks' sums, then its place in the chunk."""
    part = tl.arange(0, BLOCK_CHUNKS)
    there = part < CHUNKS
    share = tl.load(part_sums + part, mask=there, other=0.0)
    part_top = tl.load(parts + part, mask=there, other=float("-inf"))
    share = share * tl.where(there, weight(part_top, top, temperature), 0.0)
    running = tl.cumsum(share, 0)
    target = uniform * tl.sum(share, 0)
    chunk = tl.min(tl.where((running > target) & (share > 0), part, 2147483647), 0)
    chunk = tl.minimum(chunk, tl.max(tl.where(share > 0, part, 0), 0))
    before = tl.sum(tl.where(part < chunk, share, 0.0), 0)
    at = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(x_row + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
    over, heavy, _ = _place(x, at < vocabulary, top, temperature, target - before)
    return chunk * CHUNK + tl.where(over < CHUNK, over, heavy)


@Launched
@triton.jit
def _draw(
    logits, stride, ints, floats, values, ids, tops, first, sums, bad, tokens, status, vocabulary,
    INTS: tl.constexpr, FLOATS: tl.constexpr, STAGES: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, SWEEP: tl.constexpr, WEIGHED: tl.constexpr, SHORT: tl.constexpr, COPY: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    begin(PDL)
    row = tl.program_id(0).to(tl.int64)
    mine, real = ints + row * INTS, floats + row * FLOATS
    part = tl.arange(0, BLOCK_CHUNKS)
    there = part < CHUNKS
    part_top = tl.load(tops + row * CHUNKS + part, mask=there, other=float("-inf"))
    wrong = tl.sum(tl.load(bad + row * CHUNKS + part, mask=there, other=0), 0)
    top = tl.max(part_top, 0)
    temperature = tl.load(real)
    best = tl.load(first + row * CHUNKS + part, mask=there, other=2147483647)
    token = tl.min(tl.where(part_top == top, best, 2147483647), 0)
    # Minus one: nothing above -inf; above zero: so many numbers are not finite.
    state = tl.where(wrong > 0, wrong, tl.where(top == float("-inf"), -1, 0))
    tl.store(status + row, state)
    if state != 0:
        token = -1
    elif temperature > 0:
        uniform = token_uniform(
            tl.load(mine + 1).to(tl.uint32, bitcast=True), tl.load(mine + 2).to(tl.uint32, bitcast=True),
            tl.load(mine + 3).to(tl.uint32, bitcast=True), tl.load(mine + 4).to(tl.uint32, bitcast=True),
            tl.load(mine + 5).to(tl.uint32, bitcast=True),
        )  # fmt: skip
        parts, part_sums = tops + row * CHUNKS, sums + row * CHUNKS
        x_row, id_row = values + row * vocabulary, ids + row * vocabulary
        if COPY:
            if tl.load(mine + 9) > 0:
                token = _draw_thinned(x_row, id_row, mine, real, parts, vocabulary, top, temperature, uniform, STAGES,
                                      CHUNKS, BLOCK_CHUNKS, SWEEP, WEIGHED, SHORT)  # fmt: skip
            else:
                token = _draw_whole(x_row, parts, part_sums, vocabulary, top, temperature, uniform, CHUNK, CHUNKS,
                                    BLOCK_CHUNKS)  # fmt: skip
        else:
            # No row has stages: their code, most of all there is, is not compiled.
            source = logits + tl.load(mine).to(tl.int64) * stride
            token = _draw_whole(source, parts, part_sums, vocabulary, top, temperature, uniform, CHUNK, CHUNKS,
                                BLOCK_CHUNKS)  # fmt: skip
    tl.store(tokens + row, token)


@dataclass(frozen=True, slots=True)
class Draws:
    """Rows to draw: ints (rows, INTS) int32, floats (rows, FLOATS) float64, and the histories one after another; a
    negative entry -1 - i of a history stands for the i-th token of the last draw. `copy` where any row has stages that
    thin out, or penalties."""

    ints: torch.Tensor
    floats: torch.Tensor
    history: torch.Tensor
    copy: bool


def draw(logits: torch.Tensor, rows: Draws, drawn: torch.Tensor, status: torch.Tensor) -> None:
    """Tokens into the first entries of `drawn` (int32), which holds the last draw's until then; -1 where a row's logits
    are not sound, and `status` says how: -1 nothing possible, above 0 so many NaN or +inf."""
    count, vocabulary = len(rows.ints), logits.shape[1]
    chunks = triton.cdiv(vocabulary, CHUNK)
    device = logits.device
    size = count * vocabulary if rows.copy else 1
    values = torch.empty(size, dtype=torch.float32, device=device)
    ids = torch.empty(size, dtype=torch.int32, device=device)
    tops = torch.empty((count, chunks), dtype=torch.float32, device=device)
    first, bad = (torch.empty((count, chunks), dtype=torch.int32, device=device) for _ in range(2))
    sums = torch.empty((count, chunks), dtype=torch.float64, device=device)
    common = {"INTS": INTS, "FLOATS": FLOATS, "CHUNK": CHUNK, "CHUNKS": chunks, "COPY": rows.copy} | overlap(device)
    _prepare[(count, chunks)](
        logits, logits.stride(0), rows.ints, rows.floats, rows.history, drawn, values, ids, tops, first, sums, bad,
        vocabulary, num_warps=4, **common,
    )  # fmt: skip
    _draw[(count,)](
        logits, logits.stride(0), rows.ints, rows.floats, values, ids, tops, first, sums, bad, drawn, status,
        vocabulary, STAGES=STAGES, BLOCK_CHUNKS=power(chunks), SWEEP=SWEEP, WEIGHED=WEIGHED, SHORT=SHORT,
        num_warps=8, **common,
    )  # fmt: skip
