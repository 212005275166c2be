"""How a program is repeated on the host: call by call, or by compiled code that works through a table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tinygrad_cr.kernels import Array, fuse
from tinygrad_cr.live import Live, read_steps
from tinygrad_cr.structure import arrays_of, detached, rebuilt
from tinygrad_cr.tape import Leaf
from tinygrad_cr.tensor import Tensor

Call = tuple[Callable[..., Any], list[Any], int | None]
"""A function, its arguments, and the member of a population whose call it is; None where it is everybody's."""


class Replay(Protocol):
    """The calls of a capture, ready to be made again."""

    @property
    def in_one_table(self) -> bool:
        """Whether several steps can be made without coming back in between, by `each`."""

    def choose(self, active: Any) -> None:
        """Make the calls of these members alone, a mask over those of the population; None for all."""

    def once(self, args: tuple[Any, ...]) -> Any:
        """Make the calls with these arguments; the results as new tensors."""

    def each(self, args: tuple[Any, ...], steps: int, first: int, before: Callable[[int], None] | None) -> Any:
        """Make the calls for each step; arrays among arguments and results have a leading axis of steps.

        first: the number of the first step, which `before` is told; see `compile.scan`.
        """


class HostReplay:
    """Calls of functions on the host.

    Args:
        captured: the calls, in order.
        inputs: the arguments of the capture: their arrays are what the calls read.
        result: what the function returned: its arrays are what the calls write.
        live: numbers to be read anew.
        grads: leaves, and the gradient that each has after the calls.
    """

    def __init__(
        self,
        captured: list[Call],
        inputs: Sequence[Any],
        result: Any,
        live: Sequence[Live],
        grads: Sequence[tuple[Leaf, Array | None]],
    ) -> None:
        self.captured, moved = fuse(captured)
        for source in live:
            source.settle(moved)
        self.inputs, self.result, self.live, self.grads = inputs, result, live, grads
        self.calls: list[tuple[Callable[..., Any], list[Any]]] = []
        self.astray = False
        self._one_table: bool | None = None
        self._arrays = [*arrays_of(tuple(inputs)), *arrays_of(result)]
        self._cells: dict[int, tuple[Array, Array]] = {}
        self._written: Any = None

    def choose(self, active: Any) -> None:
        """Make the calls of these members alone."""
        self.calls = []
        for call in self.captured:
            if isinstance(call, tuple):
                function, arguments, member = call
                if member is None or active is None or active[member]:
                    self.calls.append((function, arguments))
            else:
                call.choose(active)
                self.calls.append((call.run, call.arguments))

    def once(self, args: tuple[Any, ...]) -> Any:
        """Make the calls."""
        if self.astray:
            self._return_addresses()
        for given, captured in zip(args, self.inputs):  # noqa: B905 - as many, see `Program.fits`
            if type(given) is Tensor:
                given, captured = given.data, captured.data
            if given is not captured and isinstance(captured, np.ndarray):
                captured[...] = given
        for live in self.live:
            live.refresh()
        for function, arguments in self.calls:
            function(*arguments)
        for leaf, grad in self.grads:
            leaf.grad = grad
        return detached(self.result)

    @property
    def in_one_table(self) -> bool:
        """Whether compiled code can make several steps of this program without coming back."""
        if self._one_table is None:
            tables = self.captured[0] if len(self.captured) == 1 and not isinstance(self.captured[0], tuple) else None
            places = [place for live in self.live for place in live.places]
            self._one_table = tables is not None and (
                all(target is tables.tables or target is tables.numbers for _, target, _ in places)
                and all(array.base is None for array in arrays_of(self.result))
                and all(array.flags.c_contiguous for array in arrays_of(tuple(self.inputs)))
                # A tensor is copied in before a step; a step of a scan is given arrays alone.
                and not any(isinstance(value, Tensor | tuple) for value in self.inputs)
            )
        return self._one_table

    def each(self, args: tuple[Any, ...], steps: int, first: int, before: Callable[[int], None] | None) -> Any:
        """Make the calls for each step. Only if the program is `in_one_table`."""
        if self.astray:
            self._return_addresses()
        outs = [np.zeros((steps, *array.shape), array.dtype) for array in arrays_of(self.result)]
        given = [np.ascontiguousarray(arg) for arg in args if isinstance(arg, np.ndarray)]
        values, steps, failure = read_steps(self.live, steps, first, before)
        if steps:
            self._run_block(steps, [*given, *outs], values)
            for leaf, grad in self.grads:
                leaf.grad = grad
        if failure is not None:
            raise failure
        return rebuilt(self.result, iter(outs))

    def _run_block(self, steps: int, arrays: list[Array], values: list[list[Any]]) -> None:
        """arrays: what each step reads and writes its own part of; values: of the live numbers, for each step."""
        (tables,) = self.captured
        offsets, sources, layout = self._written = self._written or self._cells_of_steps(tables)
        whole, real = (np.empty((steps, len(order)), kind) for order, kind in zip(layout.orders, "qd", strict=True))
        c = 0
        for array, own in zip(arrays, offsets, strict=True):
            begins = array.ctypes.data + array.strides[0] * np.arange(steps)
            np.add(begins[:, None], own, out=whole[:, c : c + len(own)])
            c += len(own)
        r = 0
        for i, numbers, is_whole in sources:
            read = np.array(values[i]).reshape(steps, -1)[:, numbers]
            if is_whole:
                whole[:, c : c + len(numbers)] = read
                c += len(numbers)
            else:
                real[:, r : r + len(numbers)] = read
                r += len(numbers)
        # Until the addresses are those of the capture again: whatever interrupts this, no later call uses others.
        self.astray = True
        try:
            tables.block(steps, layout, whole, real)
        finally:
            self._return_addresses()

    def _cells_of_steps(self, tables: Any) -> tuple[list[Array], list[tuple[int, Array, bool]], Any]:
        """What is written into the tables before each step of several, in the order of `_run_block`.

        Returns:
            Offsets of each array's addresses; for live numbers their place in `live`, which of its numbers, and
            whether these are whole; and the layout of all cells.
        """
        arrays = [self._cells_at(tables, array) for array in self._arrays]
        offsets, cells = [offsets for _, offsets in arrays], [cells for cells, _ in arrays]
        real: list[Array] = []
        sources = []
        for i, live in enumerate(self.live):
            for target, places, numbers in live.places_by_target():
                (cells if target is tables.tables else real).append(places)
                sources.append((i, numbers, target is tables.tables))
        return offsets, sources, tables.layout(cells, real)

    def _return_addresses(self) -> None:
        """Let the tables refer to the captured arrays."""
        (tables,) = self.captured
        for array in self._arrays:
            cells, offsets = self._cells_at(tables, array)
            tables.tables[tuple(cells.T)] = array.ctypes.data + offsets
        self.astray = False

    def _cells_at(self, tables: Any, array: Array) -> tuple[Array, Array]:
        """Where the tables refer to this array: cells [n, 3], and offsets [n] in bytes."""
        if id(array) not in self._cells:
            found = np.array(tables.cells_at(array), np.int64).reshape(-1, 4)
            self._cells[id(array)] = found[:, :3], found[:, 3]
        return self._cells[id(array)]
