"""`train_ensemble`: the same network trained several times, from different weights and in different orders of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.data import Dataset, load
from tinygrad_cr.ensemble.ensemble import Ensemble
from tinygrad_cr.ensemble.members import Member
from tinygrad_cr.ensemble.settings import Settings, settings
from tinygrad_cr.errors import DataError, DivergenceError
from tinygrad_cr.options import integer
from tinygrad_cr.random import Generator
from tinygrad_cr.train import Event, History

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Trained:
    """What training left: the members that were not lost, and the record of all."""

    members: list[Member]
    history: History


def train_ensemble(
    k: int,
    train: Dataset | Pair,
    validation: Dataset | Pair | None = None,
    *,
    hidden: Sequence[int] = (100,),
    generator: Generator | int | None = None,
    **options: Any,
) -> Ensemble:
    """k independent networks, trained as one population ("deep ensemble", Lakshminarayanan et al. 2017).

    They differ in their first weights, their dropout masks and their orders of rows; all see all rows, because with
    bootstrap samples each would see less (the same paper, section 2.4). Each holds the parameters of its best epoch on
    the validation part, and without one those of the last. A member whose run is lost is left out, and
    `Ensemble.history` says why.

    Args:
        k: how many.
        train, validation: as for `Trainer.fit`.
        hidden: widths of the hidden layers; inputs and outputs are those of the data.
        generator: a Generator, a seed, or None for a fresh seed. Member m has the m-th stream after it, and is the same
            network for any k.
        options: further arguments of `nn.MLP` (dropout, dropout_mode, init, dtype) and of `train.Trainer` (lr, epochs,
            ...); dropout, init, lr, momentum, lr_decay and reg may be lists of one value a member.

    Raises:
        OptionError: an unknown option, or one outside its range.
        DataError, ShapeError: as `Trainer.fit`.
        DivergenceError: every member was lost.

    >>> from tinygrad_cr.data import split
    >>> parts = split(load("digits"), seed=0)
    >>> ensemble = train_ensemble(
    ...     3, parts.train, parts.validation, hidden=[32], epochs=3, lr=0.02, generator=0, reporter=False
    ... )
    >>> loss, accuracy = ensemble.evaluate(parts.test)
    >>> len(ensemble), accuracy > 0.9
    (3, True)
    """
    k = integer("k", k, least=1)
    made = settings(hidden, generator, options)
    trained = train_members(k, *loaded(train, validation), made)
    return assembled(trained)


def train_members(k: int, train: Dataset, validation: Dataset | None, made: Settings) -> Trained:
    """Train members 0 to k - 1 side by side, as a population; one alone as it is, with every monitor."""
    if k == 1:
        return train_one(train, validation, made)
    population = made.population(train, k)
    trainer = made.trainer(population)
    history = trainer.fit(train, validation)
    lost = {event.member for event in _losses(history)}
    kept = [] if None in lost else [m for m in range(k) if m not in lost]
    return Trained([Member(population[m], trainer.standardizer, train.class_names) for m in kept], history)


def train_one(train: Dataset, validation: Dataset | None, made: Settings) -> Trained:
    """Train member 0 alone."""
    model = made.model(train)
    trainer = made.trainer(model)
    history = trainer.fit(train, validation)
    kept = [] if _losses(history) else [Member(model, trainer.standardizer, train.class_names)]
    return Trained(kept, History([{"member": 0, **row} for row in history], history.events))


def _losses(history: History) -> list[Event]:
    """The events by which a member was lost, or with no member the whole run."""
    return [event for event in history.events if event.stop and event.level == "fail"]


def assembled(trained: Trained) -> Ensemble:
    """The members that were not lost as an ensemble.

    Raises:
        DivergenceError: there are none.
    """
    if not trained.members:
        reasons = [event.message for event in _losses(trained.history)]
        raise DivergenceError(f"no member is left; {'; '.join(reasons)}")
    return Ensemble(trained.members, history=trained.history)


def loaded(train: Dataset | Pair, validation: Dataset | Pair | None) -> tuple[Dataset, Dataset | None]:
    """Both parts as data sets; the first has labels.

    Raises:
        DataError: it has none.
    """
    first = load(train)
    if first.y is None:
        raise DataError("training wants labelled data")
    return first, None if validation is None else load(validation)
