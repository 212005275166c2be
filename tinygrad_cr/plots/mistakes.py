"""The rows that a network is most wrong about, as images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, OptionError, ShapeError
from tinygrad_cr.options import integer
from tinygrad_cr.plots.canvas import WIDTH_OF_A_LETTER, canvas, plain, points, say, small
from tinygrad_cr.plots.images import LEADING, Array, as_images, caption, columns_for, displayed, put, scale_of, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = 14
"""Longer names are cut."""

LEAST = 30
"""Points: in less, nobody sees what is in an image."""

FORMS = ("{0}", "→ {1} ({2})"), ("{0}", "→ {1}", "({2})")


def worst_mistakes(data: Dataset, probabilities: Any, *, ax: Axes | None = None, count: int = 12) -> Axes:
    """The misclassified rows whose true class got the least probability, the worst first.

    Above each image stand the true class, the predicted class and the probability of the predicted one.

    Args:
        data: with labels and an image_shape.
        probabilities: [n, classes], as `train.predict_proba` gives them for these rows.
        ax: where to draw.
        count: at most so many images; fewer where they would be too small to be seen.

    Raises:
        DataError: data without labels or image_shape, or probabilities that are none.
        ShapeError: not one row of probabilities for each row, or not one column for each class.
        OptionError: no Dataset, or a count below 1.
        ExtraError: matplotlib is not installed.

    >>> data = Dataset([[[0.0, 1.0]], [[1.0, 0.0]]], [0, 1], class_names=["cat", "dog"])
    >>> [title.get_text() for title in worst_mistakes(data, [[0.2, 0.8], [0.1, 0.9]]).texts]
    ['cat', '→ dog (0.80)']
    """
    count = integer("count", count, least=1)
    if not isinstance(data, Dataset):
        raise OptionError(f"data must be a Dataset, got {type(data).__name__}")
    if data.y is None:
        raise DataError("a mistake is one against a label, and this data has none")
    images = as_images(data.x, data.image_shape)
    p = _probabilities(probabilities, data)
    predicted = p.argmax(axis=1)
    wrong = np.flatnonzero(predicted != data.y)
    worst = wrong[np.argsort(p[wrong, data.y[wrong]], kind="stable")][:count]
    ax = canvas(ax, bare=True)
    if not len(worst):
        ax.set_axis_off()
        say(ax, f"no mistakes: all {len(data)} rows are right")
        return ax
    titles = [
        (data.class_names[data.y[row]], data.class_names[predicted[row]], f"{p[row, predicted[row]]:.2f}")
        for row in worst
    ]
    shown, how = displayed(images[worst])
    _draw(ax, shown, how, titles)
    return ax


def _probabilities(probabilities: Any, data: Dataset) -> Array:
    p = np.asarray(probabilities)
    if p.ndim != 2 or len(p) != len(data) or p.shape[1] < data.classes:
        raise ShapeError(
            f"probabilities must be [{len(data)}, {data.classes}], a row for each row of the data; got {p.shape}"
        )
    if p.shape[1] > len(data.class_names):
        raise ShapeError(f"probabilities have {p.shape[1]} columns, the data has {len(data.class_names)} class names")
    if p.dtype.kind != "f" or not ((p >= 0) & (p <= 1.001)).all():
        raise DataError("probabilities must lie in [0, 1]; logits become probabilities by ops.softmax")
    return p


def _draw(ax: Axes, images: Array, how: dict[str, Any], titles: list[tuple[str, str, str]]) -> None:
    """Images in rows with two lines above each, or three where that leaves more room for the images."""
    width, height = points(ax)
    shape, size = images.shape[1:3], small(ax)
    for count in range(len(images), 0, -1):
        plans = [_plan(form, titles[:count], width, height, shape, size) for form in FORMS]
        scale, columns, texts = max(plans, key=lambda plan: plan[0])
        if scale * min(shape) >= LEAST:
            break
    cell, box, words = width / columns, (scale * shape[1], scale * shape[0]), _height(texts[0], size)
    rows = -(-count // columns)
    gap = min(8.0, height / rows - words - box[1])
    first = (height - rows * (words + box[1] + gap)) / 2
    for i, (image, lines) in enumerate(zip(images[:count], texts, strict=True)):
        middle, top = (i % columns + 0.5) * cell, first + i // columns * (words + box[1] + gap) + words
        put(ax, image, (middle - box[0] / 2, top, *box), how)
        caption(ax, middle, top - 2, lines, size)
    sheet(ax, width, height)


def _plan(
    form: tuple[str, ...],
    titles: list[tuple[str, str, str]],
    width: float,
    height: float,
    shape: tuple[int, int],
    size: float,
) -> tuple[float, int, list[list[str]]]:
    """The size of a pixel, the columns and the lines of each image, if titles have this form."""
    texts = [
        [line.format(plain(true, LETTERS), plain(other, LETTERS), p) for line in form] for true, other, p in titles
    ]
    wide = max(len(line) for lines in texts for line in lines) * WIDTH_OF_A_LETTER * size
    words = _height(texts[0], size)
    columns = columns_for(len(titles), width, height, shape, words, wide)
    return scale_of(len(titles), columns, width, height, shape, words), columns, texts


def _height(lines: list[str], size: float) -> float:
    return LEADING * size * len(lines) + 3
