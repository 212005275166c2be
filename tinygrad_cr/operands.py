"""Operands: what the rules in `ops.py` ask of their arguments before they compute.

Each function turns what a user may pass (tensors, arrays, numbers) into what a rule works with, or raises the typed
error that says which operation got which shapes, dtypes or devices, and what would fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_cr import tape
from tinygrad_cr.device import lies_on_gpu, to_numpy
from tinygrad_cr.errors import DataError, DeviceError, DTypeError, OptionError, ShapeError, unknown_name
from tinygrad_cr.kernels import Array
from tinygrad_cr.random import Generator, keep_probability, keep_threshold
from tinygrad_cr.tape import ask, mode, watch
from tinygrad_cr.tensor import CPU, FLOATS, Axes, Tensor, record, wrap

DROPOUT_MODES = ("inverted", "vanilla")
INT64 = np.dtype(np.int64)
KEEP_ALL = 65536
"""The dropout threshold that keeps every element: no mask is drawn."""


def broadcast(op: str, function: Callable[[Array, Array], Array], a: Tensor, b: Tensor) -> Array:
    """function(a, b) on the arrays, or an error that names the operation and both shapes or dtypes."""
    try:
        return function(a.data, b.data)
    except ValueError:
        raise ShapeError(f"{op}: shapes {a.shape} and {b.shape} do not fit together") from None
    except (TypeError, OverflowError):
        raise DTypeError(f"{op} is not defined for {a.dtype} and {b.dtype}; convert with .astype('float32')") from None


def one(op: str, x: Any, floats: bool = False) -> tuple[Tensor, Any]:
    """The operand as a tensor, of a float dtype if the operation wants that, and its array library."""
    if not isinstance(x, Tensor):
        x = Tensor(x)
    if floats and x.data.dtype not in FLOATS:
        raise float_error(op, x.dtype)
    return x, x.backend.xp


def pair(op: str, a: Any, b: Any, floats: bool = False) -> tuple[Tensor, Tensor, Any]:
    """Both operands as tensors that may be computed with: same device, same dtype where both are float."""
    if not isinstance(a, Tensor):
        a = _partner(op, a, b)
    if not isinstance(b, Tensor):
        b = _partner(op, b, a)
    if a.backend is not b.backend:
        raise device_error(op, a, b)
    p, q = a.data.dtype, b.data.dtype
    if p != q:
        if {p.name, q.name} == {"uint64", "int64"}:
            raise mix_error(op, p, q)
        if p in FLOATS and q in FLOATS:
            raise mix_error(op, p, q)
        if p in FLOATS:
            b = wrap(b.backend.xp.array(b.data, p), b.backend)
        elif q in FLOATS:
            a = wrap(a.backend.xp.array(a.data, q), a.backend)
    if floats and a.data.dtype not in FLOATS:
        raise float_error(op, a.dtype)
    return a, b, a.backend.xp


def _partner(op: str, value: Any, other: Any) -> Tensor:
    """A value as a tensor beside `other`: numbers and lists of them take its dtype, what has no device takes its."""
    if not isinstance(other, Tensor):
        return Tensor(value)
    if not isinstance(value, bool | int | float | np.number):
        weak = not hasattr(value, "dtype") and other.dtype in FLOATS
        device = None if lies_on_gpu(value) else other.device
        return Tensor(value, dtype=other.dtype if weak else None, device=device)
    if isinstance(value, float | np.floating) and other.dtype not in FLOATS:
        raise DTypeError(f"{op} of the number {value} and {other.dtype}: convert with .astype('float32') first")
    try:
        return wrap(other.backend.xp.asarray(value, other.dtype), other.backend)
    except OverflowError:
        raise DTypeError(f"{op}: {value} does not fit {other.dtype}; convert the tensor with .astype first") from None


def several(op: str, tensors: Sequence[Any]) -> tuple[tuple[Tensor, ...], Any]:
    """At least one tensor, all of one device and dtype, and their array library."""
    first = next((t for t in tensors if isinstance(t, Tensor)), None)
    parts = tuple(t if isinstance(t, Tensor) else _partner(op, t, first) for t in tensors)
    if not parts:
        raise ShapeError(f"{op} wants at least one tensor")
    for t in parts[1:]:
        if t.backend is not parts[0].backend:
            raise device_error(op, parts[0], t)
        if t.dtype != parts[0].dtype:
            raise mix_error(op, parts[0].dtype, t.dtype)
    return parts, parts[0].backend.xp


def normalised_axes(op: str, x: Tensor, axis: Axes, nonempty: bool = False) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes as a tuple of numbers from 0, and the shape with those axes kept at length 1."""
    given = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(i, int | np.integer) for i in given):
        raise ShapeError(f"{op}: an axis is an integer, a tuple of them or None, got {axis!r}")
    axes = tuple(int(i) + x.ndim if i < 0 else int(i) for i in given)
    if any(not 0 <= i < x.ndim for i in axes) or len(set(axes)) != len(axes):
        raise ShapeError(f"{op}: axis {axis} does not fit shape {x.shape}")
    if nonempty and not all(x.shape[i] for i in axes):
        raise ShapeError(f"{op} over no elements: shape {x.shape}, axis {axis}")
    return axes, tuple([1 if i in axes else n for i, n in enumerate(x.shape)])


def affine_operands(op: str, x: Any, w: Any, b: Any) -> tuple[Tensor, Tensor, Tensor, Array]:
    """x, w, b as tensors that fit together, and x as contiguous rows [n, in]. On the hot path: plain checks only."""
    if not isinstance(x, Tensor):
        x = Tensor(x)
    if not isinstance(w, Tensor):
        w = Tensor(w)
    if not isinstance(b, Tensor):
        b = Tensor(b)
    if not (x.backend is w.backend is b.backend):
        raise device_error(op, x, w if w.backend is not x.backend else b)
    xd, wd, bd = x.data, w.data, b.data
    dtype, x_shape, w_shape = wd.dtype, xd.shape, wd.shape
    if not (xd.dtype == dtype == bd.dtype):
        raise mix_error(op, xd.dtype, dtype if dtype != xd.dtype else bd.dtype)
    if dtype not in FLOATS:
        raise float_error(op, dtype)
    if len(w_shape) != 2 or not x_shape or x_shape[-1] != w_shape[0] or bd.shape != w_shape[1:]:
        raise ShapeError(f"{op} wants x [..., in], w [in, out], b [out]; got {x_shape}, {w_shape}, {bd.shape}")
    if not (wd.flags.c_contiguous and bd.flags.c_contiguous):
        w, b = _contiguous(w), _contiguous(b)
    if not xd.flags.c_contiguous:
        xd = x.backend.xp.ascontiguousarray(xd)
    if len(x_shape) != 2:
        xd = xd.reshape(math.prod(x_shape[:-1]), w_shape[0])
    return x, w, b, xd


def flat(array: Array, xp: Any) -> Array:
    """The array as the contiguous vector that kernels take; a view where that is possible."""
    return xp.ascontiguousarray(array).reshape(-1)


def dropout_plan(dropout: Any, mode: str, training: bool) -> tuple[int, float]:
    """The threshold a lane must stay below, and what is left is multiplied by. `KEEP_ALL` keeps everything."""
    try:
        return _dropout_plan(dropout, mode, training)
    except TypeError:  # unhashable, and so no number either
        keep_threshold(dropout)
        raise


@lru_cache(typed=True)
def _dropout_plan(dropout: float, mode: str, training: bool) -> tuple[int, float]:
    if mode not in DROPOUT_MODES:
        raise unknown_name("dropout mode", mode, DROPOUT_MODES)
    threshold = keep_threshold(dropout)
    keep = keep_probability(threshold)
    if mode == "inverted":
        return (threshold, 1 / keep) if training else (KEEP_ALL, 1.0)
    return (threshold, 1.0) if training else (KEEP_ALL, keep)


def claim_draw(generator: Any) -> tuple[int, int, int]:
    """The seed, draw and stream of one new mask."""
    if not isinstance(generator, Generator):
        raise OptionError("dropout in training needs randomness: pass generator=Generator(seed), or training=False")
    if not tape.capturing or (generator.capture is not None and generator.capture is mode.program):
        return generator.seed, generator.next_draw(), generator.stream
    watch(generator, "seed", "stream")
    return generator.seed, ask(generator.next_draw), generator.stream


def beside(op: str, what: str, value: Any, other: Tensor) -> Array:
    """What an operation is given besides tensors, as an array that may be computed with: on the device of `other`.

    What has a device, a tensor or an array of the GPU, must be there; NumPy's arrays and lists are copied to it.
    """
    if isinstance(value, Tensor):
        if value.backend is not other.backend:
            raise DeviceError(
                f"{op} of a tensor on {other.device!r} with {what} on {value.device!r}: "
                f"move one with .to({other.device!r})"
            )
        return value.data
    refuse_gpu(op, what, value, other)
    return other.backend.xp.asarray(value)


def refuse_gpu(op: str, what: str, value: Any, other: Tensor) -> None:
    """Raise for an array of the GPU beside a tensor that is not there."""
    if other.backend.host and type(value) is not np.ndarray and lies_on_gpu(value):
        raise DeviceError(
            f"{op} of a tensor on {other.device!r} with {what} on 'gpu': move one with .to, an array with "
            f"Tensor(array, device={other.device!r})"
        )


def on_host(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """An index as the host knows it: of integers on the GPU the shape alone, of masks there a copy."""

    def known(part: Any) -> Any:
        if not lies_on_gpu(part):
            return part
        return to_numpy(part) if part.dtype == bool else np.broadcast_to(0, part.shape)

    return tuple(known(part) for part in parts)


def on_gpu(parts: tuple[Any, ...], known: tuple[Any, ...], xp: Any) -> tuple[Any, ...]:
    """An index as kernels on the GPU take it; a mask as the numbers of what it picks, so that they wait for nothing."""
    there: list[Any] = []
    for part, own in zip(parts, known, strict=True):
        if part is None or part is ... or type(part) in (int, slice) or isinstance(part, np.integer):
            there.append(part)
        elif np.asarray(own).dtype == bool and np.ndim(own):
            there += [xp.asarray(numbers) for numbers in np.nonzero(own)]
        elif isinstance(part, list | tuple) and not np.size(part):
            there.append(xp.zeros(np.shape(part), np.int64))
        else:
            there.append(part if lies_on_gpu(part) else xp.asarray(part))
    return tuple(there)


def label_array(labels: Any, logits: Tensor) -> Array:
    """Labels as contiguous int64, which kernels take.

    Those that NumPy or a list holds stay on the host: they go on through `settled_labels`.
    """
    k = logits.backend
    if type(labels) is np.ndarray and k.host and labels.dtype == INT64 and labels.flags.c_contiguous:
        return labels  # as minibatches have them
    if isinstance(labels, Tensor) or k.host or lies_on_gpu(labels):
        xp, y = k.xp, beside("cross_entropy", "labels", labels, logits)
    else:
        xp, y = np, np.asarray(labels)
    if y.dtype == INT64 and y.flags.c_contiguous:
        return y
    if y.dtype.kind not in "iu":
        raise DTypeError(f"labels must be integers, got {y.dtype}; convert with y.astype(int)")
    if xp is np and not k.host:
        return y  # converted on the GPU, where a program that is captured sees it
    # ascontiguousarray would make a vector of a single 0-d label.
    return xp.ascontiguousarray(y, dtype=np.int64) if y.ndim else y


def settled_labels(labels: Array, classes: int, logits: Tensor) -> Array:
    """Labels of logits on the GPU: those that come from the host are checked there, and copied up.

    Those on the GPU are not looked at, which would wait for it: one out of range makes the loss NaN.
    """
    if isinstance(labels, np.ndarray):
        check_labels(labels.reshape(-1), classes)
        xp = logits.backend.xp
        return xp.ascontiguousarray(xp.asarray(labels), dtype=np.int64)
    return labels


def check_labels(labels: Array, classes: int) -> None:
    """Raise for the first label outside [0, classes)."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"label {int(labels[row])} in row {row} is outside [0, {classes}): the logits have {classes} columns"
        )


def sample_weights(weights: Any, logits: Tensor) -> Array:
    """One weight a row, >= 0 and not all 0, in the dtype of the logits.

    Those that lie on the GPU are not looked at, which would wait for it.
    """
    k = logits.backend
    looked_at = k.host or not (isinstance(weights, Tensor) or lies_on_gpu(weights))
    if isinstance(weights, Tensor):
        weights = beside("cross_entropy", "weights", weights, logits)
    else:
        refuse_gpu("cross_entropy", "weights", weights, logits)
    w = Tensor(weights, dtype=logits.dtype, device=CPU.name if looked_at and not k.host else logits.device).data
    w = (np if looked_at and not k.host else k.xp).ascontiguousarray(w) if w.ndim else w
    if w.shape != logits.shape[:1]:
        raise ShapeError(f"one weight a row: logits {logits.shape}, weights {w.shape}")
    if looked_at and (not ((w >= 0) & (w < np.inf)).all() or not w.any()):
        raise DataError("sample weights must be finite, >= 0 and not all zero")
    return w if k.host else k.xp.asarray(w)


def _contiguous(x: Tensor) -> Tensor:
    """x itself, or a recorded copy of it in C order."""
    xp = x.backend.xp
    return x if x.data.flags.c_contiguous else record(xp.ascontiguousarray(x.data), (x,), lambda g: (g,))


def float_error(op: str, dtype: Any) -> DTypeError:
    """The error for an operation that is not defined on integers."""
    return DTypeError(f"{op} wants float32 or float64, got {dtype}; convert with .astype('float32')")


def mix_error(op: str, p: Any, q: Any) -> DTypeError:
    """The error for float32 beside float64."""
    return DTypeError(f"{op} of {p} and {q}: dtypes are not mixed silently; convert one with .astype('{p}')")


def device_error(op: str, a: Tensor, b: Tensor) -> DeviceError:
    """The error for operands on two devices."""
    return DeviceError(f"{op} of tensors on {a.device!r} and {b.device!r}: move one with .to({a.device!r})")
