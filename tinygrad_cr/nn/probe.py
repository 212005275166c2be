"""What goes through a network: inputs and outputs of its layers, seen while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tinygrad_cr.nn.module import Module
from tinygrad_cr.tensor import Tensor


@contextmanager
def observed(model: Module, see: Callable[[str, Module, Tensor, Tensor], None]) -> Iterator[None]:
    """Inside, every layer that computes is reported as ``see(name, layer, input, output)``.

    A layer is a module without modules of its own, called with one tensor; its name is its dotted path, "" if the
    model itself is one. A layer used at several places is reported once for each call, under its first name.

    >>> from tinygrad_cr.nn import MLP
    >>> model, names = MLP([4, 8, 2], generator=0), []
    >>> with observed(model, lambda name, layer, x, y: names.append(name)):
    ...     _ = model([[1.0, 2.0, 3.0, 4.0]])
    >>> names
    ['layers.0', 'layers.1']
    """
    wrapped: list[Module] = []
    try:
        for name, layer in named_layers(model):
            vars(layer)["forward"] = _reporting(name, layer, see)
            wrapped.append(layer)
        yield
    finally:
        for layer in wrapped:
            vars(layer).pop("forward", None)


def named_layers(model: Module) -> Iterator[tuple[str, Module]]:
    """The modules without modules of their own, each once, with their dotted names.

    >>> from tinygrad_cr.nn import MLP
    >>> [name for name, _ in named_layers(MLP([4, 8, 2], generator=0))]
    ['layers.0', 'layers.1']
    """
    seen: set[int] = set()

    def walk(prefix: str, module: Module) -> Iterator[tuple[str, Module]]:
        inner = [(name, child) for name, child in module.children() if isinstance(child, Module)]
        if not inner and id(module) not in seen:
            seen.add(id(module))
            yield prefix.removesuffix("."), module
        for name, child in inner:
            yield from walk(f"{prefix}{name}.", child)

    yield from walk("", model)


def _reporting(name: str, layer: Module, see: Callable[[str, Module, Tensor, Tensor], None]) -> Callable[..., Any]:
    forward = layer.forward

    def call(x: Tensor) -> Tensor:
        y = forward(x)
        see(name, layer, x, y)
        return y

    return call
