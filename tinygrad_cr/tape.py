"""The tape: which computation led to a tensor, and the walk back along it.

A node holds its parents and one rule: from the gradient of its output to the gradients of its parents. A parent is
another node, or a *leaf* (a tensor somebody made with ``requires_grad=True``), or None where no gradient is wanted.
Nodes point to their parents only, so a graph has no cycles and goes with its last reference.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator, contextmanager
from typing import Any, Protocol

from tinygrad_cr.errors import DTypeError, GraphError, ShapeError
from tinygrad_cr.kernels import Array, Kernels, owns

Vjp = Callable[[Array], Sequence[Array | None]]
"""Vector-Jacobian product: takes the gradient of the output, returns one gradient for each parent (or None).

What it returns is the gradient it was given, a view, or an array that nobody else holds.
"""


class Leaf(Protocol):
    """What the tape needs to know of a tensor whose gradient it leaves behind."""

    data: Array
    grad: Array | None
    grad_view: Array | None
    backend: Kernels


class Capture(Protocol):
    """What a program wants to know while a function is captured (see `compile`)."""

    def touch(self, leaf: Leaf) -> None:
        """A gradient is about to be added to this leaf."""

    def watch(self, thing: Any, *names: str) -> None:
        """The calls depend on these attributes."""

    def ask(self, read: Callable[[], Any]) -> Any:
        """A number, or a list of one a member, that is read anew for each replay."""

    def refuse(self, what: str) -> None:
        """Something that a replay could not do again."""

    def admit(self, array: Array) -> None:
        """Memory that replays write, or that lies outside and stays."""

    def check(self, array: Array, what: str) -> None:
        """Refuse an array that no replay would compute again."""


class Node:
    """One recorded operation."""

    __slots__ = ("parents", "vjp")

    def __init__(self, parents: Sequence[Node | Leaf | None], vjp: Vjp) -> None:
        self.parents = parents
        self.vjp: Vjp | None = vjp


class _Mode(threading.local):
    def __init__(self) -> None:
        self.recording = True
        self.outer: list[bool] = []
        self.program: Capture | None = None
        self.member: int | None = None
        self.active: Any = None


mode = _Mode()
"""Of this thread: whether operations are recorded on the tape, and the program that captures them, if any; the member
of a population that is computed, and a mask of those that still are (None for all)."""

capturing = False
"""Whether any thread captures at the moment. The hot path asks this before `mode`, which takes five times as long."""


class no_grad(ContextDecorator):
    """Operations inside are not recorded; works as a context manager and as a decorator.

    >>> from tinygrad_cr import Tensor, no_grad
    >>> with no_grad():
    ...     (Tensor([1.0], requires_grad=True) * 2).requires_grad
    False
    """

    def __enter__(self) -> None:
        mode.outer.append(mode.recording)
        mode.recording = False

    def __exit__(self, *_: object) -> None:
        mode.recording = mode.outer.pop()


def each_member(members: int) -> Iterator[int]:
    """The members of a population that are still computed. What a loop over them does concerns one member each time.

    Members share no memory that they write: a program that is captured may compute them at the same time.
    """
    active = mode.active
    try:
        for m in range(members):
            if active is None or active[m]:
                mode.member = m
                yield m
    finally:
        mode.member = None


@contextmanager
def computing(active: Any) -> Iterator[None]:
    """Inside, only these members of a population are computed: bool [M], not changed afterwards; None for all.

    What comes out for the others is unspecified, and costs nothing.
    """
    outer, mode.active = mode.active, active
    try:
        yield
    finally:
        mode.active = outer


def watch(thing: Any, *names: str) -> None:
    """Tell a program that is being captured, if any, that its calls depend on these attributes."""
    if capturing and mode.program is not None:
        mode.program.watch(thing, *names)


def ask(read: Callable[[], Any]) -> Any:
    """What may change between replays: read now and, if a program is being captured, before each replay.

    A number, or a list of one number for each member of a population.
    """
    return mode.program.ask(read) if capturing and mode.program is not None else read()


def named(vjp: Vjp) -> str:
    """The operation that a rule belongs to: the function that the rule was written in, for messages.

    >>> def cube(x):
    ...     return lambda g: 3 * g * x**2
    >>> named(cube(2.0)), named(print)
    ('cube', 'the operation with the rule print')
    """
    outer, written_in, name = getattr(vjp, "__qualname__", type(vjp).__name__).rpartition(".<locals>.")
    return outer.rpartition(".")[2] if written_in else f"the operation with the rule {name}"


def refuse(what: str) -> None:
    """Tell a program that is being captured, if any, that a replay could not do this."""
    if mode.program is not None:
        mode.program.refuse(what)


def backward(root: Node | Leaf, seed: Array, xp: Any, retain_graph: bool = False) -> None:
    """Add to every leaf's `grad` the product of `seed` with the derivative of `root` with respect to it.

    Unless `retain_graph`, the rules are dropped on the way, and with them the arrays they kept.

    Raises:
        GraphError: a part of the graph was dropped by an earlier backward pass. No gradient was changed.
    """
    if not isinstance(root, Node):
        accumulate(root, seed, owned=False)
        return
    order = _children_first(root)
    grads: dict[Node, Array] = {root: seed}
    owned: set[Node] = set()
    watched = capturing and mode.program is not None
    for node in order:
        g, parents, vjp = grads.pop(node, None), node.parents, node.vjp
        if g is not None and vjp is not None:
            contributions = vjp(g)
            if len(contributions) != len(parents):
                raise GraphError(
                    f"the rule of an operation with {len(parents)} operands returned {len(contributions)} "
                    "gradients; it returns one for each, or None"
                )
            for parent, d in zip(parents, contributions):  # noqa: B905 - their lengths were compared, which is faster
                if parent is None or d is None:
                    continue
                if watched:
                    mode.program.check(d, f"a gradient of {named(vjp)}")  # type: ignore[union-attr]
                if not isinstance(parent, Node):
                    if d is not parent.grad or d is not parent.grad_view:  # else its rule wrote it to `destination`
                        accumulate(parent, d if d.ndim else xp.asarray(d), d is not g and (d.base is None or owns(d)))
                    continue
                if d.ndim == 0:
                    d = xp.asarray(d)
                # Most often NumPy knows, which takes less time than `owns`.
                fresh = d is not g and (d.base is None or owns(d))
                if parent not in grads:
                    grads[parent] = d
                    if fresh:
                        owned.add(parent)
                elif parent in owned:
                    xp.add(grads[parent], d, out=grads[parent])
                else:
                    grads[parent] = xp.asarray(xp.add(grads[parent], d))
                    owned.add(parent)
        if not retain_graph:
            node.parents, node.vjp = (), None


def accumulate(leaf: Leaf, g: Array, owned: bool) -> None:
    """Add g to ``leaf.grad``; the first gradient is taken over without a copy if nobody else can hold it."""
    if g.shape != leaf.data.shape:
        raise ShapeError(f"a gradient of shape {g.shape} arrived at a tensor of shape {leaf.data.shape}")
    if g.dtype != leaf.data.dtype:
        raise DTypeError(f"a gradient of {g.dtype} arrived at a tensor of {leaf.data.dtype}; the rule converts it")
    if capturing and mode.program is not None:
        mode.program.touch(leaf)
    if leaf.grad is None:
        if leaf.grad_view is not None:
            leaf.backend.xp.copyto(leaf.grad_view, g)
            leaf.grad = leaf.grad_view
        else:
            leaf.grad = g if owned else leaf.backend.xp.array(g)
    else:
        leaf.backend.xp.add(leaf.grad, g, out=leaf.grad)


def destination(leaf: Leaf, wanted: bool) -> Array | None:
    """Where a rule writes the gradient of one of its parents: None if it is not `wanted`.

    The first to ask after `grad` was cleared gets the tensor's place in the flat gradient buffer, and thereby
    promises to fill it; whoever comes later, or asks for a tensor without such a place, gets a new array.
    """
    if not wanted:
        return None
    if capturing and mode.program is not None:
        mode.program.touch(leaf)
    view = leaf.grad_view
    if view is not None and leaf.grad is None:
        leaf.grad = view
        return view
    return leaf.backend.xp.empty_like(leaf.data)


def _children_first(root: Node) -> list[Node]:
    """All nodes under root, each after every node that uses it. No recursion: graphs may be very deep.

    Raises:
        GraphError: an earlier walk freed one of them.
    """
    order: list[Node] = []
    node: Node | None = root
    while node is not None:
        if node.vjp is None:
            raise _freed()
        below = None
        for parent in node.parents:
            if isinstance(parent, Node):
                if below is not None:
                    return order + _branches_first(node)
                below = parent
        order.append(node)
        node = below
    return order  # a chain, as most networks are: counting uses would take three times as long


def _branches_first(root: Node) -> list[Node]:
    """`_children_first` of any graph: a node is ready when all that use it were."""
    uses: dict[Node, int] = {root: 0}
    stack = [root]
    while stack:
        for parent in stack.pop().parents:
            if isinstance(parent, Node):
                if parent in uses:
                    uses[parent] += 1
                else:
                    uses[parent] = 1
                    stack.append(parent)
    order: list[Node] = []
    ready = [root]
    while ready:
        node = ready.pop()
        if node.vjp is None:
            raise _freed()
        order.append(node)
        for parent in node.parents:
            if isinstance(parent, Node):
                uses[parent] -= 1
                if not uses[parent]:
                    ready.append(parent)
    return order


def _freed() -> GraphError:
    return GraphError(
        "this graph was already walked back and freed; call backward(retain_graph=True) the first time, "
        "or compute the result again"
    )
