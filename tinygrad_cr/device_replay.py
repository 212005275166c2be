"""How a program is repeated on a GPU: by launches of a graph that takes in what is new in a step and hands out results.

Nothing here waits for the GPU. What the calls read from the host is copied up before them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_cr.errors import CaptureError
from tinygrad_cr.kernels import Array, backend, fuse
from tinygrad_cr.live import Live, read_steps
from tinygrad_cr.replay import Call
from tinygrad_cr.structure import arrays_of, holds_array, on_gpu, rebuilt
from tinygrad_cr.tape import Leaf
from tinygrad_cr.tensor import Tensor

_COPIES = frozenset({"array", "asarray", "ascontiguousarray"})
"""Functions of the array library that bring an array of the host to the GPU."""


class DeviceReplay:
    """Calls of functions on a GPU, and of some on the host before them.

    Nothing flows back to the host within a program, so what happens there can happen first.

    Args:
        captured: the calls, in order, and for each whether it is one of the GPU's.
        inputs, result, live, grads: as for `replay.HostReplay`.

    Raises:
        CaptureError: an argument is an array of the host, and no call reads it.
    """

    def __init__(
        self,
        captured: Sequence[tuple[Call, bool]],
        inputs: Sequence[Any],
        result: Any,
        live: Sequence[Live],
        grads: Sequence[tuple[Leaf, Array | None]],
    ) -> None:
        self.xp = backend("gpu").xp
        self.inputs, self.result, self.live, self.grads = inputs, result, live, grads
        self.captured_before: list[Call] = []
        arrays = [value.data if isinstance(value, Tensor) else value for value in inputs]
        # What a step takes in: the number of the argument, and where in the program it goes.
        self.taken_in = [(i, a) for i, a in enumerate(arrays) if on_gpu(a) and a.flags.c_contiguous]
        self.strided = [(i, a) for i, a in enumerate(arrays) if on_gpu(a) and not a.flags.c_contiguous]
        self.from_host = [(i, a) for i, a in enumerate(arrays) if isinstance(a, np.ndarray)]
        calls: list[Call] = []
        for call, there in captured:
            copy = _copied_up(call) if there else None
            place = next((i for i, a in self.from_host if copy is not None and _same(a, call[1][0], copy)), None)
            if place is not None:
                self.taken_in.append((place, copy))
            elif copy is not None or not there:
                self.captured_before.append(call)
            else:
                calls.append(call)
        self._check_arguments([*calls, *self.captured_before])
        self.outputs: list[Array] = []
        for array in arrays_of(result):
            if on_gpu(array):
                self.outputs.append(self._contiguous(array, calls))
        (self.launches,), moved = fuse(calls, "gpu")
        for source in live:
            source.settle(moved)
        self._bind_numbers(calls)
        self.before = [(function, arguments) for function, arguments, _ in self.captured_before]

    def _check_arguments(self, calls: Sequence[Call]) -> None:
        """Find out whether arguments on the host are read by the graph alone, once they are copied up."""
        read = [array for _, arguments, _ in calls for array in _host_arrays(arguments)]
        taken = {i for i, _ in self.taken_in}
        self.reads_host = False
        for i, array in self.from_host:
            used = any(np.may_share_memory(array, other) for other in read)
            self.reads_host |= used
            if not used and i not in taken and array.size:
                raise CaptureError(
                    f"argument {i}, {array.dtype} {array.shape} on the host, cannot be captured: nothing that a replay "
                    "does reads it. Pass labels as int64 and weights in the network's dtype, or what lies on the GPU"
                )

    def _contiguous(self, array: Array, calls: list[Call]) -> Array:
        """The array, or another that receives a copy after the calls."""
        if array.flags.c_contiguous:
            return array
        own = self.xp.empty(array.shape, array.dtype)
        calls.append((self.xp.copyto, [own, array], None))
        return own

    def _bind_numbers(self, calls: Sequence[Call]) -> None:
        """Tell the launches which of their numbers change."""
        self.groups = [(live, *group) for live in self.live for group in live.places_by_target()]
        self.by_value = [(live, *place) for live in self.live for place in live.places_in_arguments()]
        elsewhere = {id(arguments) for _, arguments, _ in self.captured_before}
        if any(id(arguments) not in elsewhere for _, _, arguments, _ in self.by_value):
            self.launches.refused = "a number that changes is an argument of a function that takes none from the GPU"
        places = [int(cell) for _, _, cells, _ in self.groups for cell in cells.reshape(-1)]
        self.launches.bind(places, [array for _, array in self.taken_in], self.outputs)

    def choose(self, active: Any) -> None:
        """Make the calls of these members alone."""
        self.launches.choose(active)
        self.before = [
            (function, arguments)
            for function, arguments, member in self.captured_before
            if member is None or active is None or active[member]
        ]

    @property
    def in_one_table(self) -> bool:
        """Whether a step needs nothing of the host that is not copied up before the first."""
        return not (self.captured_before or self.by_value or self.strided or self.reads_host)

    def once(self, args: tuple[Any, ...]) -> Any:
        """Make the calls with these arguments."""
        arrays = [value.data if isinstance(value, Tensor) else value for value in args]
        for i, captured in self.from_host:
            if arrays[i] is not captured:
                captured[...] = arrays[i]
        for i, captured in self.strided:
            if arrays[i] is not captured:
                self.xp.copyto(captured, arrays[i])
        values = [[live.read()] for live in self.live]
        for live, number, arguments, place in self.by_value:
            value = values[self.live.index(live)][0]
            arguments[place] = value[number] if live.several else value
        for function, arguments in self.before:
            function(*arguments)
        there = {i: self.xp.ascontiguousarray(self.xp.asarray(arrays[i])) for i, _ in self.taken_in}
        outs = [self.xp.empty(array.shape, array.dtype) for array in self.outputs]
        self.launches.repeat(
            1, self._table(values, 1), [(there[i], 0) for i, _ in self.taken_in], [(array, 0) for array in outs]
        )
        return self._finished(outs, lambda array: array.copy())

    def each(self, args: tuple[Any, ...], steps: int, first: int, before: Callable[[int], None] | None) -> Any:
        """Make the calls for each step. Only if the program is `in_one_table`."""
        values, made, failure = read_steps(self.live, steps, first, before)
        inputs = {}
        for i in {i for i, _ in self.taken_in}:
            given = args[i]
            if isinstance(given, Tensor):
                inputs[i] = self.xp.ascontiguousarray(self.xp.asarray(given.data)), 0
            else:
                array = self.xp.ascontiguousarray(self.xp.asarray(given))
                inputs[i] = array, array.nbytes // steps
        outs = [self.xp.empty((steps, *array.shape), array.dtype) for array in self.outputs]
        if made:
            outside = [(array, array.nbytes // steps) for array in outs]
            self.launches.repeat(made, self._table(values, made), [inputs[i] for i, _ in self.taken_in], outside)
        result = self._finished(outs, lambda array: np.repeat(array[None], steps, axis=0))
        if failure is not None:
            raise failure
        return result

    def _table(self, values: Sequence[Sequence[Any]], steps: int) -> Array:
        """What changes: int64 [steps, numbers], real ones by their bits, in the order that they were bound in."""
        read = {id(live): np.array(own[:steps]) for live, own in zip(self.live, values, strict=True)}
        columns = [
            np.ascontiguousarray(read[id(live)].reshape(steps, -1)[:, numbers], target.dtype).view(np.int64)
            for live, target, _, numbers in self.groups
        ]
        return np.concatenate(columns, axis=1) if columns else np.zeros((steps, 0), np.int64)

    def _finished(self, outs: Sequence[Array], of_host: Callable[[Array], Array]) -> Any:
        for leaf, grad in self.grads:
            leaf.grad = grad
        rest = iter(outs)
        return rebuilt(self.result, iter([next(rest) if on_gpu(a) else of_host(a) for a in arrays_of(self.result)]))


def copy_into(result: Array, function: Callable[..., Any], *args: Any) -> None:
    """Call a function that returns a new array, and keep what it returns where a program expects it."""
    result[...] = function(*args)


def _copied_up(call: Call) -> Array | None:
    """The array on the GPU that is the copy of an array on the host, if that is what the call makes."""
    function, arguments, _ = call
    if not isinstance(function, functools.partial) or function.func is not copy_into:
        return None
    target, inner = function.args
    host = arguments[0]
    name = getattr(inner.func, "__name__", "")
    if name in _COPIES and isinstance(host, np.ndarray) and not any(map(holds_array, arguments[1:])):
        return target
    return None


def _same(argument: Array, source: Any, copy: Array) -> bool:
    """Whether the copy of the source is the argument, unchanged."""
    return (
        source is argument and copy.dtype == argument.dtype and copy.shape == argument.shape and copy.flags.c_contiguous
    )


def _host_arrays(arguments: Sequence[Any]) -> list[Array]:
    found: list[Array] = []
    for value in arguments:
        if isinstance(value, list | tuple):
            found += _host_arrays(value)
        elif isinstance(value, np.ndarray):
            found.append(value)
    return found
