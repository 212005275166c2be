"""Whether the steps have the right size: a cost that does not move, a flat start, and updates against parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import numpy as np

from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.callbacks import Setup, Steps
from tinygrad_cr.train.evaluate import evaluation
from tinygrad_cr.train.history import Event, History, Row
from tinygrad_cr.train.monitors.curve import Curve
from tinygrad_cr.train.monitors.monitor import Monitor, ran_to_its_end, rows_to_look_with
from tinygrad_cr.train.monitors.penalty import SHARE, penalty_share

LEAST_STEPS = 50
"""Fewer steps say little, whatever an epoch is: with full batches it is a single one."""

BARELY = 0.1
"""A cost that fell by less than this part, with the noise of minibatches counted against it, has barely changed."""

FELL = 0.2
"""A cost that fell by this part is on its way; then the shape of the curve so far is judged, once."""

FLAT_STEPS = 25
"""A shorter flat start is nothing to worry about: the lecture's run on 20 images begins with 8 flat steps."""

FLAT_PART = 1 / 3
"""The start was flat if for this part of the steps the cost had not made a tenth of the way that it has come."""

FAINT = 0.05
"""Logits that differ by less than this from row to row say nothing: freshly drawn by "he", they differ by about 1."""

LOW, WANTED, HIGH = 1e-4, 1e-3, 1e-2
"""Norm of an update over the norm of its parameter: outside the outer two something is wrong (CS231n)."""

SANE_LR = 1.0
"""Where weights would change by 1 % in a step only at a higher rate than this, the rate is not to blame."""

OBSERVATIONS = 5
"""A median of fewer ratios says little; the first costs are averaged over so many steps as well."""

AGAIN = 20
"""An open question is asked again when the run is longer by one part in so many."""

LEARNED = 0.1
"""Below this part of the original cost gradients vanish, and low ratios with them."""


class Pace(Monitor):
    """Tells of a cost that barely moves ("slow"), a flat start ("plateau"), and bad update ratios ("update_ratio").

    All three are about the size of steps and share their measurements. After "slow" or "plateau" there is
    silence: bad ratios would be the same finding again. A ratio is told once for each weight, biases have none.
    """

    memory = (
        *("first", "best_lr", "slow", "plateau", "shape_due", "progress_due", "ended"),
        *("window", "ratios", "last_ratios", "told", "drowned"),
    )

    def start(self, setup: Setup) -> None:
        """Nothing seen yet."""
        self.setup = setup
        self.uniform = math.log(max(2, setup.classes))
        self.rows: Tensor | None = None
        frozen = {name for name, p in setup.model.named_parameters() if not p.requires_grad}
        self.weights = [(i, name) for i, name in enumerate(setup.names) if setup.regularized[i] and name not in frozen]
        total = setup.epochs * setup.steps_per_epoch
        self.flat_enough = max(FLAT_STEPS, min(setup.steps_per_epoch, total // 50))
        # Weights that a penalty shrinks to nothing have bad ratios and a flat cost, and `Penalty` tells why.
        self.drowned = penalty_share(setup) > SHARE
        self.curve = Curve()
        self.first = 0.0
        self.best_lr = 0.0
        # Each is an open question until it is answered with True or False.
        self.slow: bool | None = None
        self.plateau: bool | None = None
        self.shape_due, self.progress_due = LEAST_STEPS, max(LEAST_STEPS, setup.steps_per_epoch)
        self.window: list[float] = [0, 0.0]  # steps and the sum of their costs
        self.ratios: list[list[float]] = [[] for _ in self.weights]
        self.last_ratios: list[float] = []
        self.told: list[str] = []
        self.ended = 0

    def steps(self, seen: Steps) -> Iterable[Event]:
        """Measure; judge an epoch that has ended before these steps, and the shape of the curve."""
        if self.drowned or seen.norms is None or not math.isfinite(seen.costs[-1]):
            return
        if self.ended:
            # Only now: a run that was stopped at the end of its epoch, because its units are dead say, has its verdict.
            yield from self._epoch_ended(seen.epoch - 1, self.ended, seen.lr)
            self.ended = 0
        self.best_lr = max(self.best_lr, seen.lr)
        norms = seen.norms.tolist()
        self.last_ratios = [math.sqrt(norms[i][1] / norms[i][0]) if norms[i][0] else 0.0 for i, _ in self.weights]
        if seen.step > LEAST_STEPS:
            for ratios, ratio in zip(self.ratios, self.last_ratios, strict=True):
                ratios.append(ratio)
            self.window = [self.window[0] + len(seen.costs), self.window[1] + sum(seen.costs)]
        if self.slow is None or self.plateau is None:
            self.curve.add(seen.costs)
            if not self.first and self.curve.count >= OBSERVATIONS:
                self.first = sum(self.curve.means[:OBSERVATIONS]) / min(OBSERVATIONS, len(self.curve.means))
            if self.plateau is None and self.curve.count >= self.shape_due:
                self.shape_due = self.curve.count + self.curve.count // AGAIN
                yield from self._judge_shape(seen)

    def epoch(self, row: Row) -> Iterable[Event] | None:
        """Remember that an epoch has ended."""
        if row["step"] % self.setup.steps_per_epoch == 0:
            self.ended = row["step"]
        return None

    def stop(self, history: History) -> Iterable[Event]:
        """Judge the last epoch."""
        if self.ended and not self.drowned and ran_to_its_end(history):
            yield from self._epoch_ended(history[-1]["epoch"], self.ended, history[-1]["lr"])

    def _epoch_ended(self, epoch: int, step: int, lr: float) -> Iterable[Event]:
        if self.slow is None and self.curve.count >= self.progress_due:
            self.progress_due = self.curve.count + self.curve.count // AGAIN
            yield from self._judge_progress(epoch, step, lr)
        if self.slow is False and not self.plateau:
            yield from self._judge_ratios(epoch, step, lr)

    def _judge_shape(self, seen: Steps) -> Iterable[Event]:
        """Flat and then falling, or falling from the start."""
        curve = self.curve
        start = curve.mean(0, 1 / 8)
        fell = start - curve.mean(7 / 8, 1)
        if fell < FELL * start or fell < 8 * curve.uncertainty(1 / 8):
            return
        flat = curve.flat_steps(start - 0.1 * fell)
        self.plateau = flat >= max(self.flat_enough, FLAT_PART * curve.count)
        if self.plateau:
            yield Event(
                "warn",
                "plateau",
                seen.epoch,
                seen.step,
                float(flat),
                f"the cost was flat at {start:.4g} for {flat} steps and then fell to {curve.mean(7 / 8, 1):.4g} in "
                f"epoch {seen.epoch}: the initialisation is the prime suspect; init='he' suits ReLUs",
            )

    def _judge_progress(self, epoch: int, step: int, lr: float) -> Iterable[Event]:
        """Whether the cost has barely changed so far, and then why."""
        curve = self.curve
        early, late = curve.mean(0, 1 / 4), curve.mean(3 / 4, 1)
        noise = 2 * curve.uncertainty(1 / 4)
        untrained = self.first > 0.5 * self.uniform
        if not untrained or late < 0.8 * self.first or early - late >= BARELY * early:
            self.slow = False
            return
        if max(0.0, early - late) + noise >= BARELY * early:
            return
        zero = [name for (_, name), ratio in zip(self.weights, self.last_ratios, strict=True) if not ratio]
        spread = self._spread_of_logits()
        moved = min((ratio for ratio in self.last_ratios if ratio), default=0.0)
        if spread >= FAINT and moved >= LOW and early - late > noise:
            return  # it falls, in steps of a sound size: there may be many of them to come
        factor = min(1e3, max(10.0, WANTED / moved)) if moved else 1e3
        what = f"the cost has barely changed, from {early:.4g} to {late:.4g} in the {step} steps up to epoch {epoch}"
        if lr == 0:
            kind, why = "slow", "the learning rate is 0"
        elif spread < FAINT and (zero or moved >= WANTED or lr * HIGH > SANE_LR * moved):
            kind = "plateau"
            why = f"logits differ by {spread:.1g} from row to row, the initialisation is the prime suspect"
            why += f" ({zero[0]} does not move at all)" if zero else ""
            why += "; init='he' suits ReLUs"
        elif moved >= WANTED:
            kind = "slow"
            why = (
                f"yet a step changes weights by {moved:.1g} of their size, so the learning rate, {lr:g}, is hardly too "
                "low: it may be too high, or the labels may have nothing to do with the inputs"
            )
        else:
            kind = "slow"
            why = f"the learning rate, {lr:g}, is probably too low; try {lr * factor:.1g}"
        self.slow, self.plateau = kind == "slow", kind == "plateau"
        yield Event("warn", kind, epoch, step, late, f"{what}: {why}")

    def _spread_of_logits(self) -> float:
        """Standard deviation of a logit over rows, mean over classes."""
        if self.rows is None:
            self.rows = rows_to_look_with(self.setup)
        with evaluation(self.setup.model):
            return float(self.setup.model(self.rows).numpy().astype(np.float64).std(axis=0).mean())

    def _judge_ratios(self, epoch: int, step: int, lr: float) -> Iterable[Event]:
        """The medians since the last judgement, where there are enough observations."""
        steps, total = self.window
        if steps < LEAST_STEPS or any(len(ratios) < OBSERVATIONS for ratios in self.ratios):
            return
        cost = total / steps
        for (_, name), ratios in zip(self.weights, self.ratios, strict=True):
            ratio = median(ratios)
            low = ratio < LOW and cost > LEARNED * max(self.first, self.uniform) and lr >= 0.5 * self.best_lr
            if (low or ratio > HIGH) and name not in self.told:
                self.told.append(name)
                factor = max(0.1, WANTED / ratio) if not low else min(10.0, WANTED / ratio) if ratio else 10.0
                yield Event(
                    "warn",
                    "update_ratio",
                    epoch,
                    step,
                    ratio,
                    f"a step changes {name} by {ratio:.1e} of its size in epoch {epoch}, wanted between {LOW:g} and "
                    f"{HIGH:g}: the learning rate, {lr:g}, is too {'low' if low else 'high'} for it; "
                    f"try {lr * factor:.1g}, or check its initialisation and its inputs",
                )
        self.ratios = [[] for _ in self.weights]
        self.window = [0, 0.0]

    def state_dict(self) -> dict[str, Any]:
        """What has been seen and told so far."""
        return super().state_dict() | {"curve": self.curve.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on watching."""
        super().load_state_dict(state)
        self.curve.load_state_dict(state["curve"])
