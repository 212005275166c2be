"""The cost of single minibatches: infinite, exploding, or out of line for a moment."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tinygrad_cr.train.callbacks import Setup, Steps
from tinygrad_cr.train.history import Event, History, Row
from tinygrad_cr.train.monitors.monitor import Monitor, ran_to_its_end

TIMES_ORIGINAL = 3.0
"""The lecture's bound: stop when the cost exceeds so many times the original one."""

LAST = 5
MANY = 3
"""So many of the last five costs have to exceed it: a noisy minibatch or two do not."""


def divergence_message(what: str, lr: float, step: int) -> str:
    """Why a cost is not finite, and what to do.

    >>> divergence_message("the cost became inf in epoch 1, step 3", 10.0, 3)
    'the cost became inf in epoch 1, step 3: this almost always means that the learning rate, 10, is too high; try 1'
    """
    if step <= 1 and what.startswith("the cost became"):
        return f"{what}, before any update: weights or inputs hold NaN, inf or very large numbers; ask the doctor"
    return f"{what}: this almost always means that the learning rate, {lr:g}, is too high; try {lr / 10:g}"


class Divergence(Monitor):
    """Ends a run whose cost is NaN or infinite ("divergence"), or mostly above 3 times the original ("explosion").

    The original cost is that of the first step, or ln C if that is more: a network that was trained before starts
    with a small one.

    >>> watch = Divergence()
    >>> watch.original, watch.recent = 2.3, []
    >>> [event.kind for event in watch.steps(Steps(1, 6, [2.3, 9.0, 2.2, 9.0, 9.5, 9.9], 1.0, None))]
    ['explosion']
    """

    memory = ("original", "recent")

    def start(self, setup: Setup) -> None:
        """Nothing seen yet."""
        self.uniform = math.log(max(2, setup.classes))
        self.original: float | None = None
        self.recent: list[float] = []
        self.lr = 0.0

    def steps(self, seen: Steps) -> Iterable[Event]:
        """Look at every cost."""
        costs = seen.costs
        self.lr = seen.lr
        lost = next((i for i, cost in enumerate(costs) if not math.isfinite(cost)), None)
        if lost is not None:
            step = seen.step - len(costs) + 1 + lost
            yield self._lost(f"the cost became {costs[lost]} in epoch {seen.epoch}, step {step}", seen.epoch, step)
            return
        if self.original is None:
            self.original = max(costs[0], self.uniform)
        limit = TIMES_ORIGINAL * self.original
        window = [*self.recent, *costs]
        self.recent = window[1 - LAST :]
        if max(costs) <= limit:
            return
        for end in range(1, len(window) + 1):
            over = sorted(cost for cost in window[max(0, end - LAST) : end] if cost > limit)
            if len(over) >= MANY:
                step = seen.step - len(window) + end
                yield Event(
                    "fail",
                    "explosion",
                    seen.epoch,
                    step,
                    over[0],
                    f"the cost rose to {over[0]:.4g} in epoch {seen.epoch}, step {step}, more than "
                    f"{TIMES_ORIGINAL:g} times the original {self.original:.4g}: the learning rate, {seen.lr:g}, "
                    f"is too high; try {seen.lr / 10:g}",
                    stop=True,
                )
                return

    def epoch(self, row: Row) -> Iterable[Event]:
        """A network may be lost in the last update of an epoch, and then only its evaluation shows it."""
        for key, name in (("loss", "cost"), ("val_loss", "validation loss")):
            if row[key] is not None and not math.isfinite(row[key]):
                what = f"the {name} was {row[key]} after epoch {row['epoch']}, step {row['step']}"
                yield self._lost(what, row["epoch"], row["step"], row["lr"])
                return

    def _lost(self, what: str, epoch: int, step: int, lr: float | None = None) -> Event:
        message = divergence_message(what, self.lr if lr is None else lr, step)
        # No value: neither JSON nor a comparison of two runs can do with NaN, and the message has it.
        return Event("fail", "divergence", epoch, step, None, message, stop=True)


Z = 6.0
"""Healthy runs of 10,000 steps stay below 5, see docs/monitors.md."""

JUMP = 0.25
"""A spike is higher than usual by this part of the original cost: late in training, costs jump without meaning."""

RECORD = 1.5
"""And its z-score is so many times the highest before it: single rows, as minibatches, often cost a lot."""

MEMORY = 50
"""Mean and spread are those of about so many costs, and of at least so many before anything is said."""


class LossSpike(Monitor):
    """Tells of one minibatch whose cost is out of line with those before it ("loss_spike").

    The z-score is that of log(cost + 1 % of the original cost) against an exponentially weighted mean and standard
    deviation: a cost halves and doubles rather than it adds, and what is nearly 0 has no meaningful logarithm. The
    spike is told 5 steps later, unless the cost has exploded by then.

    >>> watch = LossSpike()
    >>> watch.start(Setup(*[None] * 6, 10, 1, 100))
    >>> costs = [0.5 + 0.1 * (i % 2) for i in range(90)]
    >>> [(event.step, event.value > 6) for event in watch.steps(Steps(1, 100, [*costs, 8.0, *costs[:9]], 0.1, None))]
    [(91, True)]
    """

    memory = ("original", "count", "mean", "variance", "record", "spike", "after", "told")

    def start(self, setup: Setup) -> None:
        """Nothing seen yet."""
        self.uniform = math.log(max(2, setup.classes))
        self.original: float | None = None
        self.count, self.mean, self.variance, self.record = 0, 0.0, 0.0, 0.0
        self.spike: dict[str, Any] | None = None
        self.after: list[float] = []
        self.told = False

    def steps(self, seen: Steps) -> Iterable[Event]:
        """Look at every cost."""
        if self.told:
            return
        if self.original is None:
            self.original = max(seen.costs[0], self.uniform)
        for i, cost in enumerate(seen.costs):
            if not math.isfinite(cost):
                self.spike, self.told = None, True
                return
            if self.spike is not None:
                self.after.append(cost)
                if len(self.after) < LAST:
                    continue
                if sorted(self.after)[LAST // 2] <= TIMES_ORIGINAL * self.original:
                    yield self._event(self.spike)
                self.spike, self.told = None, True
                return
            level = math.log(max(cost, 0.0) + 0.01 * self.original)
            if self.count >= MEMORY:
                z = (level - self.mean) / math.sqrt(self.variance + 1e-4)
                usual = math.exp(self.mean) - 0.01 * self.original
                if z > max(Z, RECORD * self.record) and cost - usual > JUMP * self.original:
                    step = seen.step - len(seen.costs) + 1 + i
                    self.spike = {"epoch": seen.epoch, "step": step, "cost": cost, "usual": usual, "z": z}
                    continue
                self.record = max(self.record, z)
            self.count += 1
            rate = 1 / min(self.count, MEMORY)
            away = level - self.mean
            self.mean += rate * away
            self.variance = (1 - rate) * (self.variance + rate * away * away)

    def stop(self, history: History) -> Iterable[Event]:
        """A spike in the last steps."""
        if self.spike is not None and ran_to_its_end(history):
            yield self._event(self.spike)

    def _event(self, spike: dict[str, Any]) -> Event:
        return Event(
            "warn",
            "loss_spike",
            spike["epoch"],
            spike["step"],
            spike["z"],
            f"the cost jumped to {spike['cost']:.4g} in epoch {spike['epoch']}, step {spike['step']}, from a usual "
            f"{spike['usual']:.4g} (z-score {spike['z']:.1f}): look for corrupt rows or wrong labels; "
            "clip_norm limits what one minibatch can do",
        )
