"""The pictures of a search, each with what it shows in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tinygrad_cr import plots
from tinygrad_cr.errors import DataError
from tinygrad_cr.plots.scales import chosen, label
from tinygrad_cr.report.drawing import Omission, Picture
from tinygrad_cr.report.figures import count, finite, fraction, listed, number
from tinygrad_cr.search.importance import Importances, importance
from tinygrad_cr.search.result import SearchResult
from tinygrad_cr.search.spaces import LogUniform, describe
from tinygrad_cr.search.trial import ranked, scored

LANDSCAPE, COMPARED = "Trials", "Grid and random"
"""The headings that pictures stand under."""

TELLING = 0.05
"""A surface that predicts less than this of trials left out says nothing about what matters."""

Sides = tuple[SearchResult, SearchResult]
"""A grid search and a random search."""


def pictures(result: SearchResult, sides: Sides | None) -> Iterator[Picture | Omission]:
    """The trials, the importance of each hyperparameter and, of two searches, grid against random."""
    yield _landscape(result)
    yield _importance(result)
    if sides is not None:
        yield _compared(*sides)


def _landscape(result: SearchResult) -> Picture | Omission:
    names = chosen(result, [None, None])
    if not names:
        return Omission("the trials", "nothing was varied")
    axes = "learning rate and regularisation" if names == ["lr", "reg"] else listed(names)
    return Picture(
        LANDSCAPE,
        "the trials",
        partial(_draw_trials, result),
        landscape_text(result, names),
        f"The trials over {axes}: the lighter, the better; frames are the ranges of the stages. A best trial near the "
        "edge of a range means that better ones may lie outside.",
        height=4.6,
        # Shades mean something: they must not be turned over on a dark screen.
        image=True,
    )


def landscape_text(result: SearchResult, names: Sequence[str]) -> str:
    """What the scatter of trials shows, in words."""
    lost = len(result) - len(scored(result.rows))
    text = f"{count(len(result), 'trial')} over {listed(names)}"
    best = ranked(result.rows)[:1]
    if best:
        values = ", ".join(f"{name} {value_in_words(best[0].get(name))}" for name in names)
        text += f"; the best, with validation accuracy {fraction(best[0]['val_accuracy'])}, at {values}"
    text += f"; {lost} diverged." if lost else "; none diverged."
    for stage in result.stages:
        ranges = [f"{name} {range_in_words(stage.space[name])}" for name in names if name in stage.space]
        text += f" Stage {stage.number}: {', '.join(ranges)}." if ranges else ""
    return text


def _importance(result: SearchResult) -> Picture | Omission:
    try:
        # Of several stages the first has the widest ranges, in which it shows what matters.
        first = [row for row in result if row["stage"] == result[0]["stage"]]
        found = importance(first)
    except DataError as error:
        return Omission("importance of the hyperparameters", str(error))
    if found.explained < TELLING:
        reason = f"{len(first)} trials do not tell what matters (cross-validated R² {found.explained:.2f}): make more"
        return Omission("importance of the hyperparameters", reason)
    which = "" if len(first) == len(result) else " of the first stage"
    return Picture(
        LANDSCAPE,
        "importance of the hyperparameters",
        partial(_draw_importance, found),
        importance_text(found),
        f"The share of the differences in validation accuracy between the trials{which} that each hyperparameter "
        "explains, by itself (dark) and together with others (hatched); lines are 80 % intervals. A parameter without "
        "a bar may stay where it is.",
        height=2.4 + 0.3 * min(len(found), 10),
    )


def importance_text(found: Importances) -> str:
    """What the bars show, in words."""
    parts = [
        f"{each.name} {100 * each.total:.0f} % ({100 * each.low:.0f} to {100 * each.high:.0f} %)" for each in found
    ]
    return (
        f"Share of the variance of validation accuracy over {found.trials} trials: {listed(parts)}. "
        f"Cross-validated R² {found.explained:.2f}."
    )


def _compared(grid: SearchResult, random: SearchResult) -> Picture | Omission:
    sides = {"Grid": grid, "Random": random}
    if not all(each.rows for each in sides.values()):
        return Omission("grid and random search", "one of them has no trial yet")
    if not scored(grid.rows) and not scored(random.rows):
        return Omission("grid and random search", "all trials of both diverged")
    if len(chosen([*grid, *random], [None, None])) < 2:
        return Omission("grid and random search", "only one hyperparameter was varied")
    texts = [
        f"{name}: {count(len(result), 'trial')}"
        + (f", best {fraction(ranked(result.rows)[0]['val_accuracy'])}" if scored(result.rows) else ", all diverged")
        for name, result in sides.items()
    ]
    return Picture(
        COMPARED,
        "grid and random search",
        partial(_draw_compared, grid, random),
        f"{'. '.join(texts)}.",
        "Grid and random search. The strips show the validation accuracy over each parameter: a grid tries few values "
        "of the one that matters, random search as many as it has trials.",
        height=3.4,
        image=True,
        bare=True,
    )


def _draw_trials(result: SearchResult, ax: Any) -> Any:
    return plots.trials(result, ax=ax)


def _draw_importance(found: Importances, ax: Any) -> Any:
    return plots.importance(found, ax=ax)


def _draw_compared(grid: SearchResult, random: SearchResult, ax: Any) -> Any:
    return plots.grid_versus_random(grid, random, ax=ax)


def range_in_words(dimension: Any) -> str:
    """A range in few digits.

    >>> from tinygrad_cr.search.spaces import Choice
    >>> range_in_words(LogUniform(1e-6, 2.34567e-3)), range_in_words(Choice([50, 100])), range_in_words(0.9)
    ('1e-06 to 0.00235 (log)', 'one of 50, 100', '0.9')
    """
    if hasattr(dimension, "low"):
        log = " (log)" if isinstance(dimension, LogUniform) else ""
        return f"{number(dimension.low, 3)} to {number(dimension.high, 3)}{log}"
    return describe(dimension) if hasattr(dimension, "values") else value_in_words(dimension)


def value_in_words(value: Any) -> str:
    """A hyperparameter as people write it.

    >>> value_in_words(0.00123456), value_in_words([100, 50]), value_in_words("adam"), value_in_words(None)
    ('0.001235', '100-50', 'adam', '–')
    """
    if value is None:
        return "–"
    return number(value) if finite(value) else label(value)
