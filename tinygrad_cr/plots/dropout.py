"""What dropout does to one example."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data.dataset import as_features
from tinygrad_cr.errors import DataError
from tinygrad_cr.plots.canvas import canvas, points, small
from tinygrad_cr.plots.images import LEADING, Array, as_images, caption, displayed, put, sheet
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
    strips = shape[0] == 1
    ax = canvas(ax, bare=True, size=(6, 3) if strips else (6, 2.7))
    pictures, how = displayed(as_images(np.stack([x, result]), shape))
    mask_picture = as_images(mask[None].astype(np.float64), shape)[0]
    keep = keep_probability(keep_threshold(dropout))
    if mode == "inverted":
        kept, test = f"kept × {1 / keep:.3g}", "as they are"
    else:
        kept, test = "kept as they are", f"× {keep:.3g}"
    titles = (f"example\n{x.size} values", f"mask\n{int(mask.sum())} of {x.size} kept", f"result\n{kept}")
    words = f"{mode} dropout, probability of dropping {dropout:g}; at test time all values stay, {test}"
    ways = (how, {"cmap": "gray", "vmin": 0, "vmax": 1}, how)
    _draw(ax, (pictures[0], mask_picture, pictures[1]), ways, titles, words)
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


def _draw(ax: Axes, images: Sequence[Array], ways: Sequence[dict[str, Any]], titles: Sequence[str], words: str) -> None:
    """Images side by side with titles; strips one above the other. The words stand below."""
    width, height = points(ax)
    tall, wide = images[0].shape[:2]
    size = small(ax)
    line = LEADING * size
    foot = textwrap.wrap(words, max(12, int(width / (0.52 * size))))
    below = line * len(foot) + 6
    if tall == 1:
        columns, above = 1, line + 2
        box = 0.98 * width, max(1.0, (height - below) / 3 - above - 4)
    else:
        columns, above = 3, 2 * line + 2
        scale = max(0.01, min(0.31 * width / wide, (height - below - above) / tall))
        box = scale * wide, scale * tall
    pitch = above + box[1] + 4
    first = max(0.0, (height - below - pitch * (3 // columns)) / 2)
    for i, (image, way, title) in enumerate(zip(images, ways, titles, strict=True)):
        middle, top = (i % columns + 0.5) * width / columns, first + i // columns * pitch + above
        put(ax, image, (middle - box[0] / 2, top, *box), way)
        caption(ax, middle, top - 2, [title.replace("\n", ": ")] if columns == 1 else title.split("\n"), size)
    caption(ax, width / 2, first + pitch * (3 // columns) + below - 2, foot, size)
    sheet(ax, width, height)
