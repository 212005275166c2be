"""How activations and gradients were distributed as the epochs went by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, OptionError, unknown_name
from tinygrad_cr.plots.canvas import canvas, name_axes, plain, small
from tinygrad_cr.plots.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIDGES = 12
"""So many distributions one above the other stay apart."""

HEIGHT = 1.7
"""Of a ridge, in distances between ridges: they overlap a little, which shows more of each."""

TAIL = 0.001
"""The fraction of all values that may lie beyond either end of the picture: one outlier shall not set its scale."""

KINDS = {"activation": "activation (output of the layer)", "gradient": "gradient (nats per unit of weight)"}
KEYS = {"epoch", "step", "kind", "name", "low", "high", "counts", "zeros"}


def histograms(records: Sequence[Mapping[str, Any]], kind: str, name: str, *, ax: Axes | None = None) -> Axes:
    """The distributions of one layer's activations, or one weight's gradient, over at most 12 epochs.

    Time runs upward. Each ridge is as high as its own fullest bin, so that widths and shapes compare, not heights.
    Values that are exactly 0 are no part of it: their fraction stands at the right.

    Args:
        records: of `train.Histograms`, or of `read_run`.
        kind: "activation" or "gradient".
        name: of the layer, or of the parameter.
        ax: where to draw.

    Raises:
        OptionError: a kind or a name that these records lack.
        DataError: no records, or some that are none.
        ExtraError: matplotlib is not installed.

    >>> record = {"epoch": 1, "step": 9, "kind": "gradient", "name": "weight", "low": -1.0, "high": 1.0}
    >>> ax = histograms([record | {"counts": [1, 2, 1], "zeros": 0.0}], "gradient", "weight")
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['1']
    """
    found = _chosen(records, kind, name)
    timeline = Timeline(records)
    ax = canvas(ax)
    shown = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(RIDGES, len(found))).round().astype(int))]
    ridges = [_without_zeros(record) for record in shown]
    ends = [_ends(counts, edges) for counts, edges in ridges if counts.any()]
    low, high = min((e[0] for e in ends), default=-1.0), max((e[1] for e in ends), default=1.0)
    margin = 0.03 * (high - low) or abs(low) or 1.0
    ax.set_xlim(low - margin, high + margin)
    size = small(ax)
    for i, (counts, edges) in enumerate(ridges):
        heights = HEIGHT * counts / max(1, counts.max())
        ax.stairs(
            i + heights,
            edges,
            baseline=i,
            fill=True,
            facecolor="#A9CCE3",
            edgecolor="#0B2E4A",
            linewidth=0.7,
            zorder=3 + RIDGES - i,
        )
        ax.axhline(i, color="0.75", linewidth=0.6, zorder=2)
        ax.text(
            1.015,
            i,
            _percent(shown[i]["zeros"]),
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=size,
        )
    ax.text(1.015, 1.0, "zeros", transform=ax.transAxes, va="center", fontsize=size, style="italic")
    ax.set_yticks(range(len(shown)), [f"{round(timeline.at(r['epoch'], r['step']), 2):g}" for r in shown])
    ax.set_ylim(-0.3, len(shown) - 1 + HEIGHT + 0.4)
    name_axes(ax, KINDS[kind], "epoch")
    ax.set_title(plain(name, 40), fontsize="medium")
    return ax


def _chosen(records: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[Mapping[str, Any]]:
    if kind not in KINDS:
        raise unknown_name("kind of histogram", kind, KINDS)
    if not records:
        raise DataError("no histograms were recorded: train.Histograms, passed as a callback, records them")
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or not record.keys() >= KEYS:
            raise DataError(f"record {i} is no histogram: it wants {', '.join(sorted(KEYS))}, got {record!r:.80}")
    names = {record["name"] for record in records if record["kind"] == kind}
    if not names:
        raise OptionError(f"these records hold no {kind}s")
    if name not in names:
        raise unknown_name(kind, name, names)
    return [record for record in records if (record["kind"], record["name"]) == (kind, name)]


def _without_zeros(record: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Counts of the values that are not exactly 0, and the edges of their bins."""
    counts = np.array(record["counts"], np.float64)
    low, high, zeros = record["low"], record["high"], round(record["zeros"] * counts.sum())
    if low == high:
        # All values are the same one. A bin of no width would not be seen.
        width = abs(low) / len(counts) or 1.0
        return np.array([counts.sum() - zeros]), np.array([low - width / 2, low + width / 2])
    edges = np.linspace(low, high, len(counts) + 1)
    if zeros:
        bin = min(int(np.searchsorted(edges, 0.0, side="right")) - 1, len(counts) - 1)
        counts[bin] = max(0.0, counts[bin] - zeros)
    return counts, edges


def _ends(counts: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The range that holds all values but the tails."""
    share = np.cumsum(counts) / counts.sum()
    first, last = int(np.searchsorted(share, TAIL, side="right")), int(np.searchsorted(share, 1 - TAIL))
    return float(edges[first]), float(edges[min(last, len(counts) - 1) + 1])


def _percent(fraction: float) -> str:
    """A fraction in which "100 %" means all and "0 %" none.

    >>> _percent(0.9999), _percent(1.0), _percent(0.0004), _percent(0.0)
    ('>99 %', '100 %', '<1 %', '0 %')
    """
    if 0 < fraction < 0.005:
        return "<1 %"
    if 0.995 <= fraction < 1:
        return ">99 %"
    return f"{100 * fraction:.0f} %"
