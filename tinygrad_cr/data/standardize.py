"""`Standardizer`: shift and scale features by what the training part alone says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_cr.data.dataset import as_features
from tinygrad_cr.errors import DataError, ShapeError, StateDictError, unknown_name
from tinygrad_cr.kernels import backend

MODES = ("mean-image", "per-feature", "none")
PIXEL_FLOOR = 0.1
"""The least deviation a uint8 feature is divided by, as a part of the pooled deviation of all features."""

_CHUNK_BYTES = 1 << 22
_ROUNDING = 8  # units in the last place: a column that varies less than this varies by rounding


class Standardizer:
    """``(x - mean) * scale``, learned from the training part with `fit`.

    mode:

    - "mean-image": subtracts the mean image of the training part and leaves the scale alone, as the CS231n
      lecture does.
    - "per-feature": subtracts each feature's mean and divides by its standard deviation (over n, not n - 1).
    - "none": changes nothing but the dtype.

    Nearly constant features must not explode when a new row differs. uint8 features are pixels and share a
    unit, so there the deviation counts as at least `PIXEL_FLOOR` times the pooled deviation of all features:
    a corner pixel lit in one row of 60,000 is divided by a tenth of what a typical pixel is, not by nearly
    nothing. Columns of floats may each have their own unit, so their pooled deviation means nothing: only one
    that varies by no more than rounding error counts as constant. A feature that is constant in float data,
    or where all are, gets scale 1.

    After `fit`: `mean_` and `scale_`, ``[d]`` float64.

    >>> Standardizer("per-feature").fit([[1.0, 5.0], [3.0, 5.0]]).transform([[3.0, 6.0]]).tolist()
    [[1.0, 1.0]]
    """

    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]

    def __init__(self, mode: str = "mean-image") -> None:
        if mode not in MODES:
            raise unknown_name("standardization", mode, MODES)
        self.mode = mode

    def fit(self, x: ArrayLike) -> Standardizer:
        """Learns mean and scale from the rows of x, ``[n, d]`` (or images), and returns itself.

        Sums are float64 and go chunk by chunk, so that uint8 data is never copied whole. Raises `DataError`
        as `Dataset` does, and for values so large that their variance overflows.

        >>> Standardizer("mean-image").fit([[0, 2], [4, 2]]).mean_.tolist()
        [2.0, 2.0]
        """
        rows, _ = as_features(x)
        mean, scale = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        if self.mode != "none":
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
                mean = sum((chunk.sum(axis=0) for chunk in _chunks(rows)), start=mean) / len(rows)
                if self.mode == "per-feature":
                    squares = sum((((chunk - mean) ** 2).sum(axis=0) for chunk in _chunks(rows)), start=0 * mean)
                    scale = _scale(np.sqrt(squares / len(rows)), rows)
            bad = ~(np.isfinite(mean) & np.isfinite(scale) & (scale > 0))
            if bad.any():
                raise DataError(
                    f"column {int(np.argmax(bad))} holds values too large for float64 sums: rescale it first"
                )
        self.mean_, self.scale_ = mean, scale
        return self

    def transform(self, x: ArrayLike, dtype: str = "float32") -> NDArray[Any]:
        """``(x - mean_) * scale_`` as a new ``[n, d]`` array of dtype "float32" or "float64".

        Raises `ShapeError` when x has another number of features, `DataError` before `fit` and for bad data.

        >>> Standardizer("none").fit([[1, 2]]).transform([[3, 4]], dtype="float64").dtype
        dtype('float64')
        """
        rows, _ = as_features(x)
        mean, scale = self.parameters(rows, dtype)
        out = np.empty(rows.shape, mean.dtype)
        backend("cpu").gather(rows, np.arange(len(rows)), mean, scale, out)
        return out.astype(dtype, copy=False)

    def parameters(self, x: NDArray[Any], dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and scale, ``[d]`` each, in the dtype in which to gather rows of x that are wanted in dtype.

        That is dtype itself, but float64 for float64 rows: a mean of 1.7e9 seconds must go before
        float32 rounds the minutes away. Raises `ShapeError` when x has another number of features.

        >>> Standardizer("none").fit([[1, 2]]).parameters(np.zeros((5, 3)), "float32")
        Traceback (most recent call last):
        tinygrad_cr.errors.ShapeError: data of shape (5, 3) does not fit a standardizer fitted on shape (n, 2)
        """
        if dtype not in ("float32", "float64"):
            raise unknown_name("dtype", dtype, ("float32", "float64"))
        if not hasattr(self, "mean_"):
            raise DataError("this Standardizer knows no data yet: call fit(x) with the training part first")
        if x.shape[1] != len(self.mean_):
            raise ShapeError(
                f"data of shape {x.shape} does not fit a standardizer fitted on shape (n, {len(self.mean_)})"
            )
        wide = "float64" if x.dtype == np.float64 else dtype
        return self.mean_.astype(wide), self.scale_.astype(wide)

    def state_dict(self) -> dict[str, NDArray[np.float64]]:
        """What was learned, as arrays for a checkpoint: "mean" and "scale", ``[d]`` float64.

        >>> Standardizer("none").fit([[1, 2]]).state_dict()["scale"].tolist()
        [1.0, 1.0]
        """
        if not hasattr(self, "mean_"):
            raise DataError("this Standardizer knows no data yet: call fit(x) with the training part first")
        return {"mean": self.mean_.copy(), "scale": self.scale_.copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, ArrayLike], mode: str = "mean-image") -> Standardizer:
        """The standardizer whose `state_dict` this is; the mode matters only for another `fit`.

        Raises `StateDictError` for missing, unexpected or misshapen entries.

        >>> Standardizer.from_state({"mean": [1.0], "scale": [2.0]}).transform([[4.0]]).item()
        6.0
        """
        if set(state) != {"mean", "scale"}:
            raise StateDictError(f"the state holds {sorted(state)}, wanted ['mean', 'scale']")
        made = cls(mode)
        made.mean_, made.scale_ = (np.array(state[key], np.float64) for key in ("mean", "scale"))
        if made.mean_.ndim != 1 or made.mean_.shape != made.scale_.shape:
            raise StateDictError(
                f"mean has shape {made.mean_.shape} and scale {made.scale_.shape}: both should be (features,)"
            )
        return made

    def __repr__(self) -> str:
        return f"Standardizer({self.mode!r})"


def _chunks(x: NDArray[Any]) -> Any:
    step = max(1, _CHUNK_BYTES // (8 * x.shape[1]))
    return (x[start : start + step].astype(np.float64) for start in range(0, len(x), step))


def _scale(deviation: NDArray[np.float64], x: NDArray[Any]) -> NDArray[np.float64]:
    """One over the deviation of each feature, with the floors that the class documents."""
    if x.dtype == np.uint8:
        deviation = np.maximum(deviation, PIXEL_FLOOR * np.sqrt(np.mean(deviation**2)))
    else:
        largest = np.maximum(np.abs(x.max(axis=0)), np.abs(x.min(axis=0))).astype(np.float64)
        deviation = np.where(deviation <= _ROUNDING * np.finfo(x.dtype).eps * largest, 0.0, deviation)
    return 1.0 / np.where(deviation == 0, 1.0, deviation)
