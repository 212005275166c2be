"""Capturing: run a function once and remember every call it makes, and the conditions under which they are right.

The engine computes through two doors only: the kernels of a backend, and its array library `xp`. While a function is
captured both are watched. What comes out is a list of calls on arrays that all exist already.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_cr import kernels as backends
from tinygrad_cr import tape
from tinygrad_cr.device_replay import DeviceReplay, copy_into
from tinygrad_cr.errors import CaptureError
from tinygrad_cr.kernels import KERNELS, Array, Kernels, aligned, available, backend, on_a_line
from tinygrad_cr.live import Live, LiveFloat, LiveInt, plain
from tinygrad_cr.replay import Call, HostReplay, Replay
from tinygrad_cr.structure import alike, arrays_of, detached, holds_array, is_array, is_view, on_gpu, owner
from tinygrad_cr.tape import Leaf, mode
from tinygrad_cr.tensor import Tensor, wrap

_ALLOCATIONS = frozenset({"empty", "empty_like"})
_FILLS = {"zeros": 0, "zeros_like": 0, "ones": 1, "ones_like": 1}
_TAKE_OUT = frozenset({"sum", "mean", "max", "min", "concatenate", "stack"})
_IN_PLACE = frozenset({"copyto"})
_capturing = threading.Lock()


class Program:
    """The calls of one capture, and the conditions under which they are the right ones.

    Attributes:
        captured: the calls, and whether they are the GPU's; during the capture.
        replay: makes the calls again; there once the capture is over.
    """

    replay: Replay

    def __init__(self, leaves: Sequence[Leaf] = ()) -> None:
        self.before = {id(leaf): leaf.grad for leaf in leaves}
        self.captured: list[tuple[Call, bool]] = []
        self.members = self.active = mode.active
        self.inputs: list[Any] = []
        self.recording = mode.recording
        self.guards: list[tuple[Any, str, Any]] = []
        self.watched: set[tuple[int, str]] = set()
        self.unchanged: Callable[[], bool] = bool
        self.live: list[Live] = []
        self.grads: dict[int, tuple[Leaf, Array | None]] = {}
        self.result: Any = None
        self.known: dict[int, Array] = {}

    def fits(self, args: tuple[Any, ...]) -> bool:
        """Whether these arguments, and the flags as they are now, are those of the capture."""
        if len(args) != len(self.inputs) or mode.recording is not self.recording:
            return False
        for given, captured in zip(args, self.inputs):  # noqa: B905 - as many, and the keyword costs as much as the loop
            if type(given) is Tensor:
                if type(captured) is not Tensor or given.backend is not captured.backend:
                    return False
                given, captured = given.data, captured.data
            if given is not captured and not alike(given, captured):
                return False
        if mode.active is not self.active and not self._choose(mode.active):
            return False
        return self.unchanged()

    @property
    def in_one_table(self) -> bool:
        """Whether several steps of this program can be made without coming back in between."""
        return self.replay.in_one_table

    def _choose(self, active: Any) -> bool:
        """Make the calls of these members alone; whether the capture saw all of them."""
        if self.members is not None and (active is None or (active & ~self.members).any()):
            return False
        self.active = active
        self.replay.choose(active)
        return True

    # What the engine says while it is captured

    def touch(self, leaf: Leaf) -> None:
        """A gradient is about to be added to this leaf."""
        if leaf.grad_view is not None:
            self.admit(leaf.grad_view)
        if id(leaf) not in self.grads:
            self.grads[id(leaf)] = (leaf, None)
            self.watch(leaf, "data")
            # A gradient that is no longer what it was before the capture was cleared or set by the function itself,
            # and will be again: what it is before a replay does not matter.
            if self.before.get(id(leaf), leaf.grad) is leaf.grad:
                self.watch(leaf, "grad")

    def admit(self, array: Array) -> None:
        """Memory that replays write, or that lies outside and stays."""
        memory = owner(array)
        self.known[id(memory)] = memory

    def check(self, array: Array, what: str) -> None:
        """Refuse an array that was computed behind the doors' back: no replay would compute it again."""
        if array.size and id(owner(array)) not in self.known:
            self.refuse(f"{what} computed outside the backend's kernels and array library (`x.backend.xp`)")

    def watch(self, thing: Any, *names: str) -> None:
        """The calls depend on these attributes being what they are."""
        new = [name for name in names if (id(thing), name) not in self.watched]
        self.guards += [(thing, name, getattr(thing, name)) for name in new]
        self.watched.update((id(thing), name) for name in new)

    def ask(self, read: Callable[[], Any]) -> Any:
        """A number that is read anew for each replay."""
        self.live.append(live := Live(read))
        return live.value

    def refuse(self, what: str) -> None:
        """Something that a replay could not do again."""
        raise CaptureError(
            f"{what} cannot be captured: a replay makes kernel calls only. Do it outside the compiled function, "
            "or call the function without compile"
        )

    # What the doors report

    def kernel_call(self, kernel: Callable[..., Any], args: tuple[Any, ...], on_host: bool) -> None:
        """Remember a call of a kernel, and where its live numbers go."""
        arguments = list(args)
        for i, value in enumerate(args):
            if isinstance(value, LiveInt | LiveFloat):
                value.live.places.append((value.number, arguments, i))
        self.captured.append(((kernel, arguments, mode.member), not on_host))

    def array_call(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        on_host: bool,
    ) -> Any:
        """Remember a call of the array library; its result, as arrays that a replay can write into."""
        if isinstance(result, list | tuple):
            if not all(is_view(part, args) for part in result):
                self.refuse(f"xp.{name}")
            return result
        if name in _IN_PLACE or "out" in kwargs:
            self._array_call(functools.partial(function, **kwargs), args, on_host)
            return result
        result = np.asarray(result) if isinstance(result, np.generic) else result
        self.admit(result)
        if name in _ALLOCATIONS or is_view(result, args):
            return result
        if type(function).__name__ == "ufunc" or name in _TAKE_OUT:
            self._array_call(functools.partial(function, out=result, **kwargs), args, on_host)
        elif name in _FILLS:
            self._array_call(result.fill, [_FILLS[name]], on_host)
        elif any(holds_array(value) for value in args):
            self._array_call(functools.partial(copy_into, result, functools.partial(function, **kwargs)), args, on_host)
        return result

    def _array_call(self, function: Callable[..., Any], args: Sequence[Any], on_host: bool) -> None:
        self.captured.append(((function, list(args), mode.member), not on_host))

    def finish(self) -> None:
        """The capture is over: make the replay, and let go of what was needed until now."""
        self.grads = {key: (leaf, leaf.grad) for key, (leaf, _) in self.grads.items()}
        told = self.inputs, self.result, self.live, list(self.grads.values())
        arrays = arrays_of((*self.inputs, self.result))
        if any(there for _, there in self.captured) or any(map(on_gpu, arrays)):
            self.replay = DeviceReplay(self.captured, *told)
        else:
            self.replay = HostReplay([call for call, _ in self.captured], *told)
        self._choose(mode.active)
        self.unchanged = _all_hold(self.guards)
        self.captured, self.known, self.before, self.watched = [], {}, {}, set()


def capture(
    fn: Callable[..., Any], args: tuple[Any, ...], in_place: bool = False, leaves: Sequence[Leaf] = ()
) -> tuple[Program, Any]:
    """Run fn once and return the program of its kernel calls, and its result; leaves it is known to train may be named.

    Raises:
        CaptureError: something in fn cannot be replayed; fn ran up to there.
    """
    program = Program(leaves)
    program.inputs = [value if in_place else _copied(value) for value in args]
    with _capturing, _watched(program):
        program.result = fn(*program.inputs)
    program.finish()
    return program, detached(program.result)


@contextmanager
def _watched(program: Program) -> Iterator[None]:
    """Both doors of every backend report to the program; calls from other threads pass unseen."""
    doors: list[tuple[Kernels, dict[str, Any]]] = []
    for name in ("cpu", "reference", *(["gpu"] if _gpu_is_in_use() else [])):
        kernels = backend(name)
        own: dict[str, Any] = {kernel: getattr(kernels, kernel) for kernel in KERNELS} | {"xp": kernels.xp}
        doors.append((kernels, own))
        for kernel in KERNELS:
            setattr(kernels, kernel, _recorded_kernel(own[kernel], program, kernels.host))
        kernels.xp = _RecordedLibrary(own["xp"], program, kernels.host)
    mode.program, tape.capturing = program, True
    try:
        yield
    finally:
        mode.program, tape.capturing = None, False
        for kernels, own in doors:
            vars(kernels).update(own)


def _recorded_kernel(kernel: Callable[..., Any], program: Program, on_host: bool) -> Callable[..., Any]:
    def call(*args: Any) -> None:
        kernel(*[plain(value) for value in args])
        if mode.program is program:
            program.kernel_call(kernel, args, on_host)

    return call


class _RecordedLibrary:
    """An array library whose functions are remembered as they are called."""

    def __init__(self, library: Any, program: Program, on_host: bool) -> None:
        self._library = library
        self._program = program
        self._on_host = on_host

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if isinstance(function, type) or not callable(function):
            return function

        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if mode.program is not self._program:
                return result
            if self._on_host and name in _ALLOCATIONS:
                # Replays use it again and again.
                result = on_a_line(result)
            return self._program.array_call(name, function, args, kwargs, result, self._on_host)

        setattr(self, name, call)
        return call


def _gpu_is_in_use() -> bool:
    """Whether arrays of a GPU can be about. To ask for the backend where nobody did yet would import its compiler."""
    return f"{backends.__name__}.gpu.device" in sys.modules and "gpu" in available()


def _all_hold(guards: Sequence[tuple[Any, str, Any]]) -> Callable[[], bool]:
    """Whether each thing's attribute still is the value: one expression, which takes a quarter of a loop's time."""
    names: dict[str, Any] = {}
    for i, (thing, _, value) in enumerate(guards):
        names |= {f"thing{i}": thing, f"value{i}": value}
    checks = [f"thing{i}.{name} is value{i}" for i, (_, name, _) in enumerate(guards)]
    test: Callable[[], bool] = eval(f"lambda: {' and '.join(['True', *checks])}", names)
    return test


def refuse_gradient(value: Any) -> None:
    """Arguments are copied in, and a gradient would not find its way back.

    Raises:
        CaptureError: it is a tensor that requires grad.
    """
    if isinstance(value, Tensor) and value.requires_grad:
        raise CaptureError(
            "an argument that requires grad cannot be captured: its gradient would belong to a copy; "
            "close over it instead"
        )


def _copied(value: Any) -> Any:
    refuse_gradient(value)
    if isinstance(value, Tensor):
        return wrap(_copy(value.data), value.backend)
    return _copy(value) if is_array(value) else value


def _copy(array: Array) -> Array:
    if type(array) is not np.ndarray or not array.flags.c_contiguous:
        return array.copy("K")
    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy
