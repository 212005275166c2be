"""The rules of populations: operations whose parameters have a leading axis of members.

Each is the operation of `ops` of the same name, member by member: what comes out for one is what a network of its own
computes. Weights are [members, in, out], biases [members, out], activations [members, n, out], losses [members]; an
input [n, in] is everybody's. Members that are computed no more (`tape.computing`) have unspecified results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_cr import tape
from tinygrad_cr.device import lies_on_gpu
from tinygrad_cr.errors import OptionError, ShapeError
from tinygrad_cr.kernels import Array
from tinygrad_cr.operands import (
    KEEP_ALL,
    beside,
    check_labels,
    device_error,
    dropout_plan,
    float_error,
    label_array,
    mix_error,
    one,
    sample_weights,
    settled_labels,
)
from tinygrad_cr.options import of_member
from tinygrad_cr.random import Generators
from tinygrad_cr.tape import ask, destination, each_member, mode, watch
from tinygrad_cr.tensor import FLOATS, Tensor, record, wrap

Plan = tuple[int, float]
Mask = tuple[int, int, int]


def affine(x: Any, w: Any, b: Any) -> Tensor:
    """x @ w + b; x: [n, in] or [members, n, in], w: [members, in, out], b: [members, out] -> [members, n, out]."""
    x, w, b, inputs = _operands("affine", x, w, b)
    k, wd, bd = x.backend, w.data, b.data
    y = _result((len(wd), inputs[0].shape[0], wd.shape[2]), x)
    for m in each_member(len(wd)):
        k.affine(inputs[m], wd[m], bd[m], y[m])

    def vjp(g: Array) -> tuple[Array | None, ...]:
        dy, (dx, dw, db) = _like(g, x), _gradients(x, w, b, inputs)
        for m in each_member(len(wd)):
            k.affine_backward(dy[m], inputs[m], wd[m], _of(dx, m), _of(dw, m), _of(db, m))
        return _shared(dx, x), dw, db

    return record(y, (x, w, b), vjp)


def affine_relu_dropout(
    x: Any, w: Any, b: Any, dropout: Any, generator: Any, dropout_mode: str, training: bool
) -> Tensor:
    """dropout(relu(x @ w + b)); shapes as `affine`; dropout: one probability, or one a member."""
    x, w, b, inputs = _operands("affine_relu_dropout", x, w, b)
    k, wd, bd = x.backend, w.data, b.data
    plans = _plans(dropout, dropout_mode, training, len(wd))
    masks = _claim(generator, plans)
    y = _result((len(wd), inputs[0].shape[0], wd.shape[2]), x)
    for m in each_member(len(wd)):
        k.affine_relu_dropout(inputs[m], wd[m], bd[m], *plans[m], *masks[m], y[m])

    def vjp(g: Array) -> tuple[Array | None, ...]:
        dy, (dx, dw, db) = _like(g, x), _gradients(x, w, b, inputs)
        dz = _result(y.shape, x)
        for m in each_member(len(wd)):
            gradients = _of(dx, m), _of(dw, m), _of(db, m)
            k.affine_relu_dropout_backward(dy[m], inputs[m], wd[m], y[m], plans[m][1], dz[m], *gradients)
        return _shared(dx, x), dw, db

    return record(y, (x, w, b), vjp)


def dropout(x: Any, dropout: Any, generator: Any, dropout_mode: str, training: bool) -> Tensor:
    """Dropout of x [members, ...]; dropout: one probability, or one a member."""
    x, xp = one("dropout", x, floats=True)
    members = len(generator) if generator is not None else len(dropout)
    if x.data.shape[:1] != (members,):
        raise ShapeError(f"dropout of {members} members wants x [{members}, ...], got {x.shape}")
    plans = _plans(dropout, dropout_mode, training, members)
    masks = _claim(generator, plans)
    k = x.backend

    def masked(a: Array) -> Array:
        a, out = xp.ascontiguousarray(a), _result(a.shape, x)
        for m in each_member(members):
            (threshold, scale), rows = plans[m], a[m].reshape(-1)
            if threshold == KEEP_ALL:
                xp.multiply(rows, a.dtype.type(scale), out=out[m].reshape(-1))
            else:
                k.dropout(rows, threshold, scale, *masks[m], out[m].reshape(-1))
        return out

    return record(masked(x.data), (x,), lambda g: (masked(g),))


def cross_entropy(logits: Tensor, labels: Any, weights: Any) -> Tensor:
    """Softmax cross-entropy of each member, averaged over its rows: [members].

    logits: [members, n, c]; labels: [n] for everybody or [members, n]; weights: [n] or [members, n], or None.
    """
    xp = logits.backend.xp
    k = logits.backend
    y, z = label_array(labels, logits), xp.ascontiguousarray(logits.data)
    members, rows, classes = z.shape
    if y.shape not in ((rows,), (members, rows)) or not z.size:
        raise ShapeError(
            f"cross_entropy of a population wants logits [members, n, c] and labels [n] or [members, n] with n, c > 0, "
            f"got {logits.shape} and {y.shape}"
        )
    if not k.host:
        y = settled_labels(y, classes, logits)
    ys: Sequence[Array] = y if y.ndim == 2 else [y] * members
    ws = _weights(weights, logits)
    dlogits, loss = _result(z.shape, logits), _result((members,), logits)
    for m in each_member(members):
        k.softmax_cross_entropy(z[m], ys[m], ws[m], loss[m : m + 1], dlogits[m])
    # The kernel makes the loss NaN for a label out of range: looking closer only then costs a good step nothing.
    if k.host and any(value != value for value in loss.tolist()):
        check_labels(y.reshape(-1), classes)

    def vjp(g: Array) -> tuple[Array]:
        dz = _result(z.shape, logits)
        for m in each_member(members):
            xp.multiply(g[m, ...], dlogits[m], out=dz[m])
        return (dz,)

    return record(loss, (logits,), vjp)


def _operands(op: str, x: Any, w: Any, b: Any) -> tuple[Tensor, Tensor, Tensor, Sequence[Array]]:
    """x, w, b as tensors that fit together, and the contiguous rows [n, in] of each member."""
    x, w, b = (t if isinstance(t, Tensor) else Tensor(t) for t in (x, w, b))
    for other in (w, b):
        if x.backend is not other.backend:
            raise device_error(op, x, other)
        if x.dtype != other.dtype:
            raise mix_error(op, x.dtype, other.dtype)
    if x.dtype not in FLOATS:
        raise float_error(op, x.dtype)
    members, width, out = w.shape
    lead = (members,) if x.ndim == 3 else ()
    if x.ndim not in (2, 3) or (*x.shape[:-2], x.shape[-1]) != (*lead, width) or b.shape != (members, out):
        raise ShapeError(
            f"{op} of a population wants x [n, in] or [members, n, in], w [members, in, out], b [members, out]; "
            f"got {x.shape}, {w.shape}, {b.shape}"
        )
    xp = x.backend.xp
    w, b = _packed(w), _packed(b)
    rows = xp.ascontiguousarray(x.data)
    return x, w, b, rows if x.ndim == 3 else [rows] * members


def _packed(t: Tensor) -> Tensor:
    """t, or a recorded copy of it in which each member is contiguous."""
    xp = t.backend.xp
    return t if t.data[0].flags.c_contiguous else record(xp.ascontiguousarray(t.data), (t,), lambda g: (g,))


def _result(shape: tuple[int, ...], like: Tensor) -> Array:
    """Memory for results. Members that are not computed keep zeros in it, so that nothing random comes of them."""
    out = like.backend.xp.empty(shape, like.dtype)
    if mode.active is not None:
        out.fill(0)
    return out


def _gradients(x: Tensor, w: Tensor, b: Tensor, inputs: Sequence[Array]) -> tuple[Array | None, ...]:
    """Where the gradients of x (for each member), w and b go."""
    dx = _result((len(inputs), *inputs[0].shape), x) if x.requires_grad else None
    return dx, destination(w, w.requires_grad), destination(b, b.requires_grad)


def _of(gradients: Array | None, m: int) -> Array | None:
    return None if gradients is None else gradients[m]


def _shared(dx: Array | None, x: Tensor) -> Array | None:
    """The gradient of an input that all members share is the sum of theirs."""
    return dx if dx is None or x.ndim == 3 else x.backend.xp.sum(dx, axis=0)


def _like(g: Array, x: Tensor) -> Array:
    return g if g.flags.c_contiguous else x.backend.xp.ascontiguousarray(g)


def _plans(dropout: Any, dropout_mode: str, training: bool, members: int) -> list[Plan]:
    return [dropout_plan(of_member(dropout, m), dropout_mode, training) for m in range(members)]


def _claim(generators: Any, plans: list[Plan]) -> list[Mask]:
    """Seed, draw and stream of a new mask for each member; one that drops nothing draws nothing."""
    drops = [threshold != KEEP_ALL for threshold, _ in plans]
    if not any(drops):
        return [(0, 0, 0)] * len(plans)
    if not isinstance(generators, Generators) or len(generators) != len(plans):
        raise OptionError(
            f"dropout of {len(plans)} members wants a generator for each: pass generator=member_generators(seed, "
            f"{len(plans)}), or training=False"
        )
    own = list(zip(generators, drops, strict=True))

    def draws() -> list[int]:
        return [generator.next_draw() if drop else 0 for generator, drop in own]

    if tape.capturing and (generators.capture is None or generators.capture is not mode.program):
        for generator in generators:
            watch(generator, "seed", "stream")
        numbers = ask(draws)
    else:
        numbers = draws()
    return [(generator.seed, draw, generator.stream) for generator, draw in zip(generators, numbers, strict=True)]


def _weights(weights: Any, logits: Tensor) -> Sequence[Array | None]:
    """Sample weights for each member."""
    members = len(logits.data)
    if weights is None:
        return [None] * members
    if isinstance(weights, Tensor):
        given = beside("cross_entropy", "weights", weights, logits)
    else:
        given = weights if lies_on_gpu(weights) else np.asarray(weights)
    member = [wrap(z, logits.backend) for z in logits.data]
    if given.ndim == 2 and len(given) == members:
        return [sample_weights(own, rows) for own, rows in zip(given, member, strict=True)]
    return [sample_weights(given, member[0])] * members
