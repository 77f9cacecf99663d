"""Each Triton kernel against plain torch in float64 or float32; in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from plait.ops.api import Activation, RopeLayout  # noqa: E402
from plait.ops.cuda import formulas  # noqa: E402
from plait.ops.cuda.kernels import decode, embed, gate, norm, prefill, rope, rows  # noqa: E402
from plait.ops.cuda.kernels.shared import SharedItems  # noqa: E402
from plait.ops.cuda.sharing import LEAST_KEYS, PROGRAMS, find_shared  # noqa: E402
from plait.ops.cuda.work import SPLITS, Sequences, work_of  # noqa: E402
from support.triton_interpreter import DEVICE  # noqa: E402 - torch may be missing

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("one_torch_thread")]
BOUNDS = {torch.float32: 2e-5, torch.float16: 4e-3}
DTYPES = list(BOUNDS)
PAGE = 4


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def ints(values: object) -> torch.Tensor:
    return torch.tensor(np.asarray(values, np.int32), device=DEVICE)


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    bound = BOUNDS[got.dtype]
    torch.testing.assert_close(got.float(), want.float().to(DEVICE), rtol=bound, atol=bound, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("groups", "add"), [(1, False), (1, True), (3, False)])
def test_rms_norm(dtype: torch.dtype, groups: int, add: bool) -> None:
    x = normal(5, 60, dtype=dtype)[:, :48]  # rows further apart than they are long
    weight, residual = normal(48 // groups), normal(5, 48, dtype=dtype, seed=1) if add else None
    out, total = norm.rms_norm(x, residual, weight, 1e-5, 0.5, groups)
    summed = x if residual is None else x + residual
    near(out, formulas.rms_norm(summed.contiguous(), weight, 1e-5, 0.5, groups))
    assert (total is None) is not add
    if total is not None:
        assert torch.equal(total, summed)


@pytest.mark.parametrize("activation", list(Activation))
def test_gated_activation(activation: Activation) -> None:
    x = normal(3, 2 * 1100)
    near(gate.gate(x, activation), formulas.activate(x[:, :1100], activation) * x[:, 1100:])


def test_embedding_of_known_and_drawn_tokens() -> None:
    table, drawn = normal(9, 12), ints([7, 3, -1])
    got = embed.embed(ints([2, -2, 0, -1, -3]), drawn, table)
    assert torch.equal(got, table[[2, 3, 0, 7, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "pairs"), [("half", 4), ("half", 3), ("interleaved", 4), (None, 0)])
def test_rope_and_store(dtype: torch.dtype, layout: str | None, pairs: int) -> None:
    """Row 1 is stored twice, and row 2 not at all."""
    heads, kv_heads, dim, v_dim = 10, 2, 8, 6
    q, k, v = (normal(3, n, dtype=dtype, seed=i) for i, n in enumerate((heads * dim, kv_heads * dim, kv_heads * v_dim)))
    positions, row, slot = ints([5, 100_000, 2]), ints([0, 1, 1]), ints([3, 1, 6])
    frequencies = torch.tensor([0.9, 0.2, 0.03, 1e-4][:pairs], dtype=torch.float64, device=DEVICE)
    k_memory, v_memory = normal(8, kv_heads, dim, dtype=dtype), normal(8, kv_heads, v_dim, dtype=dtype)
    want_k, want_v = k_memory.clone(), v_memory.clone()
    table = rope.angles(positions, frequencies, 1.1) if layout else None
    kind = RopeLayout(layout or "half")
    got = rope.rope_and_store(q, k, v, table, kind, k_memory, v_memory, row, slot)
    turned_q, turned_k = q.view(3, heads, dim), k.view(3, kv_heads, dim)
    if layout:
        exact = formulas.rope_table(positions, frequencies, 1.1)
        turned_q, turned_k = (formulas.rotate(x, exact, kind) for x in (turned_q, turned_k))
    want_k[slot.long()], want_v[slot.long()] = turned_k[row.long()], v.view(3, kv_heads, v_dim)[row.long()]
    near(got, turned_q.reshape(3, -1))
    near(k_memory, want_k)
    assert torch.equal(v_memory, want_v)


def test_positions_are_stored() -> None:
    memory = ints([0] * 400)
    row, slot = np.arange(300)[::-1].copy(), np.arange(300) + 50
    rope.store_positions(ints(np.arange(300) * 2), ints(row), ints(slot), memory)
    assert memory[50:350].tolist() == (row * 2).tolist()


class Paged:
    """Sequences of given lengths, their keys in shuffled pages; positions are places, moved by `shift`."""

    def __init__(self, lengths: list[int], heads: int, kv_heads: int, dim: int, v_dim: int, dtype: torch.dtype) -> None:
        rng = np.random.default_rng(1)
        counts = [-(-n // PAGE) for n in lengths]
        free = rng.permutation(np.arange(1, sum(counts) + 1))
        self.lengths, self.tables = lengths, np.split(free, np.cumsum(counts)[:-1])
        slots = PAGE * (sum(counts) + 1)
        self.k, self.v = normal(slots, kv_heads, dim, dtype=dtype), normal(slots, kv_heads, v_dim, dtype=dtype)
        self.slots = [
            (t[:, None] * PAGE + np.arange(PAGE)).reshape(-1)[:n] for t, n in zip(self.tables, lengths, strict=True)
        ]
        positions = np.full(slots, 1, np.int32)
        for own in self.slots:
            positions[own] = np.arange(len(own))
        starts = np.concatenate(([0], np.cumsum(counts)))
        self.pages = decode.Pages(ints(free), ints(starts), ints(positions), PAGE)
        self.heads = heads

    def want(
        self, q: torch.Tensor, row_sequence: list[int], row_positions: list[int], shape: decode.Shape
    ) -> torch.Tensor:
        outs = []
        for i, (s, at) in enumerate(zip(row_sequence, row_positions, strict=True)):
            slots = torch.as_tensor(self.slots[s], device=DEVICE)
            visible = formulas.visible_keys(
                ints([[at]]), self.pages.positions[slots][None],
                torch.ones(1, len(slots), dtype=torch.bool, device=DEVICE),
                shape.window,
            )  # fmt: skip
            q_row = q[i].view(1, 1, self.heads, -1)
            k, v = self.k[slots][None], self.v[slots][None]
            outs.append(formulas.attend(q_row, k, v, visible, shape.scale, shape.softcap, shape.sinks).reshape(-1))
        return torch.stack(outs)


VARIANTS = [
    pytest.param(8, 2, 16, 16, None, None, False, id="grouped"),
    pytest.param(6, 2, 24, 12, None, 9, False, id="odd widths, window"),
    pytest.param(4, 4, 16, 16, 3.0, None, True, id="softcap, sinks"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "v_dim", "cap", "window", "sinks"), VARIANTS)
def test_decode_attention(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    dim: int,
    v_dim: int,
    cap: float | None,
    window: int | None,
    sinks: bool,
) -> None:
    """Rows 0, 2 and 3 of four are single rows; two sequences are split over programs, one sees no key. A second launch
    finds the tickets as the first did."""
    paged = Paged([150, 7, 21], heads, kv_heads, dim, v_dim, dtype)
    shape = decode.Shape(0.3, cap, window, normal(heads) if sinks else None)
    q, at = normal(4, heads * dim, dtype=dtype), [149, 0, 6, -1]
    items = [
        *[(0, 0, 0, 64, 0), (0, 0, 64, 128, 0), (0, 0, 128, 150, 0)],
        *[(2, 1, 0, 7, 1), (3, 2, 0, 16, 2), (3, 2, 16, 21, 2)],
    ]
    capacity = 7
    table = np.zeros((5, capacity), np.int32)
    table[:, : len(items)] = np.array(items).T
    work = decode.DecodeItems(ints(table), ints([[0, 2, 3, 0, 0], [0, 3, 4, 6, 0]]), ints([6, 3]))
    tickets = rows.Tickets(torch.device(DEVICE), 3 * kv_heads)
    for _ in range(2):
        out = torch.full((4, heads * v_dim), 77.0, dtype=dtype, device=DEVICE)
        decode.decode_attention(q, paged.k, paged.v, ints(at), paged.pages, work, tickets, shape, out)
        near(out[[0, 2, 3]], paged.want(q[[0, 2, 3]], [0, 1, 2], [149, 6, -1], shape))
        assert (out[1] == 77).all()
        assert not tickets.zeros.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cap", "sinks"), [(None, False), (3.0, True)])
def test_a_shared_beginning_changes_nothing(dtype: torch.dtype, cap: float | None, sinks: bool) -> None:
    """Six of eight rows begin with the same pages, in more than one item; one of them has no key of its own."""
    heads, kv_heads, dim, common = 6, 2, 16, LEAST_KEYS // PAGE + 2
    lengths = [PAGE * common + n for n in (5, 30, 0, 1, 17, 40)] + [LEAST_KEYS + 40, 9]
    paged = Paged(lengths, heads, kv_heads, dim, dim, dtype)
    for s in range(1, 6):  # their pages are those of the first
        paged.tables[s][:common] = paged.tables[0][:common]
        paged.slots[s][: PAGE * common] = paged.slots[0][: PAGE * common]
    table = np.concatenate(paged.tables)
    starts = np.concatenate(([0], np.cumsum([len(t) for t in paged.tables])))[:-1]
    pages = decode.Pages(ints(table), ints(starts), paged.pages.positions, PAGE)
    order = np.array([7, 6, 5, 4, 3, 2, 1, 0])
    own, sequences = np.array(lengths), np.arange(8)
    shared = find_shared(table.astype(np.int32), starts.astype(np.int32), own, sequences, order, PAGE, PROGRAMS // 2)
    assert shared.skip.tolist() == [PAGE * common] * 6 + [0, 0]
    assert shared.items.shape[1] == 2
    none = np.zeros(0, np.int64)
    work = work_of(Sequences(sequences, order, none, none, none), own, 32, False, shared)
    counts = ints([work.items.shape[1], 8])
    items = SharedItems(ints(shared.items), ints(shared.members), ints(shared.of_row), ints([shared.items.shape[1]]))
    shape = decode.Shape(0.3, cap, None, normal(heads) if sinks else None)
    q, at = normal(8, heads * dim, dtype=dtype), own[np.argsort(order)] - 1
    out = torch.full((8, heads * dim), 77.0, dtype=dtype, device=DEVICE)
    made = decode.DecodeItems(ints(work.items), ints(work.rows), counts, items)
    tickets = rows.Tickets(torch.device(DEVICE), SPLITS * kv_heads)
    decode.decode_attention(q, paged.k, paged.v, ints(at), pages, made, tickets, shape, out)
    near(out, paged.want(q, np.argsort(order).tolist(), at.tolist(), shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "v_dim", "cap", "window", "sinks"), VARIANTS)
def test_prefill_attention(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    dim: int,
    v_dim: int,
    cap: float | None,
    window: int | None,
    sinks: bool,
) -> None:
    """A whole prompt in two tiles, and the end of another after a row that is not ours; NaN spoils who sees it."""
    paged = Paged([70, 90], heads, kv_heads, dim, v_dim, dtype)
    paged.v[paged.slots[0][66], 0, 0] = math.nan
    shape = decode.Shape(0.3, cap, window, normal(heads) if sinks else None)
    rows_of = [(0, i) for i in range(70)] + [(1, 0)] + [(1, i) for i in range(80, 90)]
    at = [place for _, place in rows_of]
    q = normal(len(at), heads * dim, dtype=dtype)
    size = prefill.rows_of_tile(heads // kv_heads)
    items = [(i, min(size, 70 - i), 0, min(70, i + size), 0 if window else i + 1) for i in range(0, 70, size)]
    items.append((71, 10, 1, 90, 0 if window else 81))
    table = np.zeros((5, len(items) + 2), np.int32)
    table[:, : len(items)] = np.array(items).T
    out = torch.full((len(at), heads * v_dim), 77.0, dtype=dtype, device=DEVICE)
    counts = ints([len(items)])
    prefill.prefill_attention(q, paged.k, paged.v, ints(at), paged.pages, ints(table), counts, shape, out)
    want = paged.want(q, [s for s, _ in rows_of], at, shape).to(dtype)
    assert torch.isnan(want[66:70]).any()
    want[70] = 77
    ours = torch.isfinite(want).all(1)
    near(out[ours], want[ours])
    assert torch.isnan(out[~ours]).any(1).all()
    assert (~ours).sum() > 0


@pytest.mark.parametrize("count", [3, 150])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("gated", "bias", "split"), [(None, True, 1), (None, False, 3), ("silu", True, 2), ("gelu", False, 1)]
)
def test_products_of_few_rows(dtype: torch.dtype, gated: str | None, bias: bool, split: int, count: int) -> None:
    """Of one tile of rows, and of more."""
    width, depth = 40, 200
    x = normal(count, depth, dtype=dtype)
    total = 2 * width if gated else width
    w, b = normal(total, depth, dtype=dtype) / 16, normal(total, dtype=dtype) if bias else None
    tickets = rows.Tickets(torch.device(DEVICE), 16)
    activation = Activation(gated) if gated else None
    want = x.double() @ w.double().T + (0 if b is None else b.double())
    if activation:
        want = formulas.activate(want[:, :width], activation) * want[:, width:]
    for _ in range(2):  # the tickets are back at zero
        got = rows.rows_matmul(x, w, b, rows.Tiling(16, 32, split, 4, 3), tickets, activation)
        near(got, want)
