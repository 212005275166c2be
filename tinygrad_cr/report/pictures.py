"""The pictures that a run's own records are enough for; those that need its network are in `network`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from tinygrad_cr import plots
from tinygrad_cr.report import alternatives
from tinygrad_cr.report.drawing import CURVES, LAYERS, NO_EPOCH, STEPS, Omission, Picture
from tinygrad_cr.report.figures import figures
from tinygrad_cr.report.verdict import checks
from tinygrad_cr.train import History, Record

ROWS = 1000
"""So many rows of a history are drawn; more would be closer together than the dots of a printer."""

MOST_LAYERS = 4
"""So many layers have their distributions drawn: the first, the last, and some between."""

HOW = {
    "activation": "Ridges that shrink to a line, or a share of zeros near 100 %, mean a layer that no longer learns",
    "gradient": "Much narrower ridges in the first layers than in the last mean that gradients vanish on the way",
}
"""How to read the distributions."""

LINE = 0.17
"""Inches: the height of a line below a picture."""


def from_records(record: Record) -> Iterator[Picture | Omission]:
    """Curves, learning-rate range, update ratios and distributions."""
    history = record.history
    if not len(history):
        yield from (Omission(name, NO_EPOCH) for name in ("curves", "update ratios", "distributions"))
        yield from _learning_rates(record)
        return
    drawn = thinned(history)
    kinds = len({event.kind for event in history.events})
    left_out = f" One row of {stride(history)} is drawn." if len(drawn) < len(history) else ""
    gap = "A gap that grows means overfitting; no gap at all, that a larger network could do better"
    validated = figures(history).best_accuracy is not None
    for key, caption in (
        ("loss", "Training loss is the mean cost of an epoch, penalty included and dropout on"),
        ("accuracy", gap if validated else "Without a validation part, nobody knows the gap"),
    ):
        yield Picture(
            CURVES,
            key,
            partial(_curves, drawn, key),
            alternatives.curves(history, key),
            f"{key.capitalize()} over epochs. {caption}.{left_out}",
            height=3.8 + LINE * (1 + -(-kinds // 2)),
        )
    yield from _learning_rates(record)
    tensors = sum(name.startswith("update_ratio.") for name in history[0])
    if tensors:
        yield Picture(
            STEPS,
            "update ratios",
            partial(_ratios, drawn),
            alternatives.ratios(history),
            "Norm of the last update over norm of the parameter. Far above the band the learning rate is too high for "
            "that tensor, far below it is too low.",
            height=3.8 + LINE * (1 + -(-min(tensors, 12) // 2)),
        )
    yield from _distributions(record.histograms)


def thinned(history: History) -> History:
    """At most so many rows as are drawn, evenly spaced; the last one is among them.

    >>> [row["epoch"] for row in thinned(History([{"epoch": i} for i in range(2500)]))[-2:]]
    [2496, 2499]
    """
    step = stride(history)
    return History(history.rows[(len(history) - 1) % step :: step], history.events)


def stride(history: History) -> int:
    """One row of so many is drawn."""
    return max(1, -(-len(history) // ROWS))


def _learning_rates(record: Record) -> Iterator[Picture]:
    wanted = ("rates", "costs", "initial", "low", "high", "suggestion")
    for check in checks(record):
        values = check.get("values")
        if isinstance(values, dict) and all(name in values for name in wanted) and values["rates"]:
            yield Picture(
                STEPS,
                "learning-rate range",
                partial(_rates, values),
                alternatives.rates(values),
                "Cost after a few steps at each learning rate, before training. Between the edges of the bracket the "
                "network learns and does not explode.",
            )


def _distributions(records: Sequence[dict[str, Any]]) -> Iterator[Picture | Omission]:
    """Activations of a layer beside the gradient of its weight, for some of the layers."""
    if not records:
        yield Omission("distributions of activations and gradients", "none were recorded")
        return
    found: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for record in records:
        kind, name = record["kind"], record["name"]
        layer = name if kind == "activation" else name.rpartition(".")[0]
        found.setdefault(layer, {}).setdefault((kind, name), []).append(record)
    layers = list(found)
    shown = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, MOST_LAYERS).round().astype(int))]
    for layer in shown:
        for (kind, name), chosen in found[layer].items():
            yield Picture(
                LAYERS,
                f"{kind}s of {name}",
                partial(_histograms, chosen, kind, name),
                f"Distribution of the {kind}s of {name}. {alternatives.distributions(chosen)}",
                f"{kind.capitalize()}s of {name}, epoch by epoch upward. {HOW[kind]}.",
            )
    if len(layers) > len(shown):
        yield Omission(f"distributions of {len(layers) - len(shown)} more layers", "the ones above stand for all")


def _curves(history: History, key: str, ax: Any) -> Any:
    return plots.curves(history, key, ax=ax)


def _ratios(history: History, ax: Any) -> Any:
    return plots.update_ratios(history, ax=ax)


def _rates(found: dict[str, Any], ax: Any) -> Any:
    return plots.learning_rate_range(found, ax=ax)


def _histograms(records: Sequence[dict[str, Any]], kind: str, name: str, ax: Any) -> Any:
    return plots.histograms(records, kind, name, ax=ax)
