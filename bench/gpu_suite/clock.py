"""How the seconds of a run are shared out among its phases."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Clock:
    """A budget; what a phase leaves unused, the later ones share.

    >>> clock = Clock(100.0, {"first": 3, "second": 1})
    >>> round(clock.begin("first")), round(clock.begin("second"))
    (75, 100)
    """

    def __init__(self, seconds: float, weights: Mapping[str, float]) -> None:
        self.start = time.monotonic()
        self.end = self.start + seconds
        self.deadline = self.end
        self._weights = dict(weights)

    def begin(self, phase: str) -> float:
        """A phase begins; it may last until `deadline`. The seconds that it has."""
        left = max(0.0, self.end - time.monotonic())
        share = self._weights.pop(phase)
        seconds = left * share / (share + sum(self._weights.values()))
        self.deadline = time.monotonic() + seconds
        return seconds

    @property
    def left(self) -> float:
        """Seconds until the phase must end; below 0 if it is late."""
        return self.deadline - time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.start
