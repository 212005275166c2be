"""`Settings`: how the networks of an ensemble are made and trained, taken from the arguments of one call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import OptionError, unknown_name
from tinygrad_cr.nn import MLP
from tinygrad_cr.optim import Optimizer
from tinygrad_cr.options import integer
from tinygrad_cr.random import Generator, as_generator
from tinygrad_cr.train import Trainer

SHUFFLES = 2**30
"""A member's shuffles are this many streams from its weights and masks, so that no two members share a stream."""

NETWORK = ("dropout", "dropout_mode", "init", "dtype")
TRAINING = tuple(
    name
    for name in inspect.signature(Trainer).parameters
    if name not in ("model", "generator", "out", "checkpoint_epochs", "config")
)


@dataclass(frozen=True)
class Settings:
    """A network of an ensemble and its training.

    Attributes:
        hidden: widths of the hidden layers.
        network: further arguments of `nn.MLP`.
        training: arguments of `train.Trainer`.
        generator: member m draws weights and masks from its seed and stream + m, shuffles from stream + m + `SHUFFLES`.
    """

    hidden: tuple[int, ...]
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    generator: Generator

    @property
    def epochs(self) -> int:
        """How often each training row is seen."""
        return integer("epochs", self.training.get("epochs", 20), least=1)

    def model(self, data: Dataset) -> MLP:
        """The network of member 0 before training."""
        return MLP(self._sizes(data), **self.network, generator=self._stream(0))

    def population(self, data: Dataset, members: int) -> MLP:
        """The networks of all members."""
        return MLP(self._sizes(data), **self.network, members=members, generator=self._stream(0))

    def trainer(self, model: MLP) -> Trainer:
        """Who trains it, or them."""
        return Trainer(model, **self.training, generator=self._stream(SHUFFLES))

    def _sizes(self, data: Dataset) -> list[int]:
        return [data.features, *self.hidden, data.classes]

    def with_training(self, **changes: Any) -> Settings:
        """The same with other arguments of the trainer."""
        return replace(self, training={**self.training, **changes})

    def _stream(self, offset: int) -> Generator:
        return Generator(self.generator.seed, stream=self.generator.stream + offset)


def settings(
    hidden: Sequence[int],
    generator: Generator | int | None,
    options: Mapping[str, Any],
    refused: Mapping[str, str] | None = None,
) -> Settings:
    """Sort options by whom they are for.

    Args:
        refused: options that this kind of training decides itself, with the reason.

    Raises:
        OptionError: an unknown option (the nearest is named), or one that cannot be given here.

    >>> made = settings([100], 0, {"lr": 0.1, "dropout": 0.5})
    >>> made.network, made.training
    ({'dropout': 0.5}, {'lr': 0.1})
    """
    for name in options:
        if name in (refused or {}):
            raise OptionError(f"{name} cannot be given here: {(refused or {})[name]}")
        if name not in (*NETWORK, *TRAINING):
            raise unknown_name("option", name, (*NETWORK, *TRAINING))
    if isinstance(options.get("optimizer"), Optimizer):
        raise OptionError("optimizer must be a name here: every member has an optimizer of its own")
    if not isinstance(hidden, list | tuple):
        raise OptionError(f"hidden lists the widths of the hidden layers, e.g. [100]; got {hidden!r}")
    return Settings(
        tuple(integer("a hidden layer's width", width, least=1) for width in hidden),
        {name: value for name, value in options.items() if name in NETWORK},
        {name: value for name, value in options.items() if name in TRAINING},
        as_generator(generator),
    )
