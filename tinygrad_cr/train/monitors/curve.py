"""`Curve`: the cost from the first step to now, in few numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

BINS = 64


class Curve:
    """At most 64 means over equal stretches of steps; when they are full, neighbours are merged.

    Attributes:
        count: steps so far.
        width: steps in a stretch, a power of 2.
        means: [at most 64] the mean cost of each full stretch.

    >>> curve = Curve()
    >>> curve.add([4.0] * 64 + [2.0] * 36)
    >>> curve.width, len(curve.means), curve.mean(0, 0.5), curve.mean(0.75, 1)
    (2, 50, 4.0, 2.0)
    """

    def __init__(self) -> None:
        self.count, self.width = 0, 1
        self.means: list[float] = []
        self._open, self._changes, self._last = 0.0, 0.0, 0.0

    def add(self, costs: Sequence[float]) -> None:
        """The costs of the next steps."""
        for cost in costs:
            if self.count:
                self._changes += (cost - self._last) ** 2
            self._last = cost
            self._open += cost
            self.count += 1
            if self.count % self.width == 0:
                self.means.append(self._open / self.width)
                self._open = 0.0
                if len(self.means) == BINS:
                    self.means = [(a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2], strict=True)]
                    self.width *= 2

    def mean(self, begin: float, end: float) -> float:
        """Mean cost from one fraction of the steps to another."""
        chosen = self.means[int(begin * len(self.means)) : max(1, int(end * len(self.means)))]
        return sum(chosen) / len(chosen)

    def uncertainty(self, fraction: float) -> float:
        """Standard error of the difference between two means, each over this fraction of the steps.

        The noise of minibatches is measured by how costs change from one step to the next, which a trend hardly
        moves: half the mean square of these changes is the variance of one cost (von Neumann 1941).
        """
        variance = self._changes / 2 / max(1, self.count - 1)
        return math.sqrt(2 * variance / max(1.0, fraction * self.count))

    def flat_steps(self, level: float) -> int:
        """Steps until the cost first falls below this level; all of them if it never does."""
        first = next((i for i, mean in enumerate(self.means) if mean < level), len(self.means))
        return first * self.width

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {**vars(self), "means": list(self.means)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        vars(self).update(state, means=list(state["means"]))
