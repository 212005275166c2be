"""Populations: many networks of one shape, as one network whose parameters have a leading axis of members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_cr.errors import OptionError, ShapeError
from tinygrad_cr.nn.init import standard_deviation
from tinygrad_cr.nn.module import Module
from tinygrad_cr.nn.parameter import Parameter
from tinygrad_cr.operands import dropout_plan
from tinygrad_cr.options import PerMember, integer
from tinygrad_cr.random import Generator, Generators, as_generator, member_generators

Init = str | float | Sequence[str | float]
"""How weights are drawn: for everybody, or a list of one for each member."""
Source = Generator | Generators | Sequence[Generator] | int | None
"""Where random numbers come from: for a population also a list of generators."""

_MEMORY = ("_flat", "_feed_forward")
"""The attributes of modules that are about where parameters lie."""
_OPTIONS = ("dropout", "init")
"""The attributes in which members may differ."""


def each_dropout(dropout: Any, mode: str, members: int | None) -> Any:
    """The probability of dropping as a float, or `PerMember`.

    Raises:
        OptionError: one outside [0, 1), an unknown mode, or another number of them than members.
    """
    return _each("dropout", dropout, members, lambda p: (dropout_plan(p, mode, training=True), float(p))[1])


def each_init(init: Any, members: int | None) -> Any:
    """How weights are drawn, or `PerMember`.

    Raises:
        OptionError: an unknown name, or another number of them than members.
    """
    return _each("init", init, members, lambda one: one if isinstance(one, str) else standard_deviation(one, 1, 1))


def _each(name: str, value: Any, members: int | None, check: Callable[[Any], Any]) -> Any:
    if members is None or not isinstance(value, list | tuple | np.ndarray):
        return check(value)
    if len(value) != members:
        raise OptionError(f"{name} has {len(value)} values for {members} members: give one, or one a member")
    return PerMember(check(one) for one in value)


def as_generators(source: Any, members: int | None) -> Any:
    """A `Generator`, or `Generators` for the members of a population."""
    return as_generator(source) if members is None else member_generators(source, integer("members", members, least=1))


def member_of(module: Module, m: int) -> Module:
    """A working view of one member of a population: a network of its own, in the memory of the population.

    Training it trains the member; its masks come from the member's generator. Optimisers are made for it anew.

    Raises:
        IndexError: there is no such member; negative numbers count from the end.
        OptionError: no number.
        ShapeError: the module is no population.

    >>> from tinygrad_cr.nn import Affine
    >>> population = Affine(3, 2, members=4, generator=0)
    >>> member_of(population, 1).weight.data.base is population.weight.data.base
    True
    """
    members = module.members
    if members is None:
        raise ShapeError(f"{type(module).__name__} is one network, not a population: it has no member {m}")
    if not isinstance(m, int | np.integer):
        raise OptionError(f"a member is taken by its number, got {m!r}")
    if not -members <= m < members:
        raise IndexError(f"member {m} of {members}")
    whole = module.flat()
    view = _view(module, m % members, {})
    assert isinstance(view, Module)
    view._flat = whole.member(m % members, dict(view.named_parameters()))
    return view


def _view(value: Any, m: int, seen: dict[int, Any]) -> Any:
    """The part of one member in an attribute of a population."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Module):
        seen[id(value)] = view = object.__new__(type(value))
        vars(view).update({name: _view(own, m, seen) for name, own in vars(value).items() if name not in _MEMORY})
        return view
    if isinstance(value, Parameter):
        seen[id(value)] = parameter = Parameter(value.data[m], regularized=value.regularized, device=value.device)
        parameter.requires_grad = value.requires_grad
        return parameter
    if isinstance(value, Generators | PerMember):
        return value[m]
    if isinstance(value, list | tuple):
        return type(value)(_view(one, m, seen) for one in value)
    if isinstance(value, dict):
        return {key: _view(one, m, seen) for key, one in value.items()}
    return value


def stack(modules: Sequence[Module]) -> Any:
    """Networks of one shape as the members of a population, which holds copies of their parameters.

    They may differ in their parameters, in dropout and init, and in their generators, which the population shares with
    them.

    Raises:
        ShapeError: members of different shapes, or of different kinds of layers; the first difference is named.
        OptionError: no network, or other options that differ.

    >>> from tinygrad_cr.nn import MLP
    >>> population = stack([MLP([4, 3, 2], generator=seed) for seed in (1, 2)])
    >>> population.members, population.layers[0].weight.shape
    (2, (2, 4, 3))
    """
    modules = list(modules)
    if not modules:
        raise OptionError("stack wants at least one network")
    for module in modules:
        if not isinstance(module, Module) or module.members is not None:
            raise OptionError(f"stack wants networks of their own, got {module!r}; take members as population[m]")
    together = _stacked("", modules, {})
    assert isinstance(together, Module)
    together.flat()
    return together


def _stacked(name: str, values: Sequence[Any], seen: dict[int, tuple[list[int], Any]]) -> Any:
    """What belongs together in the members, as one attribute of the population; what is used twice stays one."""
    first = values[0]
    label = name.removeprefix(".")
    if isinstance(first, Module | Parameter | Generator):
        members, together = seen.get(id(first), ([], None))
        if together is None:
            together = _together(name, label, values, seen)
            seen[id(first)] = [id(value) for value in values], together
        elif members != [id(value) for value in values]:
            raise ShapeError(f"members of a population are built alike, in {label} they share parts differently")
        return together
    return _together(name, label, values, seen)


def _together(name: str, label: str, values: Sequence[Any], seen: dict[int, tuple[list[int], Any]]) -> Any:
    first = values[0]
    if len({type(value) for value in values}) > 1 and not isinstance(first, str | int | float):
        kinds = ", ".join(type(value).__name__ for value in values)
        raise ShapeError(f"members of a population are built alike, {label or 'these'} are {kinds}")
    if isinstance(first, Module):
        names = dict.fromkeys(key for value in values for key in vars(value) if key not in (*_MEMORY, "training"))
        module = object.__new__(type(first))
        for key in names:
            missing = [i for i, value in enumerate(values) if key not in vars(value)]
            if missing:
                raise ShapeError(f"members of a population are built alike, member {missing[0]} has no {label}.{key}")
            vars(module)[key] = _stacked(f"{name}.{key}", [vars(value)[key] for value in values], seen)
        module.training = first.training
        return module
    if isinstance(first, Parameter):
        shapes = [value.shape for value in values]
        if len(set(shapes)) > 1 or len({(value.dtype, value.device) for value in values}) > 1:
            kinds = ", ".join(f"{value.dtype} {value.shape} on {value.device}" for value in values)
            raise ShapeError(f"members of a population have parameters of one shape and dtype, {label} are {kinds}")
        data = first.backend.xp.stack([value.data for value in values])
        return Parameter(data, regularized=first.regularized, device=first.device, members=len(values))
    if isinstance(first, Generator):
        return Generators(values)
    if isinstance(first, list | tuple):
        if len({len(value) for value in values}) > 1:
            raise ShapeError(f"members of a population have as many layers each, {label} are {[*map(len, values)]}")
        return type(first)(_stacked(f"{name}.{i}", own, seen) for i, own in enumerate(zip(*values, strict=True)))
    if isinstance(first, dict):
        if len({tuple(value) for value in values}) > 1:
            raise ShapeError(f"members of a population are built alike, {label} have the keys {[*map(list, values)]}")
        return {key: _stacked(f"{name}.{key}", [value[key] for value in values], seen) for key in first}
    if all(np.array_equal(value, first) if isinstance(first, np.ndarray) else value == first for value in values):
        return first
    if label.rpartition(".")[2] in _OPTIONS:
        return PerMember(values)
    if label.split(".")[0] == "sizes":
        raise ShapeError(f"members of a population have one shape, {label} are {list(values)}")
    raise OptionError(f"members of a population cannot differ in {label}: {list(values)}")
