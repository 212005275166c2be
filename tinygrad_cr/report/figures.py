"""The numbers that a run is judged by, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.train import History


@dataclass(frozen=True)
class Figures:
    """What a history comes to; None where it was not observed.

    Attributes:
        epochs: that have ended.
        best_accuracy, best_epoch: of the first epoch with the highest validation accuracy.
        loss: mean cost over the last epoch, penalty included.
        accuracy, val_accuracy, val_loss: when they were last measured.
        gap: training minus validation accuracy, when both were last measured.
        lr: at the end.
        seconds: spent training.
    """

    epochs: int
    best_accuracy: float | None
    best_epoch: int | None
    loss: float | None
    accuracy: float | None
    val_accuracy: float | None
    val_loss: float | None
    gap: float | None
    lr: float | None
    seconds: float | None


def figures(history: History) -> Figures:
    """Read them off.

    >>> figures(History([{"epoch": 1, "accuracy": 0.9, "val_accuracy": 0.7}])).best_accuracy
    0.7
    """
    validated = [row for row in history if finite(row.get("val_accuracy"))]
    best = max(validated, key=lambda row: float(row["val_accuracy"]), default={})
    both = [row for row in validated if finite(row.get("accuracy"))]
    return Figures(
        epochs=int(history[-1]["epoch"]) if len(history) else 0,
        best_accuracy=best.get("val_accuracy"),
        best_epoch=best.get("epoch"),
        loss=_last(history, "loss"),
        accuracy=_last(history, "accuracy"),
        val_accuracy=_last(history, "val_accuracy"),
        val_loss=_last(history, "val_loss"),
        gap=both[-1]["accuracy"] - both[-1]["val_accuracy"] if both else None,
        lr=_last(history, "lr"),
        seconds=_last(history, "seconds"),
    )


def finite(value: Any) -> bool:
    """Whether it is a number, and one that can be drawn.

    >>> finite(1), finite(None), finite(math.inf), finite(True)
    (True, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: float | None, digits: int = 4) -> str:
    """A number of so many digits; a dash for none.

    >>> number(0.000123456), number(2.0), number(None), number(-0.5), number(1234567.0)
    ('0.0001235', '2', '–', '−0.5', '1.235e+06')
    """
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"−{text[1:]}" if text.startswith("-") else text


def fraction(value: float | None) -> str:
    """An accuracy or a difference of two.

    >>> fraction(0.97), fraction(-0.01), fraction(None)
    ('0.9700', '−0.0100', '–')
    """
    return "–" if value is None else f"{value:.4f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """A time as people say it.

    >>> duration(0.123), duration(9.96), duration(75.4), duration(7260), duration(None)
    ('0.12 s', '10 s', '1 min 15 s', '2 h 1 min', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(many: int, thing: str) -> str:
    """How many there are of something.

    >>> count(1, "epoch"), count(3, "epoch"), count(0, "loss")
    ('1 epoch', '3 epochs', '0 losses')
    """
    return f"{many:,} {thing}" + ("" if many == 1 else "es" if thing.endswith("s") else "s")


def listed(words: Iterable[str]) -> str:
    """Words as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _last(history: History, key: str) -> Any:
    return next((row[key] for row in reversed(history) if finite(row.get(key))), None)
