"""`Parameter`: a tensor that training changes."""

from __future__ import annotations

from typing import Any

from tinygrad_cr.tensor import Tensor


class Parameter(Tensor):
    """A leaf tensor of a module, found by name and updated by optimisers.

    Args:
        data: float32 or float64 array.
        regularized: whether penalties on the size of weights apply to it (to weights they do, to biases not).
        members: how many members of a population it belongs to, along its first axis; None for a network of its own.

    >>> Parameter([0.0, 0.0]).requires_grad
    True
    """

    __slots__ = ("members", "regularized")

    def __init__(
        self, data: Any, *, regularized: bool = True, device: str | None = None, members: int | None = None
    ) -> None:
        super().__init__(data, requires_grad=True, device=device)
        self.regularized = regularized
        self.members = members

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"members": self.members, "regularized": self.regularized}
