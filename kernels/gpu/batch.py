"""Which networks a launch computes: one, or members of a population whose arrays lie at equal distances.

A kernel of a family is written once, for a `Batch`: its arrays are `Stack`s and its changing scalars may come from a
table in the GPU's memory. `alone` makes the contract's function of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

from ..interface import Array

Kernel = Callable[..., None]

WHOLE, REAL = False, True
_MASK = (("threshold", WHOLE), ("scale", REAL), ("seed", WHOLE), ("draw", WHOLE), ("stream", WHOLE))

SCALARS: dict[str, tuple[tuple[str, bool], ...]] = {
    "dropout": _MASK,
    "affine_relu_dropout": _MASK,
    "affine_relu_dropout_backward": (("scale", REAL),),
    "sgd": (("lr", REAL), ("momentum", REAL), ("nesterov", WHOLE)),
    "adam": (("lr", REAL), ("beta1", REAL), ("beta2", REAL), ("eps", REAL), ("step", WHOLE)),
}
"""For each kernel with changing scalars, the columns of its `Batch.numbers`: name, and whether it is a real number."""


class Stack(NamedTuple):
    """The arrays that all members have in one place of a call.

    Attributes:
        array: the one of member 0; of it come shape and dtype. It is C-contiguous.
        stride: how many elements later that of the next member begins; 0 for an array that they share.
    """

    array: Array
    stride: int


@dataclass(frozen=True)
class Batch:
    """The members that are computed.

    Attributes:
        members: their numbers, in order.
        index: the same on the GPU, int64; None where they are 0, 1, 2 ...
        numbers: what the scalars of the call are for each member of the population, int64 [all members, scalars] on
            the GPU, real numbers by their bits; None where the call's own scalars count. Read when the launch runs.
        kept: what must stay in memory as long as the launches may be repeated.
    """

    members: tuple[int, ...]
    index: Array | None
    numbers: Array | None
    kept: list[Any]

    def keep(self, *things: Any) -> None:
        """Have these among what is kept, each once however often the launches are made."""
        self.kept.extend(thing for thing in things if not any(thing is known for known in self.kept))


def alone(kernel: Kernel) -> Kernel:
    """The function of the contract for a kernel written as ``kernel(batch, *arguments)``; that one is its `of_members`.

    Arrays of the GPU become stacks of one, everything else is passed as it is.
    """

    @wraps(kernel)
    def call(*arguments: Any) -> None:
        batch = Batch((0,), None, None, [])
        # Asked of the type: an array makes the interface anew each time that it is asked for it.
        kernel(batch, *(Stack(a, 0) if hasattr(type(a), "__cuda_array_interface__") else a for a in arguments))

    call.of_members = kernel  # type: ignore[attr-defined]
    return call


def part(stack: Stack | None) -> tuple[Array | None, int]:
    """An array and its stride as a launch takes them; None for an array that is not there."""
    return (None, 0) if stack is None else (stack.array, stack.stride)


def scalars(kernel: str, batch: Batch, *values: Any) -> tuple[Any, ...]:
    """What a launch takes for the scalars of a call: the table and its columns, then the values of this call.

    >>> scalars("affine_relu_dropout_backward", Batch((0,), None, None, []), 2)
    (None, 1, 2.0)
    """
    kinds = SCALARS[kernel]
    given = (float(v) if real else int(v) for v, (_, real) in zip(values, kinds, strict=True))
    return (batch.numbers, len(kinds), *given)
