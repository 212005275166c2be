"""Which learning rates work? Short runs from the same start, one for each rate of a logarithmic grid.

All runs see the same minibatches and the same dropout masks, and so does one at rate 0: what differs between two costs
is the rate. The largest rate at which the cost barely moves and the smallest at which it explodes are the ends of the
bracket (CS231n); the suggestion lies between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data import Standardizer
from tinygrad_cr.doctor import inputs
from tinygrad_cr.doctor.case import Case, Data, Loss, Stepper, make_case
from tinygrad_cr.errors import DataError, DivergenceError
from tinygrad_cr.nn import Module
from tinygrad_cr.optim import Optimizer
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor

STEPS, FEWEST_STEPS = 100, 30
WORK = 3e7
"""Parameters times rows of a minibatch, up to which runs have all their steps."""
PER_DECADE = 3
LOWEST, HIGHEST, FIRST = -8, 4, -2
"""Powers of ten."""
MOVES = 0.1
"""The cost barely moves if it falls by less than this part of what it falls at the best rate."""
NOISE = 3.0
"""It moves only if it falls by more than so many standard errors."""
EXPLODES = 3.0
"""The lecture's "cost > 3 x the original cost"."""
ROUNDING = 1e-4
"""A part of the cost that is no movement in any case."""
WINDOW = 5
"""Of so many costs in a row the median has to be beyond the limit: one bad minibatch is no explosion."""
BLAST = 10.0
"""So many times the limit is one even if it lasts for a step: the ReLUs die of it, and the cost falls back to ln C."""
GOOD = 0.8
"""A rate is worth suggesting if it gains so much of what the best rate does."""
WANTED_RATIO, RATIO_LOW, RATIO_HIGH = 1e-3, 1e-4, 1e-2
"""Norm of an update over norm of the weights (CS231n)."""


@dataclass(frozen=True)
class RateRange:
    """What short runs at each learning rate came to.

    Attributes:
        rates: ascending.
        costs: the cost at the end of each run, smoothed; inf if it exploded.
        initial: the cost without training.
        low: the largest rate at which the cost barely moves.
        high: the smallest at which it explodes.
        suggestion: a rate between; None if none there makes the cost fall.
        ratios: at the suggestion, norm of an update over norm of the parameter, for each weight.

    >>> found = RateRange((1e-3, 1e-2, 1.0), (2.3, 1.9, float("inf")), 2.3, 1e-3, 1.0, 1e-2)
    >>> RateRange.from_dict(found.to_dict()) == found
    True
    """

    rates: Sequence[float]
    costs: Sequence[float]
    initial: float
    low: float
    high: float
    suggestion: float | None
    ratios: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: an exploded cost is None."""
        costs = [cost if math.isfinite(cost) else None for cost in self.costs]
        return vars(self) | {"rates": list(self.rates), "costs": costs, "ratios": dict(self.ratios)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RateRange:
        """The inverse of `to_dict`; other entries are left out, so the values of a check will do."""
        own = {key: values[key] for key in cls.__dataclass_fields__}
        costs = tuple(math.inf if cost is None else cost for cost in own["costs"])
        return cls(**own | {"rates": tuple(own["rates"]), "costs": costs})


def learning_rate_range(
    model: Module,
    data: Data,
    *,
    loss: Loss = ops.cross_entropy,
    optimizer: str | Optimizer = "sgd",
    momentum: float = 0.9,
    reg: float = 0.0,
    batch_size: int = 32,
    standardize: str | Standardizer = "per-feature",
    generator: Generator | int | None = 0,
) -> RateRange:
    """Try learning rates in short runs of copies; arguments and errors as of `preflight`, nothing is changed.

    Raises:
        DataError: also for numbers that are not finite.
        DivergenceError: the cost is not finite before any update.

    >>> from tinygrad_cr.data import load
    >>> from tinygrad_cr.nn import MLP
    >>> found = learning_rate_range(MLP([64, 32, 10], generator=0), load("digits"))
    >>> found.low < found.suggestion < found.high
    True
    """
    case = make_case(
        model,
        data,
        None,
        loss=loss,
        optimizer=optimizer,
        lr=None,
        momentum=momentum,
        reg=reg,
        batch_size=batch_size,
        standardize=standardize,
        generator=generator,
    )
    if not case.finite:
        raise DataError(f"no rate can be tried: {inputs.check(case).measured}")
    with np.errstate(all="ignore"):
        return find(case)


@dataclass(frozen=True)
class Trial:
    """One short run: costs [steps], filled up with inf once it exploded, and the ratio of each weight at its end."""

    costs: np.ndarray[Any, Any]
    exploded: bool
    ratios: Mapping[str, float]


def find(case: Case) -> RateRange:
    """Widen the range, a power of ten at a time, until both ends are in it; then fill it in."""
    size = sum(p.size for p in case.patient.model.parameters())
    steps = round(STEPS * min(1.0, max(FEWEST_STEPS / STEPS, math.sqrt(WORK / (size * case.batch_size)))))
    still = _run(case, 0.0, steps, math.inf)
    initial = float(still.costs.mean())
    if not math.isfinite(initial):
        raise DivergenceError(f"the cost is {initial} before any update: look at the initial loss first")
    trials: dict[int, Trial] = {}

    def tried(power: int) -> Trial:
        if power not in trials:
            trials[power] = _run(case, 10 ** (power / PER_DECADE), steps, EXPLODES * initial)
        return trials[power]

    top = bottom = FIRST * PER_DECADE
    while not tried(top).exploded and top < HIGHEST * PER_DECADE:
        top += PER_DECADE
    while bottom > LOWEST * PER_DECADE and not _is_bottom(tried(bottom), trials.values(), still):
        bottom -= PER_DECADE
    powers = range(bottom, top + 1)
    return _range({10 ** (power / PER_DECADE): tried(power) for power in powers}, still)


def _run(case: Case, rate: float, steps: int, limit: float) -> Trial:
    """Train a copy for so many steps, or until the smoothed cost is beyond the limit."""
    patient = case.copies()
    patient.model.train()
    patient.optimizer.lr = rate
    step, batches = Stepper(patient, case.reg), case.batches()
    costs, norms = np.full(steps, math.inf), []
    done = 0
    while done < steps:
        for x, y in batches:
            costs[done], norm = step(Tensor(x), y)
            norms.append(norm)
            done += 1
            if _explodes(costs[:done], limit):
                costs[done:] = math.inf
                return Trial(costs, True, {})
            if done == steps:
                break
    return Trial(costs, False, _ratios(patient.optimizer, norms[steps // 2 :]))


def _explodes(costs: np.ndarray[Any, Any], limit: float) -> bool:
    last = costs[-WINDOW:].tolist()
    return not last[-1] <= BLAST * limit or (len(last) == WINDOW and sorted(last)[WINDOW // 2] > limit)


def _ratios(optimizer: Optimizer, norms: list[Any]) -> dict[str, float]:
    """The median ratio over some steps, of each weight that is not all zero."""
    if any(norm is None for norm in norms):
        return {}
    middle = np.median([np.sqrt(norm[:, 1] / np.where(norm[:, 0] > 0, norm[:, 0], np.inf)) for norm in norms], axis=0)
    named = zip(optimizer.flat.names, optimizer.flat.parameters, middle.tolist(), strict=True)
    return {name: ratio for name, p, ratio in named if p.regularized and p.requires_grad and ratio > 0}


def _fall(trial: Trial, still: Trial) -> tuple[float, float]:
    """How far the cost fell below that of the same minibatches without training, and the standard error of that."""
    if trial.exploded:
        return -math.inf, 0.0
    part = len(still.costs) // 4
    fall = (still.costs - trial.costs)[-part:]
    return float(fall.mean()), float(fall.std() / math.sqrt(part))


def _is_bottom(trial: Trial, trials: Iterable[Trial], still: Trial) -> bool:
    """Whether the cost barely moves because the rate is low: at one that is far too high, it may not move either."""
    best = max(trials, key=lambda each: _fall(each, still)[0])
    fall = _fall(best, still)[0]
    return not _moves(trial, still, fall) and fall > 0 and _moves(best, still, fall)


def _moves(trial: Trial, still: Trial, best: float) -> bool:
    """Whether the cost moves, up or down, by more than a small part of the best, and by more than noise."""
    fall, error = _fall(trial, still)
    return abs(fall) > max(MOVES * best, NOISE * error, ROUNDING * float(still.costs.mean()))


def _range(trials: Mapping[float, Trial], still: Trial) -> RateRange:
    rates, initial = list(trials), float(still.costs.mean())
    falls = [_fall(trial, still)[0] for trial in trials.values()]
    moving = [_moves(trial, still, max(falls)) for trial in trials.values()]
    first = _begins(moving, len(rates))
    last = _begins([trial.exploded for trial in trials.values()], len(rates) - 1)
    inside = [i for i in range(first, last) if falls[i] > 0 and moving[i]]
    good = [i for i in inside if falls[i] >= GOOD * max(falls[j] for j in inside)]
    suggestion = min((rates[i] for i in good), key=lambda rate: _strangeness(trials[rate].ratios), default=None)
    return RateRange(
        rates=tuple(rates),
        costs=tuple(initial - fall for fall in falls),
        initial=initial,
        low=rates[max(0, first - 1)],
        high=rates[last],
        suggestion=suggestion,
        ratios={} if suggestion is None else trials[suggestion].ratios,
    )


def _begins(flags: Sequence[bool], otherwise: int) -> int:
    """Where the flags begin to be set: a single one between others that are not is noise."""
    pairs = zip(flags, [*flags[1:], True], strict=True)
    return next((i for i, (here, behind) in enumerate(pairs) if here and behind), otherwise)


def _strangeness(ratios: Mapping[str, float]) -> tuple[int, float]:
    """How many tensors are outside the wanted range, and how far they all are from its middle."""
    outside = sum(not RATIO_LOW <= ratio <= RATIO_HIGH for ratio in ratios.values())
    return outside, sum(abs(math.log10(ratio / WANTED_RATIO)) for ratio in ratios.values())
