"""What a picture shows, in numbers: its text alternative, and all there is where no picture can be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_cr.plots.ratios import BAND, PREFIX
from tinygrad_cr.plots.timeline import Timeline
from tinygrad_cr.report.figures import count, finite, fraction, listed, number
from tinygrad_cr.train import Event, History

NAMED = 6
"""So many things are named in a sentence."""

Array = np.ndarray[Any, Any]


def curves(history: History, key: str) -> str:
    """Of `plots.curves`.

    >>> curves(History([{"epoch": 1, "loss": 2.3, "val_loss": 1.9}, {"epoch": 2, "loss": 1.1}]), "loss")
    'Training loss falls from 2.3 in epoch 1 to 1.1 in epoch 2. Validation loss is 1.9 in epoch 1.'
    """
    timeline = Timeline(history)
    parts = []
    for who, name in (("Training", key), ("Validation", f"val_{key}")):
        x, y = timeline.series(name)
        parts.append(f"{who} {key} {course(x, y, key)}." if x else "")
    sentences = [part for part in parts if part] or [f"No {key} was recorded."]
    if history.events:
        sentences.append(f"Marked: {events(history.events)}.")
    return " ".join(sentences)


def course(x: Sequence[float], y: Sequence[float], key: str) -> str:
    """How a curve runs, and where it is best if that is at neither end.

    >>> course([1, 2, 3], [0.5, 0.9, 0.8], "accuracy")
    'rises from 0.5000 in epoch 1 to 0.8000 in epoch 3 (highest 0.9000 in epoch 2)'
    """
    accuracy = key.endswith("accuracy")
    text = fraction if accuracy else number
    if len(y) == 1:
        return f"is {text(y[0])} in epoch {x[0]:.4g}"
    how = "rises" if y[-1] > y[0] else "falls" if y[-1] < y[0] else "goes"
    best = int(np.argmax(y) if accuracy else np.argmin(y))
    extreme = f" ({'highest' if accuracy else 'lowest'} {text(y[best])} in epoch {x[best]:.4g})"
    ends = f"{how} from {text(y[0])} in epoch {x[0]:.4g} to {text(y[-1])} in epoch {x[-1]:.4g}"
    return ends + (extreme if y[best] not in (y[0], y[-1]) else "")


def events(found: Sequence[Event]) -> str:
    """Kinds of events, and when they were first seen."""
    first: dict[str, int] = {}
    for event in found:
        first.setdefault(event.kind.replace("_", " "), event.epoch)
    names = [f"{kind} in epoch {epoch}" for kind, epoch in first.items()]
    return listed(_few(names))


def rates(found: Mapping[str, Any]) -> str:
    """Of `plots.learning_rate_range`."""
    tried, initial = found["rates"], found["initial"]
    ends = f"from {number(tried[0], 3)} to {number(tried[-1], 3)}"
    text = f"Cost at {count(len(tried), 'learning rate')} {ends}; it starts at {number(initial)}."
    low, high, best = (found.get(name) for name in ("low", "high", "suggestion"))
    text += f" Below {number(low, 3)} it barely moves." if finite(low) else " None is too low."
    text += f" From {number(high, 3)} on it explodes." if finite(high) else " None is too high."
    return text + (f" Suggested: {number(best, 3)}." if finite(best) else " No rate is suggested.")


def ratios(history: History) -> str:
    """Of `plots.update_ratios`."""
    last = {key: row[key] for row in history for key in row if key.startswith(PREFIX) and finite(row[key])}
    if not last:
        return "No update ratio was recorded."
    inside = sum(BAND[0] <= ratio <= BAND[1] for ratio in last.values())
    names = [f"{name.removeprefix(PREFIX)} {number(ratio, 2)}" for name, ratio in last.items()]
    where = f"between {BAND[0]:g} and {BAND[1]:g}"
    return f"The last ratios of {inside} of {count(len(last), 'tensor')} lie {where}: {listed(_few(names))}."


def distributions(records: Sequence[Mapping[str, Any]]) -> str:
    """Of `plots.histograms`, for the records of one layer or parameter."""
    first, last = records[0], records[-1]
    texts = [
        f"in epoch {record['epoch']} from {number(record['low'], 3)} to {number(record['high'], 3)}, "
        f"standard deviation {number(_spread(record), 3)}, {100 * record['zeros']:.0f} % zeros"
        for record in (first, last)
    ]
    return f"Values {'; '.join(texts[: 1 if first is last else 2])}."


def weights(values: Array, image_shape: Sequence[int], limit: int) -> str:
    """Of `plots.first_layer_weights`."""
    units = values.shape[1]
    shown = f"{limit} of {units} units" if units > limit else count(units, "unit")
    return (
        f"First-layer weights of {shown} as images of {' × '.join(map(str, image_shape))}: "
        f"from {number(float(values.min()), 2)} to {number(float(values.max()), 2)}, "
        f"standard deviation {number(float(values.std()), 2)}."
    )


def confusions(labels: Array, predicted: Array, names: Sequence[str]) -> str:
    """Of `plots.confusion_matrix`.

    >>> confusions(np.array([0, 0, 1]), np.array([1, 0, 1]), ["cat", "dog"])
    '2 of 3 rows are right. The most frequent mistakes: cat taken for dog (1 time).'
    """
    wrong = labels != predicted
    text = f"{int((~wrong).sum()):,} of {count(len(labels), 'row')} are right."
    if not wrong.any():
        return text
    pairs, many = np.unique(np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-many, kind="stable")[:4]
    worst = [f"{names[pairs[0, i]]} taken for {names[pairs[1, i]]} ({count(int(many[i]), 'time')})" for i in order]
    return f"{text} The most frequent mistakes: {listed(worst)}."


def mistakes(labels: Array, probabilities: Array, names: Sequence[str], limit: int) -> str:
    """Of `plots.worst_mistakes`."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        return f"There are no mistakes: all {count(len(labels), 'row')} are right."
    worst = wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")][:limit]
    texts = [
        f"{names[labels[i]]} taken for {names[predicted[i]]} ({probabilities[i, predicted[i]]:.2f})" for i in worst
    ]
    return f"The worst {len(worst)} of {count(len(wrong), 'mistake')}: {', '.join(texts)}."


def overlay(histories: Mapping[str, History], key: str) -> str:
    """Of the curves of several runs in one picture."""
    texts = []
    for name, history in histories.items():
        timeline = Timeline(history)
        which = f"val_{key}" if timeline.series(f"val_{key}")[0] else key
        x, y = timeline.series(which)
        part = "validation" if which.startswith("val_") else "training"
        texts.append(f"{name}: {part} {key} {course(x, y, key)}." if x else f"{name}: no {key} was recorded.")
    return " ".join(texts)


def _spread(record: Mapping[str, Any]) -> float:
    """The standard deviation of a histogram, taking the values of a bin for its middle."""
    counts = np.array(record["counts"], np.float64)
    edges = np.linspace(record["low"], record["high"], len(counts) + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    mean = np.average(middles, weights=counts)
    return float(np.sqrt(np.average((middles - mean) ** 2, weights=counts)))


def _few(names: list[str]) -> list[str]:
    return names if len(names) <= NAMED else [*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"]
