"""`weight_average`: one network whose parameters are the mean of those that a run went through."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from tinygrad_cr.data import Dataset
from tinygrad_cr.ensemble.ensemble import Ensemble
from tinygrad_cr.ensemble.settings import settings
from tinygrad_cr.ensemble.training import Pair, assembled, loaded, train_one
from tinygrad_cr.errors import OptionError
from tinygrad_cr.nn import Module
from tinygrad_cr.options import number
from tinygrad_cr.random import Generator
from tinygrad_cr.train import Callback, Setup, Steps

State = dict[str, np.ndarray[Any, Any]]


class WeightAverage(Callback):
    """Averages the parameters of a run while it goes on (Ruppert 1988, Polyak and Juditsky 1992).

    A callback sees the parameters at most every 50 steps and at the end of each epoch. Each look stands for the steps
    since the look before, so that the average over looks is that over steps, but for what moves within 50 of them.
    Where the part that counts has a single look (an epoch of at most 50 steps, the last of a short run), the average
    is the last parameters: see `looks`, and take more epochs or a lower start.

    Args:
        start: the part of all steps after which averaging begins, in [0, 1): at first parameters are far from where
            they will be. 0.75 is what stochastic weight averaging uses (Izmailov et al. 2018).
        decay: None for a mean in which every step counts the same. A number in (0, 1) for the lecture's running
            average, ``average = decay * average + (1 - decay) * parameters`` a step: its memory is about
            1 / (1 - decay) steps, 200 for the lecture's 0.995.

    Attributes:
        steps_averaged: how many steps the average stands for.
        looks: at how many of them it saw the parameters; with 1, nothing was averaged.

    >>> from tinygrad_cr.nn import MLP
    >>> from tinygrad_cr.train import Trainer
    >>> model, average = MLP([1, 2], generator=0), WeightAverage(start=0.5)
    >>> trainer = Trainer(model, epochs=4, generator=0, callbacks=[average], reporter=False)
    >>> _ = trainer.fit(([[0.0], [1.0]], [0, 1]))
    >>> average.apply(model)
    >>> average.steps_averaged
    2
    """

    def __init__(self, start: float = 0.75, decay: float | None = None) -> None:
        self.start_at = number("start", start, below=1, hint="it is the part of all steps that is not averaged")
        self.decay = None if decay is None else number("decay", decay, below=1, hint="None for a plain mean")
        if self.decay == 0:
            raise OptionError("decay 0 remembers nothing: take a number near 1, as 0.995, or None for a plain mean")
        self.first_step = 0
        self.steps_averaged = self.looks = 0
        self.average: State = {}
        self.model: Module | None = None

    def start(self, setup: Setup) -> None:
        """Begin anew; a resumed run then brings back its state.

        Raises:
            OptionError: a population, whose steps no callback is told.
        """
        if setup.model.members is not None:
            raise OptionError(
                f"WeightAverage follows one network, got a population of {setup.model.members}, whose steps a callback "
                "is not told: train its members one by one to average their weights"
            )
        self.model = setup.model
        self.first_step = int(self.start_at * setup.epochs * setup.steps_per_epoch)
        self.average, self.steps_averaged, self.looks = {}, 0, 0

    def steps(self, seen: Steps) -> None:
        """Take in the parameters of the last of these steps, for all of them that count."""
        if self.model is None or seen.norms is None:
            return
        count = min(len(seen.costs), seen.step - self.first_step)
        if count <= 0:
            return
        self.steps_averaged += count
        self.looks += 1
        # The first look makes the whole average.
        new = count / self.steps_averaged if self.decay is None or not self.average else 1 - self.decay**count
        for name, parameter in self.model.named_parameters():
            # float64: float32 sums of thousands of looks would drift.
            value = np.asarray(parameter.backend.to_numpy(parameter.data), np.float64)
            before = self.average.get(name)
            self.average[name] = value.copy() if before is None else before + new * (value - before)

    def apply(self, model: Module) -> None:
        """Give a network of the same shape the averaged parameters.

        Raises:
            OptionError: nothing was averaged: the run ended before the part of it that counts.
            StateDictError: another shape.
        """
        if not self.average:
            raise OptionError(
                f"nothing was averaged: the run ended before step {self.first_step + 1}, where the average begins; "
                "train longer, or lower start"
            )
        model.load_state_dict({name: value.astype(model.dtype) for name, value in self.average.items()})

    def state_dict(self) -> dict[str, Any]:
        """The average so far."""
        average = base64.b64encode(save_tensors(self.average)).decode()
        return {"average": average, "steps_averaged": self.steps_averaged, "looks": self.looks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.average = load_tensors(base64.b64decode(state["average"]))
        self.steps_averaged, self.looks = state["steps_averaged"], state.get("looks", 0)


def weight_average(
    train: Dataset | Pair,
    validation: Dataset | Pair | None = None,
    *,
    start: float = 0.75,
    decay: float | None = None,
    hidden: Sequence[int] = (100,),
    generator: Generator | int | None = None,
    **options: Any,
) -> Ensemble:
    """One run, and as its result the network with the mean of its last parameters: an ensemble of one member.

    It answers as fast as a single network. The average pays where the learning rate stays high enough for the
    parameters to keep moving; with a rate that falls to nearly 0 they no longer differ.

    Args:
        start, decay: as for `WeightAverage`.
        train, validation, hidden, generator, options: as for `train_ensemble`; this is member 0 of that.

    Raises:
        OptionError: start or decay outside its range; an unknown option, or one outside its range; patience ended the
            run before the average began.
        DataError, ShapeError: as `Trainer.fit`.
        DivergenceError: the run was lost.

    >>> from tinygrad_cr.data import load, split
    >>> parts = split(load("digits"), seed=0)
    >>> network = weight_average(parts.train, epochs=4, lr=0.02, hidden=[32], generator=0, reporter=False)
    >>> len(network), network.evaluate(parts.test)[1] > 0.9
    (1, True)
    """
    average = WeightAverage(start, decay)
    made = settings(hidden, generator, options)
    made = made.with_training(callbacks=[*made.training.get("callbacks", ()), average])
    ensemble = assembled(train_one(*loaded(train, validation), made))
    average.apply(ensemble[0].model)
    return ensemble
