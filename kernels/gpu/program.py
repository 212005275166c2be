"""Programs on a GPU: members' calls joined into one launch, changing numbers in one table, and the whole as a graph.

A loop over the members of a population makes the same calls for each, on arrays at equal distances: each of these
becomes one call for all members. What changes from step to step lies in memory of the GPU, as do the step's number and
the addresses of what it reads and writes: a graph, once captured, makes any step, and a block of steps is that many
launches of a graph and one copy from the host before them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from inspect import signature
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

from ..interface import KERNELS, Array, Kernels
from .batch import SCALARS, Batch, Stack
from .batches import take
from .device import Graph, capture, launch, shifted, xp
from .dropout import scale
from .products import tf32

Call = tuple[Callable[..., Any], list[Any], int | None]
"""A function, its arguments, and the member of a population whose call it is; None where it is everybody's."""

THREADS, MOST_BLOCKS = 256, 4096
BYTES_A_THREAD = 16
GRAPHS_KEPT = 4
"""Of a program: one for each choice of members, which changes seldom; the oldest goes first."""

_POSITIONS = {
    kernel: [list(signature(getattr(Kernels, kernel)).parameters).index(name) - 1 for name, _ in columns]
    for kernel, columns in SCALARS.items()
}
"""Where the scalars of a kernel stand among its arguments."""


class _Joint(NamedTuple):
    """One call for some members, or the call of one network.

    Attributes:
        function: the form of a kernel that takes a batch.
        members: their numbers, in order; None for a network of its own.
        first, shape: where its numbers begin in the table of the program, and how many rows and columns they have.
    """

    function: Callable[..., None]
    members: tuple[int, ...] | None
    arguments: list[Any]
    first: int
    shape: tuple[int, int]


class Launches:
    """The calls of a program.

    Attributes:
        wholes, reals: the numbers of all calls as the capture left them, and the same memory as real numbers.
        moved: for (id of a call's arguments, place), the one of these two that has this argument now, and its cell.
        refused: why the calls cannot be repeated as a graph, if they cannot.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.refused: str | None = None
        self._said = False
        self.moved: dict[tuple[int, int], tuple[Array, tuple[int]]] = {}
        self._size = 0
        self._calls: list[_Joint | Call] = []
        # Of each number: the call's arguments and the place in them, the cell it has, its value, whether it is real.
        self._numbers: list[tuple[tuple[int, int], int, Any, bool]] = []
        for alone, group in groupby(calls, key=lambda call: call[2] is None):
            if alone:
                for call in group:
                    self._add_alone(call)
            else:
                for loop in _loops(list(group)):
                    self._add_loop(loop)
        self.wholes = np.zeros(max(1, self._size), np.int64)
        self.reals = self.wholes.view(np.float64)
        for key, cell, value, real in self._numbers:
            table = self.reals if real else self.wholes
            table[cell] = value
            self.moved[key] = (table, (cell,))
        self._cells = xp.asarray(self.wholes)
        self._state = xp.zeros(3, np.int64)
        self._indices: dict[tuple[int, ...], Array | None] = {}
        self._graphs: dict[bytes | None, Graph] = {}
        self._tf32 = tf32()
        self._made: dict[bytes | None, list[tuple[str, Callable[..., Any], list[Any]]]] = {}
        self.bind([], [], [])
        self.choose(None)

    # Joining

    def _add_alone(self, call: Call) -> None:
        function, arguments, _ = call
        kernel = getattr(function, "of_members", None)
        if kernel is not None and kernel.__name__ in SCALARS:
            self._calls.append(self._joint(kernel, None, [call], [_stacked(a) for a in arguments]))
        else:
            self._add(call)

    def _add(self, call: Call) -> None:
        """A call that stays what it is."""
        function, arguments, _ = call
        if not hasattr(function, "of_members") and any(map(_holds_host_array, arguments)):
            self.refused = self.refused or f"{_name(function)} reads memory of the host"
        self._calls.append(call)

    def _add_loop(self, calls: list[Call]) -> None:
        """The calls of a loop over members. No member's call reads what another's writes: their order is free."""
        of_member: dict[int, list[Call]] = {}
        for call in calls:
            of_member.setdefault(call[2], []).append(call)  # type: ignore[arg-type]
        alike: dict[tuple[Any, ...], list[list[Call]]] = {}
        for own in of_member.values():
            alike.setdefault(tuple(map(_kind, own)), []).append(own)
        for kinds, sequences in alike.items():
            for kind, column in zip(kinds, zip(*sequences, strict=True), strict=True):
                arguments = None if kind is None else _together(column)
                if kind is None or arguments is None:
                    for call in column:
                        self._add(call)
                else:
                    members = tuple(call[2] for call in column)
                    self._calls.append(self._joint(kind[0], members, column, arguments))

    def _joint(
        self, kernel: Callable[..., None], members: tuple[int, ...] | None, calls: Sequence[Call], arguments: list[Any]
    ) -> _Joint:
        columns = SCALARS.get(kernel.__name__, ())
        rows = 1 if members is None else members[-1] + 1
        first = self._size
        for call in calls if columns else ():
            row = first + (call[2] or 0) * len(columns)
            for c, (position, (_, real)) in enumerate(zip(_POSITIONS[kernel.__name__], columns, strict=True)):
                self._numbers.append(((id(call[1]), position), row + c, call[1][position], real))
        self._size += rows * len(columns)
        return _Joint(kernel, members, arguments, first, (rows, len(columns)))

    # What is new in a step, and what comes out

    def bind(self, places: Sequence[int], inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Say which cells of the table change from step to step, and which arrays are read and written by a step.

        Inputs and outputs are contiguous arrays of the GPU.
        """
        self._places = xp.asarray(np.array([*places, *([0] if not places else [])], np.int64))
        self._changes, self._inputs, self._outputs = len(places), list(inputs), list(outputs)
        self._in, self._in_grid = _slots(inputs, len(places) * 8)
        self._out, self._out_grid = _slots(outputs, 0)
        self._graphs.clear()

    def _take_in(self) -> None:
        sizes = (len(self._inputs), len(self._outputs), self._changes)
        grid = (self._in_grid, 1, 1 + len(self._inputs))
        arguments = (self._state, *sizes, self._in, self._places, self._cells)
        launch("program", "take_in", np.float32, grid, THREADS, arguments)

    def _hand_out(self) -> None:
        grid = (self._out_grid, 1, max(1, len(self._outputs)))
        arguments = (self._state, len(self._inputs), len(self._outputs), self._out)
        launch("program", "hand_out", np.float32, grid, THREADS, arguments)

    # Repeating

    def choose(self, active: Any) -> None:
        """Make the calls of these members only, a mask over all members of the population; None for all."""
        self._key = None if active is None else np.packbits(np.asarray(active, bool)).tobytes()
        if self._key not in self._made:
            while len(self._made) >= GRAPHS_KEPT:
                oldest = next(iter(self._made))
                del self._made[oldest]
                self._graphs.pop(oldest, None)
            self._made[self._key] = [made for call in self._calls for made in self._chosen(call, active)]

    def _chosen(self, call: _Joint | Call, active: Any) -> list[tuple[str, Callable[..., Any], list[Any]]]:
        """The call for these members: its name, the function and what it takes; nothing if it concerns none of them."""
        if not isinstance(call, _Joint):
            function, arguments, member = call
            wanted = member is None or active is None or active[member]
            return [(_name(function), function, arguments)] if wanted else []
        everybody = call.members is None or active is None
        members = call.members or (0,) if everybody else tuple(m for m in call.members or () if active[m])
        if not members:
            return []
        rows, columns = call.shape
        numbers = self._cells[call.first : call.first + rows * columns].reshape(call.shape) if columns else None
        batch = Batch(members, self._index(members), numbers, [])
        return [(call.function.__name__, call.function, [batch, *call.arguments])]

    def _index(self, members: tuple[int, ...]) -> Array | None:
        if members not in self._indices:
            whole = members == tuple(range(len(members)))
            self._indices[members] = None if whole else xp.asarray(np.array(members, np.int64))
        return self._indices[members]

    @property
    def launches(self) -> list[str]:
        """The names of what is called in a step, in order."""
        return [name for name, _, _ in self._made[self._key]]

    def repeat(
        self, steps: int, values: Array, inputs: Sequence[tuple[Array, int]], outputs: Sequence[tuple[Array, int]]
    ) -> None:
        """Make the calls so many times; waits for nothing.

        values: int64 [steps, changing cells], real numbers by their bits, written before each step.
        inputs, outputs: for each, the array that holds the first step's, and the bytes from one step's to the next.
        """
        outside = np.array([(array.data.ptr, step) for array, step in (*inputs, *outputs)], np.int64).reshape(-1)
        block = xp.asarray(np.concatenate([outside, values.reshape(-1), np.zeros(1, np.int64)]))
        launch("program", "begin", np.float32, (1, 1, 1), 1, (self._state, block))
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        if self._tf32 is not tf32():
            # A graph multiplies as it was allowed to when it was captured.
            self._tf32 = tf32()
            self._graphs.clear()
        graph = self._graphs.get(self._key)
        if graph is not None:
            graph.launch()
        elif self.refused is not None:
            self._say_refused()
            self._run()
        else:
            self._capture()

    def _say_refused(self) -> None:
        if not self._said:
            self._said = True
            what = f"a step is repeated call by call instead of as a CUDA graph: {self.refused}"
            warnings.warn(what, RuntimeWarning, stacklevel=2)

    def _run(self) -> None:
        self._at = "take_in"
        self._take_in()
        for name, function, arguments in self._made[self._key]:
            self._at = name
            function(*arguments)
        self._hand_out()

    def _capture(self) -> None:
        """Make a step, and the graph of it: to be captured, calls are made once before, and that is the step."""
        runs = 0

        def run() -> None:
            nonlocal runs
            runs += 1
            self._run()

        try:
            self._graphs[self._key] = capture(run)
        except RuntimeError as error:
            if runs < 2:
                raise
            self.refused = f"{self._at} cannot be captured: {error}"
            self._say_refused()


def _loops(calls: list[Call]) -> list[list[Call]]:
    """Calls of members cut where a loop over them begins again."""
    loops = [[calls[0]]]
    for before, call in pairwise(calls):
        if call[2] < before[2]:  # type: ignore[operator]
            loops.append([])
        loops[-1].append(call)
    return loops


def _kind(call: Call) -> tuple[Any, ...] | None:
    """What calls of different members have in common if they can be joined; None if this one cannot."""
    function, arguments, _ = call
    kernel = getattr(function, "of_members", None)
    if kernel is None:
        return _array_kind(call)
    scalars = _POSITIONS.get(kernel.__name__, ())
    return (kernel, *(None if i in scalars else _sort(value) for i, value in enumerate(arguments)))


def _array_kind(call: Call) -> tuple[Any, ...] | None:
    """`_kind` of a function of the array library that writes into `out`."""
    function, arguments, _ = call
    keywords = getattr(function, "keywords", {})
    if len(arguments) != 2 or set(keywords) != {"out"} or not all(map(_is_plain, (*arguments, keywords["out"]))):
        return None
    first, second, out = *arguments, keywords["out"]
    if not first.dtype == second.dtype == out.dtype or second.shape != out.shape:
        return None
    inner: Any = getattr(function, "func", None)
    if inner is xp.multiply and first.ndim == 0 and out.dtype in _FLOATS:
        kernel: Any = scale
    elif inner is xp.take and first.ndim == 1 and out.dtype == np.int64:
        kernel = take
    else:
        return None
    return (kernel.of_members, *map(_sort, (first, second, out)))


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _sort(value: Any) -> Any:
    """What arguments of a joined call have in common besides memory."""
    if _on_gpu(value):
        return "gpu", value.shape, value.dtype
    if isinstance(value, np.ndarray):
        return "host", value.shape, value.dtype
    return value


def _together(calls: Sequence[Call]) -> list[Any] | None:
    """The arguments of one call for all these members, which are of one kind; None if their arrays lie elsewhere."""
    members = [call[2] for call in calls]
    lists = [_arguments(call) for call in calls]
    joined: list[Any] = []
    for column in zip(*lists, strict=True):
        if _on_gpu(column[0]):
            stack = _stack(column, members)
            if stack is None:
                return None
            joined.append(stack)
        elif isinstance(column[0], np.ndarray):
            host = _host_argument(column, members)
            if host is None:
                return None
            joined.append(host)
        else:
            joined.append(column[0])
    return joined


def _arguments(call: Call) -> list[Any]:
    out = getattr(call[0], "keywords", {}).get("out")
    return call[1] if out is None else [*call[1], out]


def _stack(arrays: Sequence[Array], members: Sequence[Any]) -> Stack | None:
    """Arrays at equal distances, 0 for a shared one."""
    first, itemsize = arrays[0], arrays[0].itemsize
    if not first.size or len(arrays) == 1:
        # Its distance from others does not matter, and there may be none before it.
        return Stack(first, 0)
    addresses = np.array([array.data.ptr for array in arrays], np.int64)
    places = np.array(members, np.int64)
    distance = int(addresses[1] - addresses[0]) // int(places[1] - places[0])
    even = (addresses == addresses[0] + distance * (places - places[0])).all()
    if distance < 0 or distance % itemsize or not even:
        return None
    stride = distance // itemsize
    return Stack(shifted(first, -stride * members[0]), stride)


def _host_argument(values: Sequence[Array], members: Sequence[Any]) -> Array | None:
    """Real numbers as [all members, k], a row for each member by its number; whole numbers once if they are equal."""
    first = values[0]
    if first.dtype.kind == "f":
        rows = np.zeros((members[-1] + 1, *first.shape), first.dtype)
        rows[list(members)] = values
        return rows
    same = all(value is first or np.array_equal(value, first) for value in values)
    return first if same else None


def _stacked(value: Any) -> Any:
    return Stack(value, 0) if _on_gpu(value) else value


def _slots(arrays: Sequence[Array], bytes_besides: int) -> tuple[Array, int]:
    """Address and bytes of each array, on the GPU, and how many blocks copy the largest."""
    table = np.array([(array.data.ptr, array.nbytes) for array in arrays] or [(0, 0)], np.int64)
    largest = max(int(table[:, 1].max()), bytes_besides)
    return xp.asarray(table), min(MOST_BLOCKS, max(1, -(-largest // (THREADS * BYTES_A_THREAD))))


def _on_gpu(value: Any) -> bool:
    return hasattr(type(value), "__cuda_array_interface__")


def _is_plain(value: Any) -> bool:
    return _on_gpu(value) and bool(value.flags.c_contiguous)


def _holds_host_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (isinstance(value, list | tuple) and any(map(_holds_host_array, value)))


def _name(function: Any) -> str:
    """What a call is called in a message."""
    while hasattr(function, "func"):
        function = next((a for a in function.args if callable(a)), function.func)
    name = getattr(function, "__name__", None) or getattr(function, "name", None) or repr(function)
    return name if name in KERNELS else f"xp.{name}"
