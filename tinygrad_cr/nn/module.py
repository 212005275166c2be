"""`Module`: something with parameters, a forward pass, and a state that can be saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinygrad_cr import tape
from tinygrad_cr.device import assign, device_memory, find_backend, host_copy, moved, to_numpy
from tinygrad_cr.errors import DTypeError, OptionError, StateDictError
from tinygrad_cr.kernels import DEVICES, available
from tinygrad_cr.nn.flat import FlatParameters, common_members
from tinygrad_cr.nn.parameter import Parameter
from tinygrad_cr.tape import watch
from tinygrad_cr.tensor import Tensor, float_dtype


class Module:
    """Base class of layers and networks.

    A subclass assigns its parameters and sub-modules (also in lists, tuples and dicts) to attributes and defines
    `forward`. Names are the dotted paths of attributes: ``layers.0.weight``.

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factor = Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> model = Scale()
    >>> model(Tensor([3.0])).data
    array([6.], dtype=float32)
    >>> list(model.state_dict())
    ['factor']
    """

    training = True
    _flat: FlatParameters | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The computation; subclasses define it."""
        raise TypeError(f"{type(self).__name__} defines no forward()")

    def __call__(self, x: Any) -> Tensor:
        if tape.capturing:
            watch(self, "training")
        return self.forward(x if isinstance(x, Tensor) else Tensor(x))

    def children(self) -> Iterator[tuple[str, Module | Parameter]]:
        """What this module is made of, with the names of the attributes."""
        for name, value in vars(self).items():
            # Most attributes are numbers and names: no generator is made for them.
            if isinstance(value, _PARTS_AND_CONTAINERS):
                yield from _members(name, value)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters below this module, each once, with their dotted names."""
        return self._walk("", {id(self)})

    def _walk(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Parameter]]:
        """Also of modules that are reached by several ways, or by one that leads back to them, each part once."""
        for name, child in self.children():
            if id(child) in seen:
                continue
            seen.add(id(child))
            if isinstance(child, Parameter):
                yield prefix + name, child
            else:
                yield from child._walk(f"{prefix}{name}.", seen)

    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        seen: set[int] = set()
        found: list[Module] = [self]
        while found:
            module = found.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                found += reversed([child for _, child in module.children() if isinstance(child, Module)])

    def train(self, training: bool = True) -> Module:
        """Switch to training (dropout drops), or with False to evaluation; returns the module."""
        for module in self.modules():
            module.training = training
        return self

    def eval(self) -> Module:
        """Switch to evaluation: dropout drops nothing; returns the module."""
        return self.train(False)

    def flat(self) -> FlatParameters:
        """All parameters and gradients as two flat buffers, of which the parameters are views."""
        if self._flat is None or not self._flat.covers(self.parameters()):
            self._flat = FlatParameters(dict(self.named_parameters()))
        return self._flat

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of all parameters by name, as NumPy arrays on whatever device they are."""
        return {name: host_copy(p.data, p.backend) for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy arrays into the parameters of the same names. Either all fit, or nothing is changed.

        Raises:
            StateDictError: missing or unexpected names, or shapes or dtypes that differ; all of them are named.
        """
        own = dict(self.named_parameters())
        arrays = {name: to_numpy(value) for name, value in state.items()}
        problems = [f"missing {name}" for name in own if name not in arrays]
        problems += [f"unexpected {name}" for name in arrays if name not in own]
        for name, parameter in own.items():
            if name in arrays and arrays[name].shape != parameter.shape:
                problems.append(f"{name} has shape {arrays[name].shape}, the module wants {parameter.shape}")
            elif name in arrays and arrays[name].dtype != parameter.dtype:
                problems.append(
                    f"{name} is {arrays[name].dtype}, the module is {parameter.dtype}; "
                    f"convert it first with .to({str(arrays[name].dtype)!r})"
                )
        if problems:
            raise StateDictError("state dict does not fit, nothing was loaded: " + "; ".join(problems))
        for name, parameter in own.items():
            assign(parameter.data, arrays[name], parameter.backend)

    def to(self, target: str) -> Module:
        """Convert all parameters to a dtype ("float32", "float64") or move them to a device; returns the module.

        Gradients are forgotten, and optimisers made before must be made anew. Generators stay what they are: masks are
        the same on every device.

        Raises:
            OptionError: neither a device nor a float dtype.
            DeviceError: a device this machine does not have.
            DeviceMemoryError: the GPU has not so much memory; the module is where it was.

        >>> Parameter.__name__, Module().to("float64").parameters()
        ('Parameter', [])
        """
        kernels = find_backend(target) if target in DEVICES else None
        try:
            dtype = None if kernels else float_dtype(target)
        except OptionError:
            devices = ", ".join(available())
            raise OptionError(f"to() takes float32, float64 or a device ({devices}), got {target!r}") from None
        before = [(p, p.data, p.backend, p.grad, p.grad_view) for p in self.parameters()]
        flats = [(module, module._flat) for module in self.modules()]
        try:
            with device_memory():
                for parameter, data, source, *_ in before:
                    target_kernels = kernels or source
                    there = moved(data, source, target_kernels)
                    parameter.data = target_kernels.xp.array(there) if dtype is None else there.astype(dtype)
                    parameter.backend = target_kernels
                    parameter.grad = parameter.grad_view = None
                for module, _ in flats:
                    module._flat = None
                self.flat()
        except BaseException:
            for parameter, data, source, grad, view in before:
                parameter.data, parameter.backend, parameter.grad, parameter.grad_view = data, source, grad, view
            for module, flat in flats:
                module._flat = flat
            raise
        return self

    @property
    def members(self) -> int | None:
        """How many members this module has, if it is a population; None for one network.

        Raises:
            ShapeError: its layers disagree.
        """
        return common_members(dict(self.named_parameters()))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that all parameters share.

        Raises:
            DTypeError: they do not, or there are none.
        """
        kinds = {p.dtype for p in self.parameters()}
        if len(kinds) != 1:
            raise DTypeError(f"the parameters of {type(self).__name__} have {len(kinds)} dtypes, wanted one")
        return kinds.pop()


def _members(name: str, value: Any) -> Iterator[tuple[str, Module | Parameter]]:
    """The modules and parameters in an attribute, with their dotted names."""
    if isinstance(value, _PARTS):
        yield name, value
    elif isinstance(value, _CONTAINERS):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _members(f"{name}.{key}", item)


_PARTS, _CONTAINERS = (Module, Parameter), (list, tuple, dict)
_PARTS_AND_CONTAINERS = _PARTS + _CONTAINERS
