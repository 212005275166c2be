"""Rates that rise before they fall: Smith's triangles, and his one cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinygrad_cr.errors import OptionError, unknown_name
from tinygrad_cr.options import integer, number
from tinygrad_cr.schedules.annealing import half_cosine
from tinygrad_cr.schedules.formula import Formula, Rate, between, factor, low_and_high, rate

MODES = ("triangular", "triangular2", "exp_range")
ANNEALS = ("cos", "linear")


@dataclass(frozen=True, eq=False, repr=False)
class cyclic(Formula):
    """Triangles from low up to lr and back, one after the other (Smith 2017, "Cyclical learning rates").

    Args:
        lr: the peak; a number or [M].
        up: steps from low to the peak.
        down: steps from the peak to low; as many as up if left out.
        low: where a cycle begins and ends; a number or [M].
        mode: "triangular", whose peaks are all alike; "triangular2", each half as high above low as the one before;
            or "exp_range": the height above low shrinks with gamma ** step.
        gamma: of "exp_range": factor for each step, in (0, 1].

    Raises:
        OptionError: up or down below 1, low above lr, an unknown mode, gamma outside (0, 1] or without "exp_range",
            rates that are negative, or vectors of different lengths.

    >>> schedule = cyclic(0.1, up=4, low=0.02)
    >>> [round(schedule(step), 9) for step in range(9)]
    [0.02, 0.04, 0.06, 0.08, 0.1, 0.08, 0.06, 0.04, 0.02]
    """

    lr: Rate
    up: int
    down: int | None = None
    low: Rate = 0.0
    mode: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("mode", self.mode, MODES)
        gamma = factor("gamma", number("gamma", self.gamma))
        if gamma != 1 and self.mode != "exp_range":
            raise OptionError(f'gamma belongs to mode "exp_range", got gamma {gamma!r} with mode {self.mode!r}')
        self._hold(
            **low_and_high(self.low, self.lr),
            up=integer("up", self.up, least=1),
            down=None if self.down is None else integer("down", self.down, least=1),
            gamma=gamma,
        )

    @property
    def length(self) -> int:
        """Steps in a cycle."""
        return self.up + (self.down or self.up)

    def __call__(self, step: int) -> Any:
        cycle, at = divmod(step, self.length)
        height = at / self.up if at <= self.up else (self.length - at) / (self.down or self.up)
        if self.mode == "triangular2":
            height *= 0.5**cycle
        elif self.mode == "exp_range":
            height *= self.gamma**step
        return between(self.low, self.lr, height)

    def minima(self, steps: int) -> list[int]:
        """The steps that end a cycle, with rate low: each is also the first of the next.

        A run that is over when a cycle is has no such step after it; there the last step stands for it.

        >>> cyclic(0.1, up=5).minima(30)
        [10, 20, 29]
        """
        steps = integer("steps", steps)
        return [min(end, steps - 1) for end in range(self.length, steps + 1, self.length)]


@dataclass(frozen=True, eq=False, repr=False)
class one_cycle(Formula):
    """Up from ``lr / div`` to lr, then down to ``lr / div / final_div``: one cycle a run (Smith and Topin 2018).

    From `steps` on the rate stays where it ended.

    Args:
        lr: the peak; a number or [M].
        steps: of the whole run.
        rise: the fraction of the steps that lead up to the peak.
        div: the peak over the rate at the start.
        final_div: the rate at the start over the rate at the end.
        anneal: both ways follow half a cosine ("cos") or a straight line ("linear").
        three_phase: come down to ``lr / div`` first, in as many steps as went up, and from there to the end: the form
            of the paper. Otherwise one way leads down.

    The peak is at step ``rise * steps - 1``, which need not be a whole number, as in PyTorch, where rise is called
    `pct_start`.

    Raises:
        OptionError: steps below 1, rise outside [0, 1] or above 0.5 in three phases, div or final_div below 1, an
            unknown anneal, or lr negative.

    >>> schedule = one_cycle(1.0, steps=100, anneal="linear")
    >>> schedule(0), schedule(29), round(schedule(99), 9)
    (0.04, 1.0, 4e-06)
    """

    lr: Rate
    steps: int
    rise: float = 0.3
    div: float = 25.0
    final_div: float = 1e4
    anneal: str = "cos"
    three_phase: bool = False

    def __post_init__(self) -> None:
        if self.anneal not in ANNEALS:
            raise unknown_name("anneal", self.anneal, ANNEALS)
        rise = number("rise", self.rise)
        most = 0.5 if self.three_phase else 1
        if rise > most:
            phases = " in three phases, where as many steps lead down again" if self.three_phase else ""
            raise OptionError(f"rise is a fraction of the steps and must be in [0, {most}]{phases}; got {rise!r}")
        divs = {name: number(name, getattr(self, name)) for name in ("div", "final_div")}
        for name, value in divs.items():
            if value < 1:
                raise OptionError(f"{name} divides a rate into a lower one and must be at least 1, got {value!r}")
        self._hold(
            lr=rate("lr", self.lr),
            steps=integer("steps", self.steps, least=1),
            rise=rise,
            three_phase=bool(self.three_phase),
            **divs,
        )

    def __call__(self, step: int) -> Any:
        step = min(step, self.steps - 1)
        start = self.lr / self.div
        peak = self.rise * self.steps - 1
        if step <= peak:
            return self._way(start, self.lr, step, 0, peak)
        final = start / self.final_div
        if not self.three_phase:
            return self._way(self.lr, final, step, peak, self.steps - 1)
        foot = 2 * peak
        if step <= foot:
            return self._way(self.lr, start, step, peak, foot)
        return self._way(start, final, step, foot, self.steps - 1)

    def _way(self, a: Rate, b: Rate, step: int, begin: float, end: float) -> Any:
        """From rate a at step `begin` to b at `end`. A way of no length has been gone."""
        part = (step - begin) / (end - begin) if end > begin else 1.0
        return between(b, a, half_cosine(part)) if self.anneal == "cos" else between(a, b, part)
