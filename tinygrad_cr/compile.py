"""`compile`: run a step once, remember every kernel call, and from then on make those calls and nothing else.

The engine computes through two doors only: the kernels of a backend, and its array library `xp`. While a function is
captured both are watched. What comes out is a list of calls on arrays that all exist already; replaying it builds no
graph, checks no shape and allocates nothing, and gives the numbers of the eager step, bit for bit.

What may differ from call to call is asked for anew each time: arguments, random draws, learning rates.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_cr import tape
from tinygrad_cr.errors import CaptureError, OptionError
from tinygrad_cr.kernels import KERNELS, Array, Kernels, backend, fuse
from tinygrad_cr.tape import Leaf, mode
from tinygrad_cr.tensor import Tensor, wrap

PROGRAMS_KEPT = 16
"""Captures kept for one function: shapes times flags; the oldest goes first."""

_ALLOCATIONS = frozenset({"empty", "empty_like"})
_FILLS = {"zeros": 0, "zeros_like": 0, "ones": 1, "ones_like": 1}
_TAKE_OUT = frozenset({"sum", "mean", "max", "min", "concatenate", "stack"})
_IN_PLACE = frozenset({"copyto"})
_capturing = threading.Lock()


class compile:
    """A function of tensors that is captured on its first call and replayed afterwards.

    Args:
        fn: takes tensors, arrays and plain values, returns a tensor, a tuple of them, or None. A whole training step
            is such a function: zero_grad, forward, backward and ``optimizer.step()``.
        in_place: capture tensor and array arguments by reference: the caller passes the same arrays each time, filled
            anew. Otherwise they are copied in.

    The results are new tensors without history. A changed shape, dtype, plain value or flag (training or evaluation,
    recording or not, a gradient that is there or not) captures again. **Python side effects inside `fn` happen at
    capture only**, and branches on values are frozen; an operation that cannot be replayed raises `CaptureError`. A
    replay checks no values: a label out of range shows as a loss of NaN.

    >>> from tinygrad_cr import nn, ops, optim
    >>> model = nn.MLP([4, 8, 2], generator=0)
    >>> optimizer = optim.SGD(model, lr=0.1)
    >>> @compile
    ... def step(x, y):
    ...     optimizer.zero_grad()
    ...     loss = ops.cross_entropy(model(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> x, y = Tensor(np.ones((3, 4), "float32")), np.array([0, 1, 1])
    >>> bool(step(x, y) > step(x, y))
    True
    """

    def __init__(self, fn: Callable[..., Any], *, in_place: bool = False) -> None:
        self.fn = fn
        self.in_place = in_place
        self.programs: list[Program] = []
        functools.update_wrapper(self, fn)

    def __getstate__(self) -> dict[str, Any]:
        # A copy works on copies of the tensors, and captures them for itself.
        return vars(self) | {"programs": []}

    def __call__(self, *args: Any) -> Any:
        for program in self.programs:
            if program.fits(args):
                return program.replay(args)
        leaves = [leaf for program in self.programs for leaf, _ in program.grads.values()]
        program, result = capture(self.fn, args, self.in_place, leaves)
        self.programs = [program, *self.programs][:PROGRAMS_KEPT]
        return result

    def scan(self, *args: Any, before: Callable[[int], None] | None = None) -> Any:
        """Call once for each step: arrays among the arguments have a leading axis of steps, and so have the results.

        Where every call of the capture is one that a table holds, as it is for the networks and optimisers of this
        package, all steps are made by one call of compiled code, and members of a population side by side. Elsewhere
        it is the loop that it stands for.

        Args:
            args: arrays [steps, ...]; anything else is the same in each step.
            before: called with 0, 1, ... before the step of that number is prepared; the place to set a learning rate.

        Raises:
            OptionError: no array among the arguments, or arrays of different length.

        >>> total = np.zeros(2)
        >>> add = compile(lambda x: Tensor(total) + x)
        >>> add.scan(np.array([[1.0, 2.0], [3.0, 4.0]])).data
        array([[1., 2.],
               [3., 4.]])
        """
        lengths = {len(arg) for arg in args if isinstance(arg, np.ndarray)}
        if len(lengths) != 1:
            raise OptionError(f"scan wants arrays with one number of steps, got {sorted(lengths) or 'no array'}")
        (steps,), done = lengths, 0
        results: list[Any] = []
        while done < steps:
            first = tuple(arg[done] if isinstance(arg, np.ndarray) else arg for arg in args)
            program = next((program for program in self.programs if program.fits(first)), None)
            if program is not None and program.in_one_table:
                rest = tuple(arg[done:] if isinstance(arg, np.ndarray) else arg for arg in args)
                results.append(program.replay_each(rest, steps - done, done, before))
                break
            if before is not None:
                before(done)
            # A capture in place would hold, and later write into, the caller's array.
            own = (value.copy() if self.in_place and isinstance(value, np.ndarray) else value for value in first)
            results.append(_lengthened(self(*own)))
            done += 1
        return _joined(results)


class Program:
    """The calls of one capture, and the conditions under which they are the right ones."""

    def __init__(self, leaves: Sequence[Leaf] = ()) -> None:
        self.before = {id(leaf): leaf.grad for leaf in leaves}
        self.captured: list[Any] = []
        self.calls: list[tuple[Callable[..., Any], list[Any]]] = []
        self.members = self.active = mode.active
        self.inputs: list[Any] = []
        self.recording = mode.recording
        self.guards: list[tuple[Any, str, Any]] = []
        self.unchanged: Callable[[], bool] = bool
        self.live: list[_Live] = []
        self.grads: dict[int, tuple[Leaf, Array | None]] = {}
        self.result: Any = None
        self._one_table: bool | None = None
        self.astray = False
        self._cells: dict[int, tuple[Array, Array]] = {}
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
            if given is not captured and not _alike(given, captured):
                return False
        if mode.active is not self.active and not self._choose(mode.active):
            return False
        return self.unchanged()

    @property
    def in_one_table(self) -> bool:
        """Whether compiled code can make several steps of this program without coming back."""
        if self._one_table is None:
            tables = self.captured[0] if len(self.captured) == 1 and not isinstance(self.captured[0], tuple) else None
            places = [place for live in self.live for place in live.places]
            self._one_table = tables is not None and (
                all(target is tables.tables or target is tables.numbers for _, target, _ in places)
                and all(array.base is None for array in _arrays_of(self.result))
                and all(array.flags.c_contiguous for array in _arrays_of(tuple(self.inputs)))
                # A tensor is copied in before a step; a step of a scan is given arrays alone.
                and not any(isinstance(value, Tensor | tuple) for value in self.inputs)
            )
        return self._one_table

    def replay_each(self, args: tuple[Any, ...], steps: int, first: int, before: Callable[[int], None] | None) -> Any:
        """Make the calls for each step; the results with a leading axis of steps. Only if it is `in_one_table`."""
        if self.astray:
            self._return_addresses()
        (tables,) = self.captured
        whole: list[tuple[Any, Any]] = []
        outs = [np.zeros((steps, *array.shape), array.dtype) for array in _arrays_of(self.result)]
        given = [np.ascontiguousarray(arg) for arg in args if isinstance(arg, np.ndarray)]
        captured = [*_arrays_of(tuple(self.inputs)), *_arrays_of(self.result)]
        for array, own in zip(captured, [*given, *outs], strict=True):
            cells, offsets = self._cells_at(tables, array)
            # Each step reads and writes its own part of these arrays.
            begins = own.ctypes.data + own.strides[0] * np.arange(steps)
            whole.append((cells, begins[:, None] + offsets))
        values: list[list[Any]] = [[] for _ in self.live]
        failure: BaseException | None = None
        for k in range(steps):
            try:
                if before is not None:
                    before(first + k)
                read_now = [live.read() for live in self.live]
            except BaseException as error:  # the steps before it are made, as a loop would have
                failure, steps = error, k
                break
            for read, value in zip(values, read_now, strict=True):
                read.append(value)
        if steps:
            self._run_block(tables, steps, [(cells, table[:steps]) for cells, table in whole], values)
            for leaf, grad in self.grads.values():
                leaf.grad = grad
        if failure is not None:
            raise failure
        return _rebuilt(self.result, iter(outs))

    def _run_block(self, tables: Any, steps: int, whole: list[tuple[Any, Any]], values: list[list[Any]]) -> None:
        real: list[tuple[Any, Any]] = []
        for live, read in zip(self.live, values, strict=True):
            for target, cells, numbers in live.places_by_target():
                table = np.array(read).reshape(steps, -1)[:, numbers]
                (whole if target is tables.tables else real).append((cells, table))
        # Until the addresses are those of the capture again: whatever interrupts this, no later call uses others.
        self.astray = True
        try:
            tables.block(steps, whole, real)
        finally:
            self._return_addresses()

    def _return_addresses(self) -> None:
        """Let the tables refer to the captured arrays."""
        (tables,) = self.captured
        for array in [*_arrays_of(tuple(self.inputs)), *_arrays_of(self.result)]:
            cells, offsets = self._cells_at(tables, array)
            tables.tables[tuple(cells.T)] = array.ctypes.data + offsets
        self.astray = False

    def _cells_at(self, tables: Any, array: Array) -> tuple[Array, Array]:
        """Where the tables refer to this array: cells [n, 3], and offsets [n] in bytes."""
        if id(array) not in self._cells:
            found = np.array(tables.cells_at(array), np.int64).reshape(-1, 4)
            self._cells[id(array)] = found[:, :3], found[:, 3]
        return self._cells[id(array)]

    def _choose(self, active: Any) -> bool:
        """Make the calls of these members alone; whether the capture saw all of them."""
        if self.members is not None and (active is None or (active & ~self.members).any()):
            return False
        self.active, self.calls = active, []
        for call in self.captured:
            if isinstance(call, tuple):
                function, arguments, member = call
                if member is None or active is None or active[member]:
                    self.calls.append((function, arguments))
            else:
                call.choose(active)
                self.calls.append((call.run, call.arguments))
        return True

    def replay(self, args: tuple[Any, ...]) -> Any:
        """Make the calls; the results as new tensors."""
        if self.astray:
            self._return_addresses()
        for given, captured in zip(args, self.inputs):  # noqa: B905 - as many, see `fits`
            if type(given) is Tensor:
                given, captured = given.data, captured.data
            if given is not captured and isinstance(captured, np.ndarray):
                captured[...] = given
        for live in self.live:
            live.refresh()
        for function, arguments in self.calls:
            function(*arguments)
        for leaf, grad in self.grads.values():
            leaf.grad = grad
        return _detached(self.result)

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
        owner = _owner(array)
        self.known[id(owner)] = owner

    def check(self, array: Array, what: str) -> None:
        """Refuse an array that was computed behind the doors' back: no replay would compute it again."""
        if array.size and id(_owner(array)) not in self.known:
            self.refuse(f"{what} computed outside the backend's kernels and array library (`x.backend.xp`)")

    def watch(self, thing: Any, *names: str) -> None:
        """The calls depend on these attributes being what they are."""
        known = {(id(guarded), name) for guarded, name, _ in self.guards}
        self.guards += [(thing, name, getattr(thing, name)) for name in names if (id(thing), name) not in known]

    def ask(self, read: Callable[[], Any]) -> Any:
        """A number that is read anew for each replay."""
        self.live.append(live := _Live(read))
        return live.value

    def refuse(self, what: str) -> None:
        """Something that a replay could not do again."""
        raise CaptureError(
            f"{what} cannot be captured: a replay makes kernel calls only. Do it outside the compiled function, "
            "or call the function without compile"
        )

    # What the doors report

    def kernel_call(self, kernel: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Remember a call of a kernel, and where its live numbers go."""
        arguments = list(args)
        for i, value in enumerate(args):
            if isinstance(value, _LiveInt | _LiveFloat):
                value.live.places.append((value.number, arguments, i))
        self.captured.append((kernel, arguments, mode.member))

    def array_call(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        """Remember a call of the array library; its result, as arrays that a replay can write into."""
        if isinstance(result, list | tuple):
            if not all(_is_view(part, args) for part in result):
                self.refuse(f"xp.{name}")
            return result
        if name in _IN_PLACE or "out" in kwargs:
            self._array_call(functools.partial(function, **kwargs), args)
            return result
        result = np.asarray(result) if isinstance(result, np.generic) else result
        self.admit(result)
        if name in _ALLOCATIONS or _is_view(result, args):
            return result
        if isinstance(function, np.ufunc) or name in _TAKE_OUT:
            self._array_call(functools.partial(function, out=result, **kwargs), args)
        elif name in _FILLS:
            self._array_call(result.fill, [_FILLS[name]])
        elif any(_holds_array(value) for value in args):
            self._array_call(_copy_of(functools.partial(function, **kwargs), result), args)
        return result

    def _array_call(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        self.captured.append((function, list(args), mode.member))


class _LiveInt(int):
    """An integer that has a source."""

    live: _Live
    number: int


class _LiveFloat(float):
    """A float that has a source."""

    live: _Live
    number: int


class _Live:
    """Where a live number comes from, and where in the program it goes; or a list of them, one for each member.

    Attributes:
        value: what was read for the capture, each number marked as live.
        places: which number of the list (0 for one that stands alone), the arguments or the table, and the place there.
    """

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read
        self.places: list[tuple[int, Any, Any]] = []
        value = read()
        self.several = isinstance(value, list)
        marked = [self._marked(number, i) for i, number in enumerate(value if self.several else [value])]
        self.value: Any = marked if self.several else marked[0]

    def _marked(self, value: Any, i: int) -> _LiveInt | _LiveFloat:
        marked = (_LiveFloat if isinstance(value, float) else _LiveInt)(value)
        marked.live, marked.number = self, i
        return marked

    def settle(self, moved: dict[tuple[int, int], Any]) -> None:
        """After the capture: arguments hold plain numbers, and those that moved into tables are known there."""
        for _, arguments, i in self.places:
            arguments[i] = _plain(arguments[i])
        self.places = [(n, *moved.get((id(arguments), i), (arguments, i))) for n, arguments, i in self.places]
        # Numbers of many members in one table are written at once.
        grouped = self.places_by_target() if self.several else []
        self.together = [(table, tuple(cells.T), numbers) for table, cells, numbers in grouped]
        self.alone = [p for p in self.places if not self.several or not isinstance(p[1], np.ndarray)]

    def places_by_target(self) -> list[tuple[Array, Array, Array]]:
        """For each table: the cells [n, 3], and which number of the list goes into each."""
        tables = {id(target): target for _, target, _ in self.places if isinstance(target, np.ndarray)}
        found = []
        for key, table in tables.items():
            there = [(n, cell) for n, target, cell in self.places if id(target) == key]
            found.append((table, np.array([cell for _, cell in there]), np.array([n for n, _ in there])))
        return found

    def refresh(self) -> None:
        """Read anew."""
        value = self.read()
        if not self.several:
            for _, target, place in self.alone:
                target[place] = value
            return
        for table, cells, numbers in self.together:
            table[cells] = np.array(value)[numbers]
        for n, target, place in self.alone:
            target[place] = value[n]


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
    program.captured, moved = fuse(program.captured)
    for live in program.live:
        live.settle(moved)
    program._choose(mode.active)
    program.unchanged = _all_hold(program.guards)
    program.known, program.before = {}, {}
    program.grads = {key: (leaf, leaf.grad) for key, (leaf, _) in program.grads.items()}
    return program, _detached(program.result)


@contextmanager
def _watched(program: Program) -> Iterator[None]:
    """Both doors of every backend report to the program; calls from other threads pass unseen."""
    doors: list[tuple[Kernels, dict[str, Any]]] = []
    for name in ("cpu", "reference"):
        kernels = backend(name)
        own: dict[str, Any] = {kernel: getattr(kernels, kernel) for kernel in KERNELS} | {"xp": kernels.xp}
        doors.append((kernels, own))
        for kernel in KERNELS:
            setattr(kernels, kernel, _recorded_kernel(own[kernel], program))
        kernels.xp = _RecordedLibrary(own["xp"], program)
    mode.program, tape.capturing = program, True
    try:
        yield
    finally:
        mode.program, tape.capturing = None, False
        for kernels, own in doors:
            vars(kernels).update(own)


def _recorded_kernel(kernel: Callable[..., Any], program: Program) -> Callable[..., Any]:
    def call(*args: Any) -> None:
        kernel(*[_plain(value) for value in args])
        if mode.program is program:
            program.kernel_call(kernel, args)

    return call


class _RecordedLibrary:
    """An array library whose functions are remembered as they are called."""

    def __init__(self, library: Any, program: Program) -> None:
        self._library = library
        self._program = program

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if isinstance(function, type) or not callable(function):
            return function

        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if mode.program is not self._program:
                return result
            return self._program.array_call(name, function, args, kwargs, result)

        setattr(self, name, call)
        return call


def _all_hold(guards: Sequence[tuple[Any, str, Any]]) -> Callable[[], bool]:
    """Whether each thing's attribute still is the value: one expression, which takes a quarter of a loop's time."""
    names: dict[str, Any] = {}
    for i, (thing, _, value) in enumerate(guards):
        names |= {f"thing{i}": thing, f"value{i}": value}
    checks = [f"thing{i}.{name} is value{i}" for i, (_, name, _) in enumerate(guards)]
    test: Callable[[], bool] = eval(f"lambda: {' and '.join(['True', *checks])}", names)
    return test


def _alike(given: Any, captured: Any) -> bool:
    if isinstance(captured, np.ndarray):
        return isinstance(given, np.ndarray) and given.shape == captured.shape and given.dtype == captured.dtype
    return type(given) is type(captured) and bool(given == captured)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise CaptureError(
                "an argument that requires grad cannot be captured: its gradient would belong to a copy; "
                "close over it instead"
            )
        return wrap(np.array(value.data), value.backend)
    return np.array(value) if isinstance(value, np.ndarray) else value


def _detached(result: Any) -> Any:
    if isinstance(result, Tensor):
        return wrap(result.data.copy("K"), result.backend)
    if isinstance(result, tuple):
        return tuple(_detached(part) for part in result)
    return result.copy() if isinstance(result, np.ndarray) else result


def _arrays_of(value: Any) -> list[Array]:
    """The arrays in a result or in arguments, in order."""
    if isinstance(value, tuple):
        return [array for part in value for array in _arrays_of(part)]
    if isinstance(value, Tensor):
        return [value.data]
    return [value] if isinstance(value, np.ndarray) else []


def _rebuilt(result: Any, arrays: Iterator[Array]) -> Any:
    """A result of that structure, made of these arrays."""
    if isinstance(result, tuple):
        return tuple(_rebuilt(part, arrays) for part in result)
    if isinstance(result, Tensor):
        return wrap(next(arrays), result.backend)
    return next(arrays) if isinstance(result, np.ndarray) else result


def _lengthened(result: Any) -> Any:
    """A result with a leading axis of one step."""
    return _rebuilt(result, iter([array[None] for array in _arrays_of(result)]))


def _joined(results: list[Any]) -> Any:
    """Results one after another, along their leading axis."""
    if len(results) == 1:
        return results[0]
    parts = zip(*map(_arrays_of, results), strict=True)
    return _rebuilt(results[0], iter([np.concatenate(part) for part in parts]))


def _plain(value: Any) -> Any:
    kind = type(value)
    return int(value) if kind is _LiveInt else float(value) if kind is _LiveFloat else value


def _owner(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _is_view(result: Any, args: Any) -> bool:
    return result.size == 0 or any(
        _is_view(result, value) if isinstance(value, list | tuple) else np.may_share_memory(result, value)
        for value in args
        if isinstance(value, list | tuple | np.ndarray)
    )


def _holds_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (isinstance(value, list | tuple) and any(map(_holds_array, value)))


def _copy_of(function: Callable[..., Any], result: Array) -> Callable[..., None]:
    def call(*args: Any) -> None:
        result[...] = function(*args)

    return call
