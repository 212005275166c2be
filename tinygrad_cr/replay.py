"""How a program is repeated on the host: call by call, or by compiled code that works through a table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tinygrad_cr.kernels import Array, fuse, owns
from tinygrad_cr.live import Live, read_steps
from tinygrad_cr.structure import arrays_are_found, arrays_of, detached, rebuilt
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
        self._written: _Written | None = None
        if len(self.captured) == 1 and not isinstance(self.captured[0], tuple):
            self.captured[0].keeps_gradients = self._shows_gradients()

    def _shows_gradients(self) -> bool:
        """Whether gradients can be looked at after the calls; not if the function ends with `zero_grad`."""
        places = [leaf.grad_view for leaf, _ in self.grads if leaf.grad_view is not None]
        shown = any(np.may_share_memory(array, place) for array in self._arrays for place in places)
        shown |= not arrays_are_found(self.result)
        return shown or any(grad is not None for _, grad in self.grads)

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
                and all(owns(array) for array in arrays_of(self.result))
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
        written = self._written = self._written or self._cells_of_steps(tables)
        room = tables.room(steps, written.layout)
        assert len(arrays) == len(self._arrays), (len(arrays), len(self._arrays))
        begins = np.array([*(array.ctypes.data for array in arrays), 0])
        np.add(written.offsets_of(steps), begins[written.owners], out=room.whole)
        for i, numbers, columns, whole in written.sources:
            read = np.array(values[i])
            target = room.whole if whole else room.real
            target[:, columns] = read[:, numbers] if read.ndim > 1 else read[:, None]
        # Until the addresses are those of the capture again: whatever interrupts this, no later call uses others.
        self.astray = True
        try:
            tables.block(room)
        finally:
            self._return_addresses()

    def _cells_of_steps(self, tables: Any) -> _Written:
        """To be asked while the addresses in the tables are those of the capture."""
        found = [np.array(tables.cells_at(array), np.int64).reshape(-1, 4) for array in self._arrays]
        cells: tuple[list[Array], list[Array]] = [own[:, :3] for own in found], []
        sources = []
        for i, live in enumerate(self.live):
            for target, places, numbers in live.places_by_target():
                whole = target is tables.tables
                sources.append((i, numbers, len(cells[not whole]), whole))
                cells[not whole].append(places)
        layout = tables.layout(*cells)
        length = len(layout.cells[0])
        owners, offsets, strides = np.full(length, len(found)), *np.zeros((2, length), np.int64)
        # Those of arrays come first.
        for k, (array, own, columns) in enumerate(zip(self._arrays, found, layout.columns[0], strict=False)):
            owners[columns], offsets[columns], strides[columns] = k, own[:, 3], array.nbytes
        placed = [(i, n, layout.columns[not whole][at], whole) for i, n, at, whole in sources]
        addresses = [array.ctypes.data + own[:, 3] for array, own in zip(self._arrays, found, strict=True)]
        home = tuple(np.concatenate(cells[0][: len(found)]).T), np.concatenate(addresses)
        return _Written(layout, owners, offsets, strides, placed, home)

    def _return_addresses(self) -> None:
        """Let the tables refer to the captured arrays."""
        (tables,) = self.captured
        assert self._written is not None
        places, addresses = self._written.home
        tables.tables[places] = addresses
        self.astray = False


class _Written:
    """What is written into the tables before each step of several.

    Args:
        layout: of all cells.
        owners: for each cell of a whole number the array whose address goes there; their count where none does.
        offsets, strides: bytes from the beginning of that array, and from step to step.
        sources: for the live numbers their place in `live`, which of its numbers, in which columns, and whether they
            are whole.
        home: where in the tables addresses of arrays stand, and those that the capture wrote there.
    """

    def __init__(
        self,
        layout: Any,
        owners: Array,
        offsets: Array,
        strides: Array,
        sources: list[tuple[int, Array, Any, bool]],
        home: tuple[tuple[Array, ...], Array],
    ) -> None:
        self.layout, self.owners, self.sources, self.home = layout, owners, sources, home
        self._offsets, self._strides = offsets, strides
        self._of_steps = offsets[None]

    def offsets_of(self, steps: int) -> Array:
        """Bytes from the beginning of the array of steps, [steps, cells]."""
        if len(self._of_steps) != steps:
            self._of_steps = self._offsets + self._strides * np.arange(steps)[:, None]
        return self._of_steps
