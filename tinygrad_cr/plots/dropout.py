"""What dropout does to one example."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data.dataset import as_features
from tinygrad_cr.errors import DataError
from tinygrad_cr.plots.canvas import SMALL, WIDTH_OF_A_LETTER, canvas, points
from tinygrad_cr.plots.images import Array, as_images, displayed, put, sheet
from tinygrad_cr.random import Generator, as_generator, keep_probability, keep_threshold
from tinygrad_cr.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def dropout_mask(
    example: Any,
    dropout: float = 0.5,
    *,
    generator: Generator | int | None = 0,
    mode: str = "inverted",
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One example, a mask, and the example after dropout with that mask, on one scale of grey.

    Args:
        example: an image [h, w] or [h, w, 3], or a vector [d], which is drawn as a strip unless `image_shape` is given.
        dropout: the probability of dropping an element, in [0, 1).
        generator: the mask is the one that its next draw gives; the generator itself is left as it is.
        mode: "inverted" or "vanilla", see `ops.dropout`, which makes mask and result.
        image_shape: of a vector that is an image.
        ax: where to draw.

    Raises:
        DataError, ShapeError: an example that is no finite image or vector.
        OptionError: `dropout` outside [0, 1), an unknown mode, or a bad seed.
        ExtraError: matplotlib is not installed.

    >>> ax = dropout_mask(np.ones((2, 2)), 0.5, generator=4)
    >>> [image.get_array().tolist() for image in ax.images[1:]]
    [[[0.0, 1.0], [1.0, 0.0]], [[0.0, 2.0], [2.0, 0.0]]]
    """
    x, shape = _image(example, image_shape)
    source = as_generator(generator)
    masked, result = (
        ops.dropout(Tensor(values), dropout, generator=Generator(**source.state()), mode=mode).numpy()
        for values in (np.ones_like(x), x)
    )
    mask = masked != 0
    ax = canvas(ax, bare=True)
    pictures, how = displayed(as_images(np.stack([x, result]), shape))
    mask_picture = as_images(mask[None].astype(np.float64), shape)[0]
    keep = keep_probability(keep_threshold(dropout))
    if mode == "inverted":
        caption = f"inverted dropout of {dropout:g}: what stays is multiplied by {1 / keep:.3g}, evaluation left alone"
    else:
        caption = f"vanilla dropout of {dropout:g}: what stays is left alone, evaluation multiplied by {keep:.3g}"
    titles = ("example", f"mask\n{int(mask.sum())} of {mask.size} kept", "result")
    ways = (how, {"cmap": "gray", "vmin": 0, "vmax": 1}, how)
    _draw(ax, (pictures[0], mask_picture, pictures[1]), ways, titles, caption)
    return ax


def _image(example: Any, image_shape: Sequence[int] | None) -> tuple[Array, Sequence[int]]:
    """The example as a float vector, and the shape to draw it in."""
    x = np.asarray(example)
    if x.ndim not in (1, 2, 3):
        raise DataError(f"an example is a vector [d] or an image [h, w] or [h, w, 3], got shape {x.shape}")
    shape = image_shape if image_shape is not None else x.shape if x.ndim > 1 else (1, len(x))
    row = as_features(x.reshape(1, -1))[0]
    if row.dtype == np.uint8:
        row = row.astype(np.float32)
    as_images(row, shape)
    return row[0], shape


def _draw(
    ax: Axes, images: Sequence[Array], ways: Sequence[dict[str, Any]], titles: Sequence[str], caption: str
) -> None:
    """Images side by side with titles; strips one above the other."""
    width, height = points(ax)
    tall, wide = images[0].shape[:2]
    strip = tall == 1
    columns, rows = (1, 3) if strip else (3, 1)
    line = 1.25 * SMALL
    words = textwrap.wrap(caption, max(12, int(width / (WIDTH_OF_A_LETTER * SMALL))))
    below = line * (len(words) + 0.6)
    cell = width / columns, (height - below) / rows
    above = line * (1.3 if strip else 2.3)
    if strip:
        box = 0.98 * cell[0], cell[1] - above - 3
    else:
        scale = min(0.95 * cell[0] / wide, (cell[1] - above) / tall)
        box = scale * wide, scale * tall
    used = (above + box[1]) * rows + 3 * (rows - 1)
    top = (height - below - used) / 2
    for i, (image, way, title) in enumerate(zip(images, ways, titles, strict=True)):
        left = (i % columns + 0.5) * cell[0] - box[0] / 2
        upper = top + (i // columns) * (above + box[1] + 3) + above
        put(ax, image, (left, upper, *box), way)
        text = title.replace("\n", ": ") if strip else title
        ax.text(left + box[0] / 2, upper - 2, text, ha="center", va="bottom", fontsize=SMALL)
    ax.text(width / 2, top + used + below - 2, "\n".join(words), ha="center", va="bottom", fontsize=SMALL)
    sheet(ax, width, height)
