"""One buffer for all parameters of a network and one for their gradients: a single kernel updates everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_cr.errors import DTypeError, ShapeError
from tinygrad_cr.kernels import Array, Kernels, backend
from tinygrad_cr.kernels.aligned import LINE_BYTES
from tinygrad_cr.nn.parameter import Parameter


class FlatParameters:
    """The parameters of a module, packed; from then on each parameter's data is a view into `values`.

    Attributes:
        names, parameters: in the order of packing.
        members: how many members the network has, if it is a population.
        values: [p] all parameters; gaps between tensors hold zeros. Of a population: [members, p], each row packed as
            the network of one member.
        gradients: [p] where the gradient of each parameter is written, in the same places.
        spans: [k, 2] int64, the half-open range of each tensor.

    Raises:
        DTypeError: parameters of more than one dtype or device, which no single buffer can hold.
        ShapeError: parameters of populations of different size.
    """

    def __init__(self, named: Mapping[str, Parameter]) -> None:
        self.names = list(named)
        self.parameters = list(named.values())
        if len({(p.dtype, p.device) for p in self.parameters}) > 1:
            kinds = ", ".join(f"{name} {p.dtype} on {p.device}" for name, p in named.items())
            raise DTypeError(f"one network wants one dtype and one device, got {kinds}; use module.to(...)")
        self.members = common_members(named)
        dtype = self.parameters[0].dtype if self.parameters else np.dtype(np.float32)
        per_line = LINE_BYTES // dtype.itemsize
        sizes = np.array([p.size // (self.members or 1) for p in self.parameters], np.int64)
        lines = -(-sizes // per_line) * per_line
        starts = np.concatenate([[0], np.cumsum(lines)]).astype(np.int64)
        self.spans = np.stack([starts[:-1], starts[:-1] + sizes], axis=1)
        total = int(starts[-1])
        self.backend: Kernels = self.parameters[0].backend if self.parameters else backend("cpu")
        self.values = self.zeros(total, dtype)
        self.gradients = self.zeros(total, dtype)
        self._pairs: list[tuple[Parameter, Array]] = []
        for parameter, (start, stop) in zip(self.parameters, self.spans, strict=True):
            view = self.values[..., start:stop].reshape(parameter.shape)
            view[...] = parameter.data
            parameter.data = view
            parameter.grad_view = self.gradients[..., start:stop].reshape(parameter.shape)
            parameter.grad = None
            self._pairs.append((parameter, view))

    def member(self, m: int, named: Mapping[str, Parameter]) -> FlatParameters:
        """The buffers of one member: views, of which these parameters become views."""
        own = FlatParameters.__new__(FlatParameters)
        own.names, own.spans, own.backend = self.names, self.spans, self.backend
        own.members, own.parameters, own._pairs = None, list(named.values()), []
        own.values, own.gradients = self.values[m], self.gradients[m]
        for parameter, whole in zip(own.parameters, self.parameters, strict=True):
            parameter.data, parameter.grad = whole.data[m], None
            parameter.grad_view = None if whole.grad_view is None else whole.grad_view[m]
            own._pairs.append((parameter, parameter.data))
        return own

    def __getstate__(self) -> dict[str, Parameter]:
        return dict(zip(self.names, self.parameters, strict=True))

    def __setstate__(self, named: dict[str, Parameter]) -> None:
        # Copied views would no longer lie in the copied buffers: the copies of the parameters are packed anew.
        gradients = [(p, p.grad) for p in named.values()]
        self.__init__(named)  # type: ignore[misc]
        for parameter, grad in gradients:
            parameter.grad = grad

    def zeros(self, size: int, dtype: np.dtype[Any]) -> Array:
        """A buffer of zeros that begins on a cache line, for each member if there are any."""
        if self.members is not None:
            return self._zeros(self.members * size, dtype).reshape(self.members, size)
        return self._zeros(size, dtype)

    def _zeros(self, size: int, dtype: np.dtype[Any]) -> Array:
        room = self.backend.xp.zeros(size + LINE_BYTES // dtype.itemsize, dtype)
        address = room.ctypes.data if isinstance(room, np.ndarray) else room.data.ptr
        first = -address % LINE_BYTES // dtype.itemsize
        return room[first : first + size]

    def covers(self, parameters: Sequence[Parameter]) -> bool:
        """Whether these are the parameters packed here, and none was given other memory since."""
        return len(parameters) == len(self.parameters) and all(
            p is own and p.data is view for p, (own, view) in zip(parameters, self._pairs, strict=True)
        )

    def ready(self) -> bool:
        """Whether it is `intact` and `complete`, as before most updates: one walk over the parameters."""
        for parameter, view in self._pairs:
            grad = parameter.grad
            if grad is None or grad is not parameter.grad_view or parameter.data is not view:
                return False
            if not parameter.requires_grad:
                return False
        return True

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def intact(self) -> bool:
        """Whether every parameter still lives in this buffer."""
        return all(parameter.data is view for parameter, view in self._pairs)

    def complete(self) -> bool:
        """Whether every parameter is trained and has its gradient in the buffer of gradients."""
        return all(p.grad is not None and p.grad is p.grad_view and p.requires_grad for p in self.parameters)


def common_members(named: Mapping[str, Parameter]) -> int | None:
    """How many members all these parameters belong to; None for those of one network.

    Raises:
        ShapeError: they differ.
    """
    sizes = {p.members for p in named.values()}
    if len(sizes) > 1:
        kinds = ", ".join(f"{name} has {p.members or 'no'} members" for name, p in named.items())
        raise ShapeError(f"the layers of a population have as many members each, got: {kinds}")
    return next(iter(sizes), None)
