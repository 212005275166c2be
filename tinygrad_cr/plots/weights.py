"""What the first layer looks for: the weights of each hidden unit as an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, ShapeError
from tinygrad_cr.options import integer
from tinygrad_cr.plots.canvas import canvas, points, small
from tinygrad_cr.plots.images import Array, as_images, columns_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLIP = 0.995
"""So much of all weights lies within the scale: one large weight shall not turn all others grey."""


def first_layer_weights(weights: Any, image_shape: Sequence[int], *, ax: Axes | None = None, limit: int = 64) -> Axes:
    """The weights of the first hidden units, each as an image, row by row.

    Greyscale: negative weights are dark and positive ones bright, on one scale for all units that is symmetric about
    0 and clips the largest 0.5 % of them. Colour: each unit is scaled by itself, from its least weight to its
    greatest.

    Args:
        weights: [in, hidden], as `model.layers[0].weight`.
        image_shape: (h, w) or (h, w, 3), with as many values as a row of the data.
        ax: where to draw.
        limit: at most so many units.

    Raises:
        ShapeError: no matrix, or columns that do not fill the image.
        DataError: weights that are inf or NaN, or an image_shape that is none.
        OptionError: a limit below 1.
        ExtraError: matplotlib is not installed.

    >>> ax = first_layer_weights(np.eye(4), (2, 2))
    >>> ax.images[0].get_clim()
    (-1.0, 1.0)
    """
    w = np.asarray(weights)
    if w.ndim != 2 or not w.size:
        raise ShapeError(f"weights of a first layer are [in, hidden], got shape {w.shape}")
    if w.dtype.kind not in "buif" or not np.isfinite(w).all():
        raise DataError("weights must be finite numbers: these hold inf or NaN, so training diverged")
    shown = min(integer("limit", limit, least=1), w.shape[1])
    tiles = as_images(w.T[:shown].astype(np.float64), image_shape)
    ax = canvas(ax)
    from matplotlib import colormaps

    columns = columns_for(shown, *points(ax), (tiles.shape[1], tiles.shape[2]))
    units = f"{shown} of {w.shape[1]} hidden units" if shown < w.shape[1] else f"{shown} hidden units"
    if tiles.ndim == 4:
        low, high = (f(tiles, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
        flat = high == low
        tiles = np.where(flat, 0.5, (tiles - low) / np.where(flat, 1, high - low))
        ax.imshow(tiled(tiles, columns, 1.0), interpolation="nearest")
        scale = "each from its least weight to its greatest"
    else:
        top = float(np.quantile(np.abs(tiles), CLIP)) or float(np.abs(tiles).max()) or 1.0
        whole = np.ma.masked_invalid(tiled(tiles, columns, np.nan))
        ax.imshow(
            whole, cmap=colormaps["gray"].with_extremes(bad="white"), vmin=-top, vmax=top, interpolation="nearest"
        )
        scale = f"black −{top:.2g}, grey 0, white {top:.2g}"
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"{units}\n{scale}", fontsize=small(ax) + 1)
    return ax


def tiled(tiles: Array, columns: int, between: float) -> Array:
    """Images [n, h, w] or [n, h, w, 3] as one, row by row, with a gap of this value between them.

    The gap is a pixel wide, and wider between large images.

    >>> tiled(np.ones((3, 1, 1)), 2, 0.0).tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    n, h, w = tiles.shape[:3]
    gap = 1 + max(h, w) // 16
    rows = -(-n // columns)
    whole = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, *tiles.shape[3:]), between)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        whole[top : top + h, left : left + w] = tile
    return whole
