"""Kernel calls as tables that compiled code works through: one table a network, many steps at a time.

Calling a compiled function from Python costs about as much as a small kernel takes. `fuse` writes consecutive calls
into a table (what to do, addresses, sizes, numbers) that one compiled function works through. The kernels are the same,
and so is every bit of their results.

Calls that belong to members of a population make a table for each member. Members share no memory that they write, so
their tables run at the same time, each wholly on one core; and since a member's table is the one of a network that
trains alone, so are its bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import carray, types
from numba.core import cgutils

from .affine import affine, affine_relu_dropout, backward, backward_masked
from .batches import gather
from .board import THREADS, bind, load_at, pause, store_at
from .compiling import calling_kernel, helper, primitive
from .memory import flat
from .rows import (
    ADAM,
    ADDRESSES,
    AFFINE,
    AFFINE_BACKWARD,
    CROSS_ENTROPY,
    FUSED,
    FUSED_BACKWARD,
    GATHER,
    INTEGERS,
    NOTHING,
    NUMBERS,
    SCALE,
    SGD,
    TAKE,
    UPDATE,
    Call,
    Place,
    Row,
    address_of,
    row_of,
)
from .softmax import softmax_cross_entropy
from .threads import launch, pool
from .updates import adam_spans, sgd_spans, squares

STEPS, CHUNKS, SHARED, KEPT, PIECES, FIRSTS, WHOLE, WHOLE_VALUES, REAL, REAL_VALUES, FLAGS = range(11)
"""Entries of a plan: how many steps and chunks there are, whether chunks are shared between threads, whether gradients
are there after the last step, and addresses."""
MEMBER, BEGIN, END, SPLIT, AFTER = range(5)
PIECE = 5
"""Columns of a piece of work: the steps of a member from BEGIN to END, the cut that it is the first (SPLIT) or the
second half (AFTER) of, or -1."""


@primitive
def _pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@helper
def _work_through(table: Any, numbers: Any, like: Any, kept: bool) -> None:
    """Make the calls of one table; kept: gradients are wanted after their updates."""
    for r in range(table.shape[0]):
        code, n, i, o = table[r, 0], table[r, 1], table[r, 2], table[r, 3]
        if code == NOTHING:
            continue
        if code == SCALE:
            factor = carray(_pointer(table[r, 4]), (1,), like.dtype)
            source = carray(_pointer(table[r, 5]), (n,), like.dtype)
            target = carray(_pointer(table[r, 6]), (n,), like.dtype)
            for j in range(n):
                target[j] = factor[0] * source[j]
        elif code == TAKE:
            values = carray(_pointer(table[r, 4]), (i,), np.int64)
            rows = carray(_pointer(table[r, 5]), (n,), np.int64)
            taken = carray(_pointer(table[r, 6]), (n,), np.int64)
            for j in range(n):
                taken[j] = values[min(max(rows[j], 0), i - 1)]
        elif code == GATHER:
            rows = carray(_pointer(table[r, 5]), (n,), np.int64)
            mean = carray(_pointer(table[r, 6]), (i,), like.dtype)
            scale = carray(_pointer(table[r, 7]), (i,), like.dtype)
            out = carray(_pointer(table[r, 8]), (n, i), like.dtype)
            if table[r, 9] == 0:
                gather(carray(_pointer(table[r, 4]), (o, i), np.uint8), rows, mean, scale, out)
            elif table[r, 9] == 1:
                gather(carray(_pointer(table[r, 4]), (o, i), np.float32), rows, mean, scale, out)
            else:
                gather(carray(_pointer(table[r, 4]), (o, i), np.float64), rows, mean, scale, out)
        elif code == CROSS_ENTROPY:
            softmax_cross_entropy(
                carray(_pointer(table[r, 4]), (n, o), like.dtype),
                carray(_pointer(table[r, 5]), (n,), np.int64),
                None,
                carray(_pointer(table[r, 6]), (1,), like.dtype),
                carray(_pointer(table[r, 7]), (n, o), like.dtype),
            )
        elif code == SGD:
            sgd_spans(
                carray(_pointer(table[r, 4]), (n,), like.dtype),
                carray(_pointer(table[r, 5]), (n,), like.dtype),
                carray(_pointer(table[r, 6]), (n,), like.dtype),
                carray(_pointer(table[r, 7]), (i, 2), np.int64),
                carray(_pointer(table[r, 8]), (i,), np.float64),
                (numbers[r, 0], numbers[r, 1], table[r, 9] != 0),
                carray(_pointer(table[r, 10]), (i, o), np.float64),
            )
        elif code == ADAM:
            adam_spans(
                carray(_pointer(table[r, 4]), (n,), like.dtype),
                carray(_pointer(table[r, 5]), (n,), like.dtype),
                (
                    carray(_pointer(table[r, 6]), (n,), like.dtype),
                    carray(_pointer(table[r, 7]), (n,), like.dtype),
                ),
                carray(_pointer(table[r, 8]), (i, 2), np.int64),
                carray(_pointer(table[r, 9]), (i,), np.float64),
                carray(_pointer(table[r, 10]), (i,), np.float64),
                (numbers[r, 0], numbers[r, 1], numbers[r, 2], numbers[r, 3]),
                table[r, 12],
                carray(_pointer(table[r, 11]), (i, o), np.float64),
            )
        else:
            x = carray(_pointer(table[r, 4]), (n, i), like.dtype)
            w = carray(_pointer(table[r, 5]), (i, o), like.dtype)
            b = carray(_pointer(table[r, 6]), (o,), like.dtype)
            y = carray(_pointer(table[r, 7]), (n, o), like.dtype)
            if code == AFFINE:
                affine(x, w, b, y)
            elif code == FUSED:
                affine_relu_dropout(x, w, b, table[r, 8], numbers[r, 0], table[r, 9], table[r, 10], table[r, 11], y)
            else:
                dw = carray(_pointer(table[r, 8]), (i, o), like.dtype)
                dx = carray(_pointer(table[r, 9]), (n, i), like.dtype)
                # The update that comes later in the table, done while this gradient is in the cache.
                s = max(table[r, UPDATE], 0)
                velocity = carray(_pointer(table[r, UPDATE + 1]), (i, o), like.dtype)
                number = like.dtype.type
                rate, momentum, nesterov = number(numbers[s, 0]), number(numbers[s, 1]), table[s, 9] != 0
                early = table[r, UPDATE] >= 0
                update = (velocity, early, kept or not early, (number(numbers[r, 1]), rate, momentum, nesterov))
                k, columns = table[r, UPDATE + 2], table[s, 3] if early else 0
                norms = carray(_pointer(table[s, 10]), (k + 1, columns), np.float64)
                if columns > 0:
                    norms[k, 0] = squares(flat(w), number(1))
                if code == AFFINE_BACKWARD:
                    backward(y, x, w, dx, table[r, 9] != 0, dw, b, update)
                else:
                    dy = carray(_pointer(table[r, 10]), (n, o), like.dtype)
                    dz = carray(_pointer(table[r, 11]), (n, o), like.dtype)
                    backward_masked(dy, x, w, y, number(numbers[r, 0]), dz, dx, table[r, 9] != 0, dw, b, update)
                if columns > 1:
                    norms[k, 1] = squares(flat(velocity), rate)


@helper
def _piece_of_work(tables: Any, numbers: Any, like: Any, plan: Any, chunk: int) -> None:
    """Some steps of one member: what changes from step to step is written into its table first."""
    piece = carray(_pointer(plan[PIECES]), (plan[CHUNKS], PIECE), np.int64)[chunk]
    m = piece[MEMBER]
    if m < 0:
        return
    if piece[AFTER] >= 0:
        while load_at(plan[FLAGS] + 8 * piece[AFTER]) == 0:
            pause()
    steps, members = plan[STEPS], tables.shape[0]
    # Where the cells of each member begin: [whole, real][member].
    firsts = carray(_pointer(plan[FIRSTS]), (2, members + 1), np.int64)
    wholes, reals = firsts[0, members], firsts[1, members]
    whole = carray(_pointer(plan[WHOLE]), (wholes, 2), np.int64)
    whole_values = carray(_pointer(plan[WHOLE_VALUES]), (steps, wholes), np.int64)
    real = carray(_pointer(plan[REAL]), (reals, 2), np.int64)
    real_values = carray(_pointer(plan[REAL_VALUES]), (steps, reals), np.float64)
    table, values = tables[m], numbers[m]
    for k in range(piece[BEGIN], piece[END]):
        for c in range(firsts[0, m], firsts[0, m + 1]):
            table[whole[c, 0], whole[c, 1]] = whole_values[k, c]
        for c in range(firsts[1, m], firsts[1, m + 1]):
            values[real[c, 0], real[c, 1]] = real_values[k, c]
        # Only the last step may leave gradients that somebody looks at.
        _work_through(table, values, like, plan[KEPT] != 0 and k == steps - 1)
    if piece[SPLIT] >= 0:
        store_at(plan[FLAGS] + 8 * piece[SPLIT], 1)


@calling_kernel
def run(like: Any, tables: Any, numbers: Any, plan: Any) -> None:
    """Make the calls of the chosen tables, over and over; `like` has the dtype of all floating arrays in them."""
    launch(bind(_piece_of_work, (tables, numbers, like, plan)), plan[CHUNKS], plan[SHARED] != 0)


class Layout(NamedTuple):
    """Cells that are written before each step, by tables: whole numbers first, then real ones.

    Attributes:
        columns: for each of the lists of cells that were given, [whole, real], in which columns of a `Room` they stand.
        cells: [n, 2] row and column of each.
        firsts: [2, tables + 1] where the cells of each table begin.
        addresses: of firsts and cells.
    """

    columns: list[list[Any]]
    cells: list[Any]
    firsts: Any
    addresses: list[int]


class Room(NamedTuple):
    """Room for what is written before each step of a block, and what else a block needs; used again and again.

    Attributes:
        whole, real: [steps, n] the numbers, in the columns of the layout.
        plan: for `run`.
        flags: of cuts that were reached.
        kept: whose addresses the plan holds.
    """

    whole: Any
    real: Any
    plan: Any
    flags: Any
    kept: list[Any]


class Tables:
    """Calls that run as one: the table of a network, or one for each member of a population.

    Attributes:
        members: whose tables they are; [None] for a network of its own.
        keeps_gradients: whether gradients are there after the calls; where nobody looks at them, they need not be
            written if an update takes them at once. Read when members are chosen.
        arguments: what `run` takes; the plan among them changes when members are chosen.
    """

    run = staticmethod(run)

    def __init__(self, calls: dict[int | None, list[tuple[Call, Row]]], dtype: Any) -> None:
        self.members = list(calls)
        self.keeps_gradients = True
        longest = max(map(len, calls.values()))
        self.tables = np.zeros((len(calls), longest, INTEGERS), np.int64)
        self.numbers = np.zeros((len(calls), longest, NUMBERS))
        self.tables[:, :, 0], self.tables[:, :, UPDATE] = NOTHING, -1
        self.moved: dict[tuple[int, int], Place] = {}
        self.kept: list[Any] = [calls]
        for m, rows in enumerate(calls.values()):
            for r, ((_, arguments, _), (cells, reals, _)) in enumerate(rows):
                for target, row in ((self.tables, cells), (self.numbers, reals)):
                    for c, (position, value) in enumerate(row):
                        target[m, r, c] = value
                        if position is not None:
                            self.moved[id(arguments), position] = (target, (m, r, c))
            for s in range(len(rows)):
                if self.tables[m, s, 0] == SGD:
                    self.kept += _update_early(self.tables[m], self.numbers[m], s, [call for call, _ in rows])
        self.arguments = [np.empty(0, dtype), self.tables, self.numbers, np.empty(0, np.int64)]
        self.chosen = list(range(len(calls)))
        self.nothing = self.layout([], [])
        self.latest: tuple[Any, Room | None] = (None, None)
        self.choose(None)

    def choose(self, active: Any) -> None:
        """Make the calls of these members only, a mask over all members of the population; None for all."""
        everybody = active is None or self.members == [None]
        self.chosen = [i for i, m in enumerate(self.members) if everybody or active[m]]
        pieces = np.array([[i, 0, 1, -1, -1] for i in self.chosen], np.int64).reshape(-1, PIECE)
        self.once = self._room(pieces, 1, self.nothing)
        self.arguments[3] = self.once.plan
        self.latest = None, None

    def cells_at(self, array: Any) -> list[tuple[int, int, int, int]]:
        """Where the tables hold an address inside this array: table, row, column, and bytes from its beginning."""
        begin, size = address_of(array), array.nbytes
        found = []
        for code, columns in ADDRESSES.items():
            for c in columns:
                inside = (self.tables[:, :, 0] == code) & (self.tables[:, :, c] >= begin)
                inside &= self.tables[:, :, c] < begin + size
                found += [(m, r, c, int(self.tables[m, r, c]) - begin) for m, r in np.argwhere(inside).tolist()]
        return found

    def layout(self, whole: Sequence[Any], real: Sequence[Any]) -> Layout:
        """Where values stand in a `Room` that are written into these cells: lists of [n, 3] (table, row, column)."""
        firsts = np.zeros((2, len(self.tables) + 1), np.int64)
        columns, places = [], []
        for kind, given in enumerate((whole, real)):
            cells = np.concatenate([np.zeros((0, 3), np.int64), *given])
            order = np.argsort(cells[:, 0], kind="stable")
            ends = np.cumsum([len(own) for own in given], dtype=np.int64)[:-1]
            columns.append(list(map(_as_slice, np.split(np.argsort(order), ends))) if given else [])
            places.append(np.ascontiguousarray(cells[order, 1:]))
            firsts[kind] = np.searchsorted(cells[order, 0], np.arange(len(self.tables) + 1))
        return Layout(columns, places, firsts, [address_of(array) for array in (firsts, *places)])

    def room(self, steps: int, layout: Layout) -> Room:
        """Room for a block of so many steps: that of the block before, if it fits."""
        # The room keeps its layout: nothing else has its id meanwhile.
        key = steps, id(layout), int(pool.board[THREADS])
        known, room = self.latest
        if room is None or key != known:
            room = self._room(self._pieces(steps), steps, layout)
            self.latest = key, room
        return room

    def block(self, room: Room) -> None:
        """Make the calls, as often as there is room for."""
        room.flags.fill(0)
        run(*self.arguments[:3], room.plan)

    def _room(self, pieces: Any, steps: int, layout: Layout) -> Room:
        whole, real = (np.zeros((steps, len(c)), kind) for c, kind in zip(layout.cells, "qd", strict=True))
        flags = np.zeros(len(pieces) + 1, np.int64)
        shared = int(len(self.chosen) > 1)
        firsts, whole_cells, real_cells = layout.addresses
        written = [whole_cells, address_of(whole), real_cells, address_of(real)]
        how = [steps, len(pieces), shared, int(self.keeps_gradients)]
        plan = [*how, address_of(pieces), firsts, *written, address_of(flags)]
        return Room(whole, real, np.array(plan, np.int64), flags, [pieces, layout])

    def _pieces(self, steps: int) -> Any:
        """Work for each thread: as many steps for everyone, and so members that are cut in two.

        Members lie end to end, cut at equal lengths (McNaughton 1959). The first half of a member that is cut is the
        first piece of one thread, the second half the last piece of the next: they never overlap, and whoever does all
        pieces alone, in order, finds each first half done.
        """
        threads = max(1, min(int(pool.board[THREADS]), len(self.chosen)))
        ends = [t * len(self.chosen) * steps // threads for t in range(threads + 1)]
        work: list[list[list[int]]] = []
        for t in range(threads):
            early, whole, late = [], [], []
            for i in range(ends[t] // steps, -(-ends[t + 1] // steps)):
                begin, end = max(ends[t] - i * steps, 0), min(ends[t + 1] - i * steps, steps)
                m = self.chosen[i]
                if begin > 0:
                    late.append([m, begin, steps, -1, t - 1])
                elif end < steps:
                    early.append([m, 0, end, t, -1])
                else:
                    whole.append([m, 0, steps, -1, -1])
            work.append([*early, *whole, *late])
        longest = max(map(len, work))
        for pieces in work:
            pieces += [[-1, 0, 0, -1, -1]] * (longest - len(pieces))
        return np.array(work, np.int64).reshape(-1, PIECE)


def fuse(calls: list[Call]) -> tuple[list[Call | Tables], dict[tuple[int, int], Place]]:
    """The same calls with as many as possible joined, and where their arguments went.

    The second result maps (id of an argument list, position) to the table cell that holds this argument now: a number
    that changes between replays is written there.
    """
    joined: list[Call | Tables] = []
    moved: dict[tuple[int, int], Place] = {}
    pending: list[tuple[Call, Row]] = []

    def flush() -> None:
        dtypes = [row[2] for _, row in pending if row[2] is not None]
        if len(pending) > 1 and dtypes:
            calls: dict[int | None, list[tuple[Call, Row]]] = {}
            for call, row in pending:
                calls.setdefault(call[2], []).append((call, row))
            joined.append(tables := Tables(calls, dtypes[0]))
            moved.update(tables.moved)
        else:
            joined.extend(call for call, _ in pending)
        pending.clear()

    for call in calls:
        row = row_of(call[0], call[1])
        kinds = {r[2] for _, r in pending} - {None}
        mixed = row is not None and row[2] is not None and bool(kinds - {row[2]})
        if row is None or mixed or (pending and (pending[0][0][2] is None) != (call[2] is None)):
            flush()
        if row is None:
            joined.append(call)
        else:
            pending.append((call, row))
    flush()
    return joined, moved


def _update_early(table: Any, numbers: Any, s: int, calls: list[Call]) -> tuple[Any, Any]:
    """Let gradients that row s uses update their weights as they are computed; spans less theirs, and l2, for row s.

    That is allowed where no call between the two touches the weights or their velocity, in whatever larger or smaller
    piece, and no other call at all touches the gradient, since it may not be written. Where updates are measured, it
    has to be seen afterwards what they were: in the velocity.
    """
    *buffers, spans, l2 = calls[s][1][:5]
    left, l2 = np.array(spans, order="C"), np.ascontiguousarray(l2)
    measured, momentum, nesterov = table[s, 3] > 1, buffers[0].dtype.type(numbers[s, 1]), table[s, 9] != 0
    for k, (start, stop) in enumerate(spans.tolist() if (momentum and not nesterov) or not measured else []):
        parts = [buffer[start:stop] for buffer in buffers]
        param, grad, velocity = map(address_of, parts)
        made = [r for r in range(s) if table[r, 0] in (AFFINE_BACKWARD, FUSED_BACKWARD) and table[r, 8] == grad]
        r = made[-1] if made else s
        others = [*_arrays(calls[:r]), *_arrays(calls[s + 1 :])]
        touched = any(np.may_share_memory(array, part) for array in _arrays(calls[r + 1 : s]) for part in parts)
        touched |= any(np.may_share_memory(array, parts[1]) for array in others)
        if r < s and table[r, 5] == param and table[r, 2] * table[r, 3] == stop - start and not touched:
            table[r, UPDATE : UPDATE + 3] = s, velocity, k
            numbers[r, 1] = l2[k]
            left[k] = -1
    table[s, 7], table[s, 8] = address_of(left), address_of(l2)
    return left, l2


def _arrays(calls: list[Call]) -> list[Any]:
    """Every array that these calls read or write."""
    values = [v for function, given, _ in calls for v in (*given, *getattr(function, "keywords", {}).values())]
    return [value for value in values if isinstance(value, np.ndarray)]


def _as_slice(columns: Any) -> Any:
    """The same columns as a slice where they are neighbours: it is written faster."""
    if len(columns) and (np.diff(columns) == 1).all():
        return slice(int(columns[0]), int(columns[-1]) + 1)
    return columns
