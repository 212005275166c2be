"""`Member`: a trained network with what belongs to it, and the checks that several of them fit together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cr.data import Standardizer
from tinygrad_cr.errors import DataError, OptionError, ShapeError
from tinygrad_cr.nn import MLP, Module, member_of
from tinygrad_cr.train import Run
from tinygrad_cr.train.evaluate import evaluation, input_of


@dataclass(frozen=True)
class Member:
    """One network of an ensemble.

    Attributes:
        model: gives logits [n, classes] for x [n, features].
        standardizer: what it wants done to x first; None for nothing.
        class_names: what its classes are called, in the order of its outputs; empty if nobody said.

    >>> Member(MLP([4, 3], generator=0)).features
    4
    """

    model: Module
    standardizer: Standardizer | None = None
    class_names: tuple[str, ...] = ()

    @property
    def features(self) -> int | None:
        """How many columns of x it takes; None for a network of your own without a standardizer, which does not say."""
        if self.standardizer is not None:
            return len(self.standardizer.state_dict()["mean"])
        return self.model.sizes[0] if isinstance(self.model, MLP) else None

    def logits(self, x: Any) -> np.ndarray[Any, Any]:
        """x: [n, features], standardised and in the dtype of the model -> [n, classes]; for use in evaluation mode."""
        return self.model(input_of(self.model, x)).numpy()


def gathered(
    members: Module | Iterable[Any], standardizer: Standardizer | None, class_names: Sequence[str]
) -> tuple[list[Member], tuple[str, ...], int | None]:
    """Networks, members and runs as members that fit together, the names of their classes, and how many there are.

    Raises:
        OptionError: none of them, or something else.
        ShapeError: they take different features, or have different numbers of classes.
        DataError: their classes have different names, or a parameter is inf or NaN.
    """
    found = [_as_member(each, standardizer, tuple(class_names)) for each in _each(members)]
    if not found:
        raise OptionError("an ensemble wants at least one member, got none")
    for i, member in enumerate(found):
        for name, value in member.model.state_dict().items():
            if not np.isfinite(value).all():
                raise DataError(f"member {i}: {name} holds inf or NaN; its training was lost, leave it out")
    _same("features", [member.features for member in found])
    classes = _same("classes", [_classes(i, member) for i, member in enumerate(found)])
    named = [(i, member.class_names) for i, member in enumerate(found) if member.class_names]
    for i, names in named:
        if names != named[0][1]:
            raise DataError(
                f"member {i} has the classes {', '.join(names)}, member {named[0][0]} has {', '.join(named[0][1])}: "
                "their probabilities mean different things; train them on data with the same class names"
            )
    names = named[0][1] if named else ()
    if names and classes is not None and len(names) != classes:
        raise ShapeError(f"{len(names)} class names for members with {classes} outputs: give one name an output")
    return found, names, classes


def _each(members: Module | Iterable[Any]) -> Iterable[Any]:
    if not isinstance(members, Module):
        return members
    if members.members is None:
        raise OptionError("one network is no ensemble: give a list of networks, or a population")
    return [member_of(members, m) for m in range(members.members)]


def _as_member(given: Any, standardizer: Standardizer | None, class_names: tuple[str, ...]) -> Member:
    model = given.model if isinstance(given, Member | Run) else given
    if isinstance(model, Module) and model.members is not None:
        raise OptionError("a population is a whole ensemble: give it alone, or its members as population[m]")
    if isinstance(given, Member | Run):
        own = tuple(given.class_names) or class_names
        return Member(given.model, standardizer if given.standardizer is None else given.standardizer, own)
    if isinstance(given, Module):
        return Member(given, standardizer, class_names)
    raise OptionError(f"a member is a Module, a Member or a Run, got {type(given).__name__}")


def _classes(i: int, member: Member) -> int | None:
    """How many outputs a member has; None if it cannot be asked, as nobody knows what it takes."""
    if member.features is None:
        return None
    try:
        with evaluation(member.model):
            shape = member.logits(np.zeros((1, member.features), member.model.dtype)).shape
    except ShapeError as error:
        raise ShapeError(f"member {i} does not take what its standardizer gives: {error}") from None
    if len(shape) != 2:
        raise ShapeError(f"member {i} gives {shape} for one row, a classifier gives logits [1, classes]")
    return int(shape[1])


def _same(what: str, counts: Sequence[int | None]) -> int | None:
    known = [(i, count) for i, count in enumerate(counts) if count is not None]
    for i, count in known:
        if count != known[0][1]:
            raise ShapeError(
                f"member {i} has {count} {what}, member {known[0][0]} has {known[0][1]}: "
                "members of one ensemble answer the same question"
            )
    return known[0][1] if known else None
