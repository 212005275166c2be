"""How good ensembles of 1, 2, 3 ... of the same members are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, ShapeError, unknown_name
from tinygrad_cr.options import integer
from tinygrad_cr.plots.canvas import BLUE, GREY, VERMILLION, canvas, list_below, name_axes, small

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {"accuracy": "accuracy (fraction right)", "log_loss": "log-loss (nats)"}

SUBSETS = 30
"""Of more subsets of one size, so many are drawn at random."""

SMALLEST = 1e-300
"""A probability of exactly 0 counts as this in the log-loss, which would otherwise be infinite."""

Array = np.ndarray[Any, Any]


def subset_rows(probabilities: Any, labels: Any, *, subsets: int = SUBSETS, generator: int = 0) -> list[dict[str, Any]]:
    """What ensembles of some of these members come to: the mean of their probabilities, against the labels.

    Args:
        probabilities: [members, n, classes], of each member for each row.
        labels: [n] class numbers.
        subsets: at most so many of each size; of more, so many different ones are drawn.
        generator: seed of the draws.

    Returns:
        A dict for each subset: "members" (how many), "accuracy" and "log_loss" (nats).

    Raises:
        ShapeError: shapes that do not fit together.
        DataError: no members or no rows, or labels outside the classes.

    >>> rows = subset_rows([[[0.9, 0.1]], [[0.4, 0.6]]], [0])
    >>> [(row["members"], row["accuracy"]) for row in rows]
    [(1, 1.0), (1, 0.0), (2, 1.0)]
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 3 or y.shape != p.shape[1:2]:
        raise ShapeError(f"wanted probabilities [members, n, classes] and labels [n], got {p.shape} and {y.shape}")
    if not p.size:
        raise DataError(f"there is nothing to average in probabilities of shape {p.shape}")
    if y.dtype.kind not in "bui" or y.min() < 0 or y.max() >= p.shape[2]:
        raise DataError(f"labels must be class numbers from 0 to {p.shape[2] - 1}, one a row of the probabilities")
    rng = np.random.default_rng(generator)
    rows = []
    for size in range(1, len(p) + 1):
        for chosen in _some(len(p), size, integer("subsets", subsets, least=1), rng):
            mean = p[chosen].mean(axis=0)
            right = float((mean.argmax(axis=1) == y).mean())
            loss = float(-np.log(np.maximum(mean[np.arange(len(y)), y], SMALLEST)).mean())
            rows.append({"members": size, "accuracy": right, "log_loss": loss})
    return rows


def _some(many: int, size: int, limit: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Different subsets of one size: all of them, or so many as the limit allows."""
    if size == 1:
        # Each single model counts, however many there are.
        yield from ([i] for i in range(many))
    elif math.comb(many, size) <= limit:
        yield from map(list, itertools.combinations(range(many), size))
    else:
        seen: set[tuple[int, ...]] = set()
        while len(seen) < limit:
            drawn = tuple(sorted(rng.choice(many, size, replace=False).tolist()))
            if drawn not in seen:
                seen.add(drawn)
                yield list(drawn)


def ensemble_sizes(rows: Sequence[Mapping[str, Any]], key: str = "accuracy", *, ax: Axes | None = None) -> Axes:
    """Accuracy or log-loss over the number of members: mean over ensembles of that size, and all of them as dots.

    A dashed line marks the mean of the single members. The first few members gain most; where the line is flat, more of
    them only cost time.

    Args:
        rows: a dict for each ensemble, with "members" and the key, as `subset_rows` gives them.
        key: "accuracy" or "log_loss".
        ax: where to draw.

    Raises:
        OptionError: another key.
        DataError: no rows, or rows without the key.
        ExtraError: matplotlib is not installed.

    >>> ax = ensemble_sizes([{"members": 1, "accuracy": 0.8}, {"members": 2, "accuracy": 0.9}])
    >>> ax.lines[0].get_ydata().tolist()
    [0.8, 0.9]
    """
    if key not in LABELS:
        raise unknown_name("measure of an ensemble", key, LABELS)
    found = _by_size(rows, key)
    sizes = sorted(found)
    means = np.array([np.mean(found[size]) for size in sizes])
    spread = np.array([np.std(found[size]) for size in sizes])
    grow, ax = ax is None, canvas(ax)
    size = small(ax)
    handles: list[Any] = []
    handles += ax.plot(sizes, means, "o-", color=BLUE, markersize=size / 2, zorder=4, label="mean of its size")
    dots = np.array([(many, value) for many in sizes for value in found[many]])
    handles.append(
        ax.scatter(
            dots[:, 0],
            dots[:, 1],
            s=(size / 3) ** 2,
            color=GREY,
            alpha=0.5,
            linewidths=0,
            zorder=2,
            label="an ensemble",
        )
    )
    if len(sizes) > 1:
        handles.append(
            ax.fill_between(
                sizes, means - spread, means + spread, color=BLUE, alpha=0.15, linewidth=0, label="± standard deviation"
            )
        )
    if 1 in found:
        name = f"single members, mean {means[0]:.4f}"
        handles.append(ax.axhline(means[0], color=VERMILLION, linestyle="--", linewidth=1.2, zorder=1, label=name))
    from matplotlib.ticker import MaxNLocator

    margin = 0.05 * (sizes[-1] - sizes[0]) or 0.5
    ax.set_xlim(sizes[0] - margin, sizes[-1] + margin)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(axis="y", color="0.9", zorder=0)
    name_axes(ax, "members", LABELS[key])
    list_below(ax, handles, [str(handle.get_label()) for handle in handles], grow=grow)
    return ax


def _by_size(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping) or not {"members", key} <= row.keys():
            raise DataError(f"row {i} is no ensemble: it wants members and {key}, got {row!r:.80}")
        found.setdefault(int(row["members"]), []).append(float(row[key]))
    if not found:
        raise DataError("there are no ensembles to draw: subset_rows makes rows out of probabilities")
    return found
