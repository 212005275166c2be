"""The page of rules: every differentiable operation with its vector-Jacobian product.

Each function checks its shapes, computes forward, and hands `record` the rule for the way back: from g, the gradient of
the result, to the gradient of each operand. Operands are tensors, arrays or numbers; a number takes the dtype of its
partner, NumPy's arrays and lists its device, and integers become floats where they meet floats, but float32 and
float64, or what lies on two devices, are never mixed silently. Binary operations broadcast as NumPy does; `_sum_to`
undoes that in one place.

The rules compute through `xp`, the array library of the tensor's backend, and through its kernels, never through
operators on arrays: whatever they do can be recorded and replayed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_cr import population, tape
from tinygrad_cr import tensor as _tensor
from tinygrad_cr.errors import DTypeError, IndexingError, OptionError, ShapeError
from tinygrad_cr.kernels import Array, Kernels
from tinygrad_cr.operands import (
    KEEP_ALL,
    affine_operands,
    beside,
    broadcast,
    check_labels,
    claim_draw,
    dropout_plan,
    flat,
    float_error,
    label_array,
    normalised_axes,
    on_gpu,
    on_host,
    one,
    pair,
    sample_weights,
    settled_labels,
    several,
)
from tinygrad_cr.options import PerMember
from tinygrad_cr.random import Generator, Generators
from tinygrad_cr.tape import destination, refuse
from tinygrad_cr.tensor import FLOATS, Axes, Tensor, record, wrap

# Arithmetic


def add(a: Any, b: Any) -> Tensor:
    """a + b, elementwise with broadcasting.

    >>> add(Tensor([1.0]), 2)
    Tensor([3.], dtype=float32)
    """
    a, b, xp = pair("add", a, b)
    return _elementwise(a, b, broadcast("add", xp.add, a, b), lambda g: g, lambda g: g)


def subtract(a: Any, b: Any) -> Tensor:
    """a - b, elementwise with broadcasting.

    >>> subtract(Tensor([1.0]), 2)
    Tensor([-1.], dtype=float32)
    """
    a, b, xp = pair("subtract", a, b)
    return _elementwise(a, b, broadcast("subtract", xp.subtract, a, b), lambda g: g, xp.negative)


def multiply(a: Any, b: Any) -> Tensor:
    """a * b, elementwise with broadcasting.

    >>> multiply(Tensor([3.0]), 2)
    Tensor([6.], dtype=float32)
    """
    a, b, xp = pair("multiply", a, b)
    p, q = a.data, b.data
    y = broadcast("multiply", xp.multiply, a, b)
    return _elementwise(a, b, y, lambda g: xp.multiply(g, q), lambda g: xp.multiply(g, p))


def divide(a: Any, b: Any) -> Tensor:
    """a / b, elementwise with broadcasting; float tensors only.

    >>> divide(Tensor([3.0]), 2)
    Tensor([1.5], dtype=float32)
    """
    a, b, xp = pair("divide", a, b, floats=True)
    q = b.data
    y = broadcast("divide", xp.divide, a, b)
    return _elementwise(a, b, y, lambda g: xp.divide(g, q), lambda g: xp.negative(xp.multiply(g, xp.divide(y, q))))


def power(a: Any, b: Any) -> Tensor:
    """a ** b, elementwise with broadcasting; float tensors only.

    d/da = b a**(b-1), taken as 0 where b = 0. d/db = a**b log(a) has no real value for a < 0 and is taken as 0 for
    every a <= 0.

    >>> power(Tensor([3.0]), 2)
    Tensor([9.], dtype=float32)
    """
    a, b, xp = pair("power", a, b, floats=True)
    p, q = a.data, b.data
    y = broadcast("power", xp.power, a, b)

    def base_gradient(g: Array) -> Array:
        # The exponent 1 stands in where b = 0: it keeps 0 ** -1 from being computed and then multiplied by 0.
        slope = xp.multiply(q, xp.power(p, xp.where(xp.equal(q, 0), q.dtype.type(1), xp.subtract(q, 1))))
        return xp.multiply(g, slope)

    def exponent_gradient(g: Array) -> Array:
        positive = xp.greater(p, 0)
        logarithm = xp.log(xp.where(positive, p, p.dtype.type(1)))
        return xp.multiply(g, xp.multiply(xp.where(positive, y, y.dtype.type(0)), logarithm))

    return _elementwise(a, b, y, base_gradient, exponent_gradient)


def negative(x: Any) -> Tensor:
    """-x.

    >>> negative(Tensor([1.0]))
    Tensor([-1.], dtype=float32)
    """
    x, xp = one("negative", x)
    if x.dtype == bool:
        raise float_error("negative", x.dtype)
    return record(xp.negative(x.data), (x,), lambda g: (xp.negative(g),))


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product of the last two axes, broadcasting over the axes before them; a: [..., n, k], b: [..., k, m].

    A 1-d operand is a row on the left and a column on the right, and its axis is gone from the result.

    Raises:
        ShapeError: a 0-d operand, or inner lengths that differ.

    >>> matmul(Tensor([[1.0, 2.0]]), Tensor([[3.0], [4.0]]))
    Tensor([[11.]], dtype=float32)
    """
    a, b, xp = pair("matmul", a, b)
    if not a.ndim or not b.ndim:
        raise ShapeError(f"matmul wants matrices, got shapes {a.shape} and {b.shape}; use * for scalars")
    p = a.data[None, :] if a.ndim == 1 else a.data
    q = b.data[:, None] if b.ndim == 1 else b.data
    y = broadcast("matmul", xp.matmul, a, b)
    full = (*y.shape[: y.ndim - (a.ndim > 1) - (b.ndim > 1)], p.shape[-2], q.shape[-1])
    a_shape, b_shape, a_wanted, b_wanted = a.shape, b.shape, a.requires_grad, b.requires_grad

    def vjp(g: Array) -> tuple[Array | None, Array | None]:
        g = xp.reshape(g, full)
        da = db = None
        if a_wanted:
            da = _sum_to(xp.matmul(g, q.swapaxes(-1, -2)), p.shape, xp).reshape(a_shape)
        if b_wanted:
            db = _sum_to(xp.matmul(p.swapaxes(-1, -2), g), q.shape, xp).reshape(b_shape)
        return da, db

    return record(y, (a, b), vjp)


# Comparisons: tensors of bool, without a gradient


def equal(a: Any, b: Any) -> Tensor:
    """a == b, elementwise: a tensor of bool without a gradient.

    >>> equal(Tensor([1.0, 2.0]), 2)
    Tensor([False,  True], dtype=bool)
    """
    return _compare("equal", a, b)


def not_equal(a: Any, b: Any) -> Tensor:
    """a != b, elementwise: a tensor of bool without a gradient.

    >>> not_equal(Tensor([1.0, 2.0]), 2)
    Tensor([ True, False], dtype=bool)
    """
    return _compare("not_equal", a, b)


def less(a: Any, b: Any) -> Tensor:
    """a < b, elementwise: a tensor of bool without a gradient.

    >>> less(Tensor([1.0, 2.0]), 2)
    Tensor([ True, False], dtype=bool)
    """
    return _compare("less", a, b)


def less_equal(a: Any, b: Any) -> Tensor:
    """a <= b, elementwise: a tensor of bool without a gradient.

    >>> less_equal(Tensor([1.0, 2.0]), 2)
    Tensor([ True,  True], dtype=bool)
    """
    return _compare("less_equal", a, b)


def greater(a: Any, b: Any) -> Tensor:
    """a > b, elementwise: a tensor of bool without a gradient.

    >>> greater(Tensor([1.0, 3.0]), 2)
    Tensor([False,  True], dtype=bool)
    """
    return _compare("greater", a, b)


def greater_equal(a: Any, b: Any) -> Tensor:
    """a >= b, elementwise: a tensor of bool without a gradient.

    >>> greater_equal(Tensor([1.0, 2.0]), 2)
    Tensor([False,  True], dtype=bool)
    """
    return _compare("greater_equal", a, b)


# Functions of one number


def exp(x: Any) -> Tensor:
    """e ** x.

    >>> exp(Tensor([0.0]))
    Tensor([1.], dtype=float32)
    """
    x, xp = one("exp", x, floats=True)
    y = xp.exp(x.data)
    return record(y, (x,), lambda g: (xp.multiply(g, y),))


def log(x: Any) -> Tensor:
    """Natural logarithm; at 0 the value is -inf and the gradient inf.

    >>> log(Tensor([1.0]))
    Tensor([0.], dtype=float32)
    """
    x, xp = one("log", x, floats=True)
    p = x.data
    return record(xp.log(p), (x,), lambda g: (xp.divide(g, p),))


def sqrt(x: Any) -> Tensor:
    """Square root. The derivative 1 / (2 sqrt(x)) does not exist at 0; inf is what arrives there.

    >>> sqrt(Tensor([9.0]))
    Tensor([3.], dtype=float32)
    """
    x, xp = one("sqrt", x, floats=True)
    y = xp.sqrt(x.data)
    return record(y, (x,), lambda g: (xp.divide(g, xp.multiply(y, 2)),))


def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent; derivative 1 - tanh(x)**2.

    >>> tanh(Tensor([0.0]))
    Tensor([0.], dtype=float32)
    """
    x, xp = one("tanh", x, floats=True)
    y = xp.tanh(x.data)
    return record(y, (x,), lambda g: (xp.multiply(g, xp.subtract(1, xp.multiply(y, y))),))


def sigmoid(x: Any) -> Tensor:
    """1 / (1 + exp(-x)), computed as (1 + tanh(x / 2)) / 2, which overflows nowhere; derivative y (1 - y).

    >>> sigmoid(Tensor([0.0]))
    Tensor([0.5], dtype=float32)
    """
    x, xp = one("sigmoid", x, floats=True)
    y = xp.multiply(xp.add(xp.tanh(xp.multiply(x.data, 0.5)), 1), 0.5)
    return record(y, (x,), lambda g: (xp.multiply(g, xp.multiply(y, xp.subtract(1, y))),))


def relu(x: Any) -> Tensor:
    """max(x, 0). There is no derivative at 0; 0 is taken, as is usual. NaN stays NaN.

    >>> relu(Tensor([-1.0, 2.0]))
    Tensor([0., 2.], dtype=float32)
    """
    x, xp = one("relu", x, floats=True)
    k, shape = x.backend, x.shape
    y = xp.empty(shape, x.dtype)
    k.relu(flat(x.data, xp), y.reshape(-1))

    def vjp(g: Array) -> tuple[Array]:
        dx = xp.empty(shape, g.dtype)
        k.relu_backward(flat(g, xp), y.reshape(-1), dx.reshape(-1))
        return (dx,)

    return record(y, (x,), vjp)


def gelu(x: Any) -> Tensor:
    """x Phi(x) with Phi the standard normal distribution function (Hendrycks and Gimpel 2016, the exact form).

    >>> gelu(Tensor([0.0]))
    Tensor([0.], dtype=float32)
    """
    x, xp = one("gelu", x, floats=True)
    k, shape, p = x.backend, x.shape, flat(x.data, xp)
    y = xp.empty(shape, x.dtype)
    k.gelu(p, y.reshape(-1))

    def vjp(g: Array) -> tuple[Array]:
        dx = xp.empty(shape, g.dtype)
        k.gelu_backward(flat(g, xp), p, dx.reshape(-1))
        return (dx,)

    return record(y, (x,), vjp)


def abs(x: Any) -> Tensor:
    """|x|. There is no derivative at 0; 0 is taken.

    >>> abs(Tensor([-2.0]))
    Tensor([2.], dtype=float32)
    """
    x, xp = one("abs", x)
    p = x.data
    return record(xp.absolute(p), (x,), lambda g: (xp.multiply(g, xp.sign(p)),))


def clip(x: Any, low: float | None = None, high: float | None = None) -> Tensor:
    """x, but not below `low` and not above `high`. The gradient passes where low <= x <= high, bounds included.

    Raises:
        OptionError: no bound, or low > high.

    >>> clip(Tensor([-2.0, 0.5]), 0, 1)
    Tensor([0. , 0.5], dtype=float32)
    """
    x, xp = one("clip", x)
    for bound in (low, high):
        if bound is not None and not isinstance(bound, int | float | np.number):
            raise OptionError(f"clip wants numbers as bounds, got {bound!r}; use maximum and minimum for tensors")
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise OptionError(f"clip wants low <= high, or one of them, got low={low}, high={high}")
    if x.dtype not in FLOATS and any(isinstance(bound, float) for bound in (low, high)):
        raise float_error("clip between floats", x.dtype)
    p = x.data
    inside = xp.ones(p.shape, bool)
    if low is not None:
        inside = xp.logical_and(inside, xp.greater_equal(p, low))
    if high is not None:
        inside = xp.logical_and(inside, xp.less_equal(p, high))
    return record(xp.clip(p, low, high), (x,), lambda g: (xp.multiply(g, inside),))


def astype(x: Any, dtype: Any) -> Tensor:
    """x in another dtype; between float32 and float64 the gradient passes and is converted back.

    >>> astype(Tensor([1.0]), "float64").dtype
    dtype('float64')
    """
    tensor, xp = one("astype", x)
    source, target = tensor.dtype, Tensor(np.empty(0, tensor.dtype), dtype=dtype).dtype
    if source == target:
        return tensor
    y = xp.array(tensor.data, target)
    if source not in FLOATS or target not in FLOATS:
        return wrap(y, tensor.backend)
    return record(y, (tensor,), lambda g: (xp.array(g, source),))


# Functions of two numbers, and choices


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b, elementwise with broadcasting. At a tie, where no derivative exists, each gets half.

    >>> maximum(Tensor([1.0, 5.0]), 3)
    Tensor([3., 5.], dtype=float32)
    """
    return _extreme("maximum", a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b, elementwise with broadcasting. At a tie, where no derivative exists, each gets half.

    >>> minimum(Tensor([1.0, 5.0]), 3)
    Tensor([1., 3.], dtype=float32)
    """
    return _extreme("minimum", a, b)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where condition holds, b elsewhere; all three broadcast. The branch not taken gets the gradient 0.

    >>> where(Tensor([True, False]), Tensor([1.0, 2.0]), 0)
    Tensor([1., 0.], dtype=float32)
    """
    a, b, xp = pair("where", a, b)
    chosen = beside("where", "a condition", condition, a)
    if chosen.dtype != bool:
        raise DTypeError(f"where wants a condition of bool, got {chosen.dtype}; compare first, e.g. x != 0")
    try:
        y = xp.where(chosen, a.data, b.data)
    except ValueError:
        raise ShapeError(f"where cannot broadcast shapes {chosen.shape}, {a.shape} and {b.shape}") from None
    return _elementwise(a, b, y, lambda g: xp.multiply(g, chosen), lambda g: xp.multiply(g, xp.logical_not(chosen)))


# Reductions


def sum(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Sum over the given axes, or over all.

    >>> sum(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    Tensor([4., 6.], dtype=float32)
    """
    x, xp = one("sum", x)
    axes, kept = normalised_axes("sum", x, axis)
    shape = x.shape
    y = xp.sum(x.data, axis=axes, keepdims=keepdims)
    return record(y, (x,), lambda g: (xp.broadcast_to(xp.reshape(g, kept), shape),))


def mean(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over the given axes, or over all.

    Raises:
        ShapeError: nothing to average over.

    >>> mean(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    Tensor([1.5, 3.5], dtype=float32)
    """
    x, xp = one("mean", x, floats=True)
    axes, kept = normalised_axes("mean", x, axis, nonempty=True)
    shape = x.shape
    count = math.prod(shape[i] for i in axes)
    y = xp.mean(x.data, axis=axes, keepdims=keepdims)
    return record(y, (x,), lambda g: (xp.broadcast_to(xp.reshape(xp.divide(g, count), kept), shape),))


def var(x: Any, axis: Axes = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """Variance over the given axes: sum((x - mean)**2) / (n - ddof).

    Raises:
        ShapeError: n - ddof is not positive.

    >>> var(Tensor([1.0, 3.0]))
    Tensor(1., dtype=float32)
    """
    x, xp = one("var", x, floats=True)
    axes, kept = normalised_axes("var", x, axis, nonempty=True)
    shape = x.shape
    count = math.prod(shape[i] for i in axes) - ddof
    if count <= 0:
        raise ShapeError(f"var over {count + ddof} elements with ddof={ddof} divides by {count}")
    centred = xp.subtract(x.data, xp.mean(x.data, axis=axes, keepdims=True))
    y = xp.divide(xp.sum(xp.multiply(centred, centred), axis=axes, keepdims=keepdims), count)
    return record(y, (x,), lambda g: (xp.multiply(xp.multiply(xp.reshape(g, kept), centred), 2 / count),))


def max(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Largest element over the given axes. At a tie, where no derivative exists, the winners share it equally.

    Raises:
        ShapeError: nothing to choose from.

    >>> max(Tensor([[1.0, 2.0], [4.0, 3.0]]), axis=1)
    Tensor([2., 4.], dtype=float32)
    """
    return _extremum("max", x, axis, keepdims)


def min(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Smallest element over the given axes. At a tie, where no derivative exists, the winners share it equally.

    Raises:
        ShapeError: nothing to choose from.

    >>> min(Tensor([[1.0, 2.0], [4.0, 3.0]]), axis=1)
    Tensor([1., 3.], dtype=float32)
    """
    return _extremum("min", x, axis, keepdims)


# Shapes


def reshape(x: Any, shape: int | Sequence[int]) -> Tensor:
    """The same elements in another shape; one length may be -1.

    >>> reshape(Tensor([1.0, 2.0]), (2, 1)).shape
    (2, 1)
    """
    x, xp = one("reshape", x)
    old = x.shape
    try:
        y = xp.reshape(x.data, shape)
    except (ValueError, TypeError):
        raise ShapeError(f"cannot reshape {x.size} elements of shape {old} into {shape}") from None
    return record(y, (x,), lambda g: (xp.reshape(g, old),))


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in the given order, or reversed.

    >>> transpose(Tensor([[1.0, 2.0]])).shape
    (2, 1)
    """
    x, xp = one("transpose", x)
    ndim = x.ndim
    order = tuple(range(ndim))[::-1] if axes is None else tuple(axes)
    if sorted(i + ndim if i < 0 else i for i in order) != list(range(ndim)):
        raise ShapeError(f"transpose wants each axis of shape {x.shape} once, got {order}")
    back = tuple(int(i) for i in np.argsort([i % ndim for i in order]))
    return record(xp.transpose(x.data, order), (x,), lambda g: (xp.transpose(g, back),))


def expand_dims(x: Any, axis: int) -> Tensor:
    """x with a new axis of length 1 at position `axis`.

    >>> expand_dims(Tensor([1.0, 2.0]), -1).shape
    (2, 1)
    """
    x, xp = one("expand_dims", x)
    old = x.shape
    try:
        y = xp.expand_dims(x.data, axis)
    except ValueError:
        raise ShapeError(f"expand_dims: axis {axis} does not fit shape {old}") from None
    return record(y, (x,), lambda g: (xp.reshape(g, old),))


def squeeze(x: Any, axis: Axes = None) -> Tensor:
    """x without the given axes of length 1, or without all of them.

    >>> squeeze(Tensor([[1.0], [2.0]])).shape
    (2,)
    """
    x, xp = one("squeeze", x)
    old = x.shape
    if axis is None:
        axes = tuple(i for i, n in enumerate(old) if n == 1)
    else:
        axes, _ = normalised_axes("squeeze", x, axis)
    if any(old[i] != 1 for i in axes):
        raise ShapeError(f"squeeze: the axes {axes} of shape {old} are not all of length 1")
    return record(xp.squeeze(x.data, axis=axes), (x,), lambda g: (xp.reshape(g, old),))


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors joined along an axis they have; all other lengths agree.

    >>> concatenate([Tensor([1.0]), Tensor([2.0])])
    Tensor([1., 2.], dtype=float32)
    """
    parts, xp = several("concatenate", tensors)
    normalised_axes("concatenate", parts[0], (axis,))
    try:
        y = xp.concatenate([t.data for t in parts], axis=axis)
    except ValueError:
        raise ShapeError(f"concatenate along axis {axis}: shapes {', '.join(str(t.shape) for t in parts)}") from None
    ends = np.cumsum([t.shape[axis] for t in parts])[:-1].tolist()
    return record(y, parts, lambda g: xp.split(g, ends, axis=axis))


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis.

    >>> stack([Tensor([1.0]), Tensor([2.0])]).shape
    (2, 1)
    """
    parts, xp = several("stack", tensors)
    try:
        y = xp.stack([t.data for t in parts], axis=axis)
    except ValueError:
        raise ShapeError(f"stack along axis {axis}: shapes {', '.join(str(t.shape) for t in parts)}") from None
    return record(y, parts, lambda g: list(xp.moveaxis(g, axis, 0)))


def getitem(x: Any, index: Any) -> Tensor:
    """x[index]: slices, integers, None, ..., integer and boolean arrays, as NumPy indexes.

    An element picked several times gets the sum of the gradients. Arrays of integers that lie on the GPU are not looked
    at: what is out of range there counts on from the other end of the axis. A mask that lies there is copied to the
    host, which waits, as the shape of the result depends on it.

    Raises:
        IndexingError: an index out of range, or one NumPy does not take.
        DeviceError: an index on another device than x.

    >>> getitem(Tensor([1.0, 2.0, 3.0]), slice(1, None))
    Tensor([2., 3.], dtype=float32)
    """
    x, xp = one("getitem", x)
    parts = index if isinstance(index, tuple) else (index,)
    # No generator: compiled, it would leave x to the rule below.
    arrays = [beside("getitem", "an index", p, x) if isinstance(p, Tensor) else p for p in parts]
    parts = tuple(arrays)
    basic = all(p is None or p is ... or type(p) in (int, slice) or isinstance(p, np.integer) for p in parts)
    if basic and ... not in parts:
        parts = (*parts, ...)  # makes a single element a view, too
    k, shape = x.backend, x.shape
    try:
        known = parts if basic or k.host else on_host(parts)
        y = x.data[parts] if basic else xp.empty(np.broadcast_to(False, shape)[known].shape, x.dtype)
    except (IndexError, TypeError) as error:
        raise IndexingError(f"cannot index shape {shape}: {error}") from None
    if not basic:
        if any(np.asarray(part).dtype.kind == "b" for part in known):
            refuse("indexing by a mask, whose result has another shape for another mask,")
        if not k.host:
            parts = on_gpu(parts, known, xp)
        k.pick(x.data, parts, y)

    def vjp(g: Array) -> tuple[Array]:
        dx = xp.zeros(shape, g.dtype)
        if basic:
            xp.copyto(dx[parts], g)
        else:
            k.scatter_add(dx, parts, g)
        return (dx,)

    return record(y, (x,), vjp)


# Softmax and the losses


def softmax(x: Any, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis, shifted by the maximum so that nothing overflows.

    >>> softmax(Tensor([0.0, 0.0]))
    Tensor([0.5, 0.5], dtype=float32)
    """
    x, xp = one("softmax", x, floats=True)
    normalised_axes("softmax", x, axis, nonempty=True)
    e = xp.exp(xp.subtract(x.data, xp.max(x.data, axis=axis, keepdims=True)))
    y = xp.divide(e, xp.sum(e, axis=axis, keepdims=True))

    def vjp(g: Array) -> tuple[Array]:
        inner = xp.sum(xp.multiply(g, y), axis=axis, keepdims=True)
        return (xp.multiply(y, xp.subtract(g, inner)),)

    return record(y, (x,), vjp)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """log(softmax(x)) along an axis, without the loss of digits that taking the logarithm afterwards would bring.

    >>> log_softmax(Tensor([0.0]))
    Tensor([0.], dtype=float32)
    """
    x, xp = one("log_softmax", x, floats=True)
    normalised_axes("log_softmax", x, axis, nonempty=True)
    shifted = xp.subtract(x.data, xp.max(x.data, axis=axis, keepdims=True))
    y = xp.subtract(shifted, xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True)))

    def vjp(g: Array) -> tuple[Array]:
        return (xp.subtract(g, xp.multiply(xp.exp(y), xp.sum(g, axis=axis, keepdims=True))),)

    return record(y, (x,), vjp)


def logsumexp(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over the given axes, shifted by the maximum so that nothing overflows.

    >>> logsumexp(Tensor([1000.0, 1000.0]))
    Tensor(1000.6932, dtype=float32)
    """
    x, xp = one("logsumexp", x, floats=True)
    axes, kept = normalised_axes("logsumexp", x, axis, nonempty=True)
    highest = xp.max(x.data, axis=axes, keepdims=True)
    # Where every element is -inf, so is the result: a shift by 0 keeps it from becoming inf - inf.
    shift = xp.where(xp.isfinite(highest), highest, highest.dtype.type(0))
    e = xp.exp(xp.subtract(x.data, shift))
    total = xp.sum(e, axis=axes, keepdims=True)
    y = xp.add(xp.log(total), shift)
    return record(
        y if keepdims else y.reshape([n for i, n in enumerate(x.shape) if i not in axes]),
        (x,),
        lambda g: (xp.multiply(xp.reshape(g, kept), xp.divide(e, total)),),
    )


def cross_entropy(logits: Any, labels: Any, weights: Any = None) -> Tensor:
    """Softmax cross-entropy, averaged over rows: sum_i w_i (logsumexp(z_i) - z_i[label_i]) / sum_i w_i.

    Args:
        logits: [n, c] float; -inf is allowed in columns that are no row's label. Those of a population,
            [members, n, c], give a loss for each member.
        labels: [n] integers in [0, c); for a population also [members, n].
        weights: [n] float >= 0, not all zero; 1 each if left out. They get no gradient. For a population as labels.

    Beside logits on the GPU, labels and weights of NumPy are checked on the host and copied up. Those that lie on the
    GPU already are not looked at, as that would wait for it: labels out of range then make the loss NaN.

    Raises:
        ShapeError: shapes that do not fit, or no row.
        DTypeError: labels that are not integers.
        DataError: a label out of range, weights that are negative or all zero.

    >>> round(cross_entropy(Tensor([[0.0, 0.0]]), [1]).item(), 4)
    0.6931
    """
    logits, xp = one("cross_entropy", logits, True)
    z, k = logits.data, logits.backend
    shape, dtype = z.shape, z.dtype
    if len(shape) == 3:
        return population.cross_entropy(logits, labels, weights)
    y = label_array(labels, logits)
    if not z.flags.c_contiguous:
        z = xp.ascontiguousarray(z)
    if len(shape) != 2 or y.shape != shape[:1] or not z.size:
        raise ShapeError(
            f"cross_entropy wants logits [n, c] and labels [n] with n, c > 0, got {logits.shape} and {y.shape}"
        )
    w = None if weights is None else sample_weights(weights, logits)
    if not k.host:
        y = settled_labels(y, shape[1], logits)
    dlogits = xp.empty(shape, dtype)
    loss = xp.empty((), dtype)
    k.softmax_cross_entropy(z, y, w, loss.reshape(1), dlogits)
    if k.host:
        # The kernel makes the loss NaN for a label out of range: looking closer only then costs a good step nothing.
        value = loss.item()
        if value != value:
            check_labels(y, shape[1])
    return record(loss, (logits,), lambda g: (_times(g, dlogits, k),))


def mse(prediction: Any, target: Any) -> Tensor:
    """Mean squared error over all elements: mean((prediction - target)**2). The target gets a gradient too.

    Raises:
        ShapeError: shapes that differ, or no element.

    >>> mse(Tensor([1.0, 2.0]), Tensor([1.0, 4.0]))
    Tensor(2., dtype=float32)
    """
    prediction, target, xp = pair("mse", prediction, target, floats=True)
    if prediction.shape != target.shape or not prediction.size:
        raise ShapeError(
            f"mse wants two equal shapes with at least one element, got {prediction.shape} and {target.shape}"
        )
    shape, k = prediction.shape, prediction.backend
    slope = xp.empty(shape, prediction.dtype)
    loss = xp.empty(1, prediction.dtype)
    k.mean_squared_error(flat(prediction.data, xp), flat(target.data, xp), loss, slope.reshape(-1))
    return _elementwise(
        prediction,
        target,
        loss.reshape(()),
        lambda g: _times(g, slope, k),
        lambda g: xp.negative(_times(g, slope, k)),
    )


# Layers, fused


def affine(x: Any, w: Any, b: Any) -> Tensor:
    """x @ w + b; x: [..., in], w: [in, out], b: [out] -> [..., out].

    Of a population: x [n, in] or [members, n, in], w [members, in, out], b [members, out] -> [members, n, out].

    Raises:
        ShapeError: shapes that do not fit, all three named.

    >>> affine(Tensor([[1.0, 2.0]]), Tensor([[1.0], [1.0]]), Tensor([0.5]))
    Tensor([[3.5]], dtype=float32)
    """
    if isinstance(w, Tensor) and w.data.ndim == 3:
        return population.affine(x, w, b)
    x, w, b, rows = affine_operands("affine", x, w, b)
    k, wd = x.backend, w.data
    xp, dtype, shape = k.xp, wd.dtype, (len(rows), wd.shape[1])
    y = xp.empty(shape, dtype)
    k.affine(rows, wd, b.data, y)

    def vjp(g: Array) -> tuple[Array | None, ...]:
        dx = xp.empty(rows.shape, dtype) if x.requires_grad else None
        dw, db = destination(w, w.requires_grad), destination(b, b.requires_grad)
        k.affine_backward(_like(g, shape, xp), rows, wd, dx, dw, db)
        return _unrows(dx, x), dw, db

    return record(_rowless(y, x), (x, w, b), vjp)


def dropout(
    x: Any,
    dropout: float | PerMember,
    *,
    generator: Generator | Generators | None = None,
    mode: str = "inverted",
    training: bool = True,
) -> Tensor:
    """x with each element zeroed with probability `dropout`, independently (Srivastava et al. 2014).

    "inverted" divides what stays by the probability of keeping and leaves evaluation alone; "vanilla" leaves what
    stays alone and multiplies by that probability in evaluation (``training=False``). The probability of keeping is
    rounded to a multiple of 2**-16, and that rounded value is used throughout.

    With `Generators`, or a `PerMember` of probabilities, x is [members, ...], and each member has masks of its own.

    Raises:
        OptionError: `dropout` outside [0, 1), an unknown mode, or training without a generator.

    >>> dropout(Tensor([1.0, 1.0, 1.0, 1.0]), 0.5, generator=Generator(4))
    Tensor([0., 2., 2., 0.], dtype=float32)
    """
    if isinstance(generator, Generators) or isinstance(dropout, PerMember):
        return population.dropout(x, dropout, generator, mode, training)
    x, xp = one("dropout", x, floats=True)
    threshold, scale = dropout_plan(dropout, mode, training)
    if threshold == KEEP_ALL:
        return x if scale == 1 else multiply(x, scale)
    k, shape = x.backend, x.shape
    seed, draw, stream = claim_draw(generator)
    y = xp.empty(shape, x.dtype)
    k.dropout(flat(x.data, xp), threshold, scale, seed, draw, stream, y.reshape(-1))

    def vjp(g: Array) -> tuple[Array]:
        dx = xp.empty(shape, g.dtype)
        k.dropout(flat(g, xp), threshold, scale, seed, draw, stream, dx.reshape(-1))
        return (dx,)

    return record(y, (x,), vjp)


def affine_relu_dropout(
    x: Any,
    w: Any,
    b: Any,
    dropout: float | PerMember = 0.0,
    *,
    generator: Generator | Generators | None = None,
    mode: str = "inverted",
    training: bool = True,
) -> Tensor:
    """dropout(relu(x @ w + b)) in one pass over the result; shapes as `affine`, options as `dropout`.

    Its backward rule needs no mask: an output above 0 was active and kept.

    Raises:
        ShapeError, OptionError: as `affine` and `dropout`.

    >>> affine_relu_dropout(Tensor([[1.0]]), Tensor([[2.0, -2.0]]), Tensor([0.0, 0.0]))
    Tensor([[2., 0.]], dtype=float32)
    """
    if isinstance(w, Tensor) and w.data.ndim == 3:
        return population.affine_relu_dropout(x, w, b, dropout, generator, mode, training)
    x, w, b, rows = affine_operands("affine_relu_dropout", x, w, b)
    threshold, scale = dropout_plan(dropout, mode, training)
    seed = draw = stream = 0
    if threshold != KEEP_ALL:
        seed, draw, stream = claim_draw(generator)
    k, wd = x.backend, w.data
    xp, dtype, shape = k.xp, wd.dtype, (len(rows), wd.shape[1])
    y = xp.empty(shape, dtype)
    k.affine_relu_dropout(rows, wd, b.data, threshold, scale, seed, draw, stream, y)

    def vjp(g: Array) -> tuple[Array | None, ...]:
        dy, dz = _like(g, shape, xp), xp.empty(shape, dtype)
        dx = xp.empty(rows.shape, dtype) if x.requires_grad else None
        dw, db = destination(w, w.requires_grad), destination(b, b.requires_grad)
        k.affine_relu_dropout_backward(dy, rows, wd, y, scale, dz, dx, dw, db)
        return _unrows(dx, x), dw, db

    return record(_rowless(y, x), (x, w, b), vjp)


# What the rules share


def _elementwise(a: Tensor, b: Tensor, y: Array, da: Callable[[Array], Array], db: Callable[[Array], Array]) -> Tensor:
    """Record y = f(a, b), where da and db are the rules as if nothing had been broadcast."""
    xp = a.backend.xp
    a_shape, b_shape, a_wanted, b_wanted = a.shape, b.shape, a.requires_grad, b.requires_grad
    return record(
        y,
        (a, b),
        lambda g: (
            _sum_to(da(g), a_shape, xp) if a_wanted else None,
            _sum_to(db(g), b_shape, xp) if b_wanted else None,
        ),
    )


def _times(g: Array, derivative: Array, k: Kernels) -> Array:
    """g, the gradient of a loss, times the derivative of that loss.

    Where g is 1, as at the root of a graph, a view; on the GPU nobody looks, which would wait for it.
    """
    return derivative[...] if not tape.capturing and k.host and g.item() == 1 else k.xp.multiply(g, derivative)


def _like(g: Array, shape: tuple[int, ...], xp: Any) -> Array:
    """g, contiguous and in the shape of the result: what a kernel takes."""
    return g if g.flags.c_contiguous and g.shape == shape else xp.ascontiguousarray(g).reshape(shape)


def _rowless(y: Array, x: Tensor) -> Array:
    """Rows [n, out] in the shape [..., out] that belongs to x [..., in]."""
    return y if x.data.ndim == 2 else y.reshape(*x.data.shape[:-1], y.shape[1])


def _unrows(dx: Array | None, x: Tensor) -> Array | None:
    """The gradient of rows in the shape of x."""
    return dx if dx is None or x.data.ndim == 2 else dx.reshape(x.data.shape)


def _sum_to(g: Array, shape: tuple[int, ...], xp: Any) -> Array:
    """Undo broadcasting: add up the gradients of all copies of an element."""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    stretched = [lead + i for i, n in enumerate(shape) if n == 1 and g.shape[lead + i] != 1]
    return xp.sum(g, axis=(*range(lead), *stretched)).reshape(shape)


def _compare(op: str, a: Any, b: Any) -> Tensor:
    a, b, xp = pair(op, a, b)
    return wrap(xp.asarray(broadcast(op, getattr(xp, op), a, b)), a.backend)


def _extreme(op: str, a: Any, b: Any) -> Tensor:
    a, b, xp = pair(op, a, b)
    y = broadcast(op, getattr(xp, op), a, b)
    p, q = a.data, b.data
    return _elementwise(a, b, y, lambda g: _share(g, p, q, y, xp), lambda g: _share(g, q, p, y, xp))


def _share(g: Array, mine: Array, other: Array, y: Array, xp: Any) -> Array:
    """What the gradient of y, the extreme of two, gives to one of them: all where it won, half at a tie."""
    half = xp.multiply(xp.equal(mine, other), g.dtype.type(0.5))
    won = xp.logical_and(xp.equal(mine, y), xp.not_equal(mine, other))
    return xp.multiply(g, xp.add(won, half))


def _extremum(op: str, x: Any, axis: Axes, keepdims: bool) -> Tensor:
    x, xp = one(op, x)
    axes, kept = normalised_axes(op, x, axis, nonempty=True)
    p = x.data
    y = getattr(xp, op)(p, axis=axes, keepdims=True)

    def vjp(g: Array) -> tuple[Array]:
        won = xp.equal(p, y)
        return (xp.multiply(xp.divide(xp.reshape(g, kept), xp.sum(won, axis=axes, keepdims=True, dtype=g.dtype)), won),)

    return record(y if keepdims else y.reshape([n for i, n in enumerate(x.shape) if i not in axes]), (x,), vjp)


# Tensor's operators call these functions, but tensor.py stands below this file and may not import it.
_tensor.ops = sys.modules[__name__]  # type: ignore[attr-defined]
