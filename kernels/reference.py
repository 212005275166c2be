"""Every kernel as plain array code: the specification, and the oracle that the fast versions are held against.

The array library comes from the arrays themselves (`_xp`), so the same lines run on NumPy and CuPy. Clarity comes
first here: temporaries are allocated freely.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import Any

import numpy

from .interface import NEGLIGIBLE, NO_DROPOUT, Array

PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LANES = 8
"""16-bit lanes a Philox block yields: one for each element it decides about."""


def _xp(array: Array) -> Any:
    return numpy if isinstance(array, numpy.ndarray) else sys.modules[type(array).__module__.partition(".")[0]]


def _erf(x: Array) -> Array:
    if isinstance(x, numpy.ndarray):
        from scipy.special import erf
    else:
        from cupyx.scipy.special import erf
    return erf(x)


def affine(x: Array, w: Array, b: Array, out: Array) -> None:
    out[...] = x @ w + b


def affine_backward(dy: Array, x: Array, w: Array, dx: Array | None, dw: Array | None, db: Array | None) -> None:
    if dx is not None:
        dx[...] = dy @ w.T
    if dw is not None:
        dw[...] = x.T @ dy
    if db is not None:
        db[...] = dy.sum(axis=0)


def relu(x: Array, out: Array) -> None:
    _xp(x).maximum(x, 0, out=out)


def relu_backward(dy: Array, y: Array, dx: Array) -> None:
    dx[...] = _xp(y).where(y > 0, dy, 0)


def philox(counters: Array, key: Array, out: Array) -> None:
    """Ten rounds; each multiplies two words to 64 bits and mixes the halves with the other two and the key."""
    xp = _xp(counters)
    c0, c1, c2, c3 = (counters[:, i].astype(xp.uint64) for i in range(4))
    k0, k1 = int(key[0]), int(key[1])
    low = xp.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0 = xp.uint64(PHILOX_MULTIPLIERS[0]) * c0
        p1 = xp.uint64(PHILOX_MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ xp.uint64(k0), p1 & low, (p0 >> 32) ^ c3 ^ xp.uint64(k1), p0 & low
        k0, k1 = (k0 + PHILOX_KEY_STEPS[0]) % 2**32, (k1 + PHILOX_KEY_STEPS[1]) % 2**32
    for i, word in enumerate((c0, c1, c2, c3)):
        out[:, i] = word


def _kept(n: int, threshold: int, seed: int, draw: int, stream: int, xp: Any) -> Array:
    """Which of n elements stay: bool [n]. This is the definition of the lane layout.

    Block i has the counter (i, draw low, draw high, stream) and the key (seed low, seed high). Its four words give
    lanes 0..7 in the order low half, high half of word 0, low half, high half of word 1, and so on.
    """
    blocks = -(-n // LANES)
    counters = xp.empty((blocks, 4), xp.uint32)
    counters[:, 0] = xp.arange(blocks, dtype=xp.uint32)
    counters[:, 1:] = xp.asarray([draw % 2**32, draw >> 32, stream], dtype=xp.uint32)
    words = xp.empty((blocks, 4), xp.uint32)
    philox(counters, numpy.array([seed % 2**32, seed >> 32], numpy.uint32), words)
    lanes = xp.stack([words & xp.uint32(0xFFFF), words >> xp.uint32(16)], axis=2)
    return lanes.reshape(-1)[:n] < threshold


def dropout(x: Array, threshold: int, scale: float, seed: int, draw: int, stream: int, out: Array) -> None:
    xp = _xp(x)
    kept = _kept(x.size, threshold, seed, draw, stream, xp)
    out[...] = xp.where(kept, x * x.dtype.type(scale), 0)


def affine_relu_dropout(
    x: Array,
    w: Array,
    b: Array,
    threshold: int,
    scale: float,
    seed: int,
    draw: int,
    stream: int,
    out: Array,
) -> None:
    active = _xp(x).maximum(x @ w + b, 0).reshape(-1)
    dropout(active, threshold, scale, seed, draw, stream, out.reshape(-1))


def affine_relu_dropout_backward(
    dy: Array,
    x: Array,
    w: Array,
    y: Array,
    scale: float,
    dz: Array,
    dx: Array | None,
    dw: Array | None,
    db: Array | None,
) -> None:
    dz[...] = _xp(y).where(y > 0, dy * dy.dtype.type(scale), 0)
    affine_backward(dz, x, w, dx, dw, db)


def _outputs(layers: Array, hidden: Array, out: Array) -> list[Array]:
    """What each layer gives: parts of `hidden`, then `out`."""
    rows, widths = len(out), layers[:-1, 3].tolist()
    ends = numpy.cumsum([0, *(rows * width for width in widths)]).tolist()
    parts = [hidden[begin:end] for begin, end in pairwise(ends)]
    return [*(part.reshape(rows, width) for part, width in zip(parts, widths, strict=True)), out]


def _layer(flat: Array, layer: Array) -> tuple[Array, Array]:
    """Weights and bias of a layer, or their gradients, in a buffer of all."""
    w, b, inputs, outputs = (int(place) for place in layer[:4])
    return flat[w : w + inputs * outputs].reshape(inputs, outputs), flat[b : b + outputs]


def feed_forward(
    x: Array,
    values: Array,
    layers: Array,
    scales: Array,
    seed: int,
    draw: int,
    stream: int,
    hidden: Array,
    out: Array,
) -> None:
    for layer, scale, y in zip(layers, scales, _outputs(layers, hidden, out), strict=True):
        w, b = _layer(values, layer)
        threshold = int(layer[4])
        if threshold:
            affine_relu_dropout(x, w, b, threshold, float(scale), seed, draw, stream, y)
            draw += threshold < NO_DROPOUT
        else:
            affine(x, w, b, y)
        x = y


def feed_forward_backward(
    dy: Array,
    x: Array,
    values: Array,
    layers: Array,
    scales: Array,
    hidden: Array,
    out: Array,
    gradients: Array,
    dx: Array | None,
) -> None:
    outputs = _outputs(layers, hidden, out)
    for k in reversed(range(len(layers))):
        w, _ = _layer(values, layers[k])
        source = outputs[k - 1] if k else x
        target = _xp(x).empty_like(source) if k else dx
        if layers[k, 4]:
            dz = _xp(x).empty_like(dy)
            affine_relu_dropout_backward(
                dy, source, w, outputs[k], float(scales[k]), dz, target, *_layer(gradients, layers[k])
            )
        else:
            affine_backward(dy, source, w, target, *_layer(gradients, layers[k]))
        dy = target


def gelu(x: Array, out: Array) -> None:
    out[...] = 0.5 * x * (1 + _erf(x * x.dtype.type(math.sqrt(0.5))))


def gelu_backward(dy: Array, x: Array, dx: Array) -> None:
    distribution = 0.5 * (1 + _erf(x * x.dtype.type(math.sqrt(0.5))))
    density = _xp(x).exp(-0.5 * x * x) * x.dtype.type(1 / math.sqrt(2 * math.pi))
    dx[...] = dy * (distribution + x * density)


def softmax_cross_entropy(logits: Array, labels: Array, weights: Array | None, loss: Array, dlogits: Array) -> None:
    xp = _xp(logits)
    n, classes = logits.shape
    rows = xp.arange(n)
    in_range = (labels >= 0) & (labels < classes)
    safe = xp.where(in_range, labels, 0)
    w = xp.ones(n) if weights is None else weights.astype(xp.float64)
    share = w / w.sum()
    shifted = logits - logits.max(axis=1, keepdims=True)
    e = xp.exp(shifted)
    total = e.sum(axis=1)
    each = xp.log(total).astype(xp.float64) - shifted[rows, safe]
    loss[0] = xp.sum(share * xp.where(in_range, each, xp.nan))
    dlogits[...] = e / total[:, None]
    dlogits[rows, safe] -= 1
    dlogits *= share[:, None].astype(logits.dtype)


def mean_squared_error(prediction: Array, target: Array, loss: Array, dprediction: Array) -> None:
    difference = prediction - target
    loss[0] = (difference.astype(numpy.float64) ** 2).mean()
    dprediction[...] = difference * difference.dtype.type(2 / difference.size)


def pick(x: Array, index: Any, out: Array) -> None:
    out[...] = x[index]


def scatter_add(out: Array, index: Any, values: Array) -> None:
    _xp(out).add.at(out, index, values)


def _record_norms(norms: Array | None, i: int, param: Array, update: Array) -> None:
    if norms is not None:
        norms[i, 0] = (param.astype(numpy.float64) ** 2).sum()
        if norms.shape[1] > 1:
            norms[i, 1] = (update.astype(numpy.float64) ** 2).sum()


def sgd(
    param: Array,
    grad: Array,
    velocity: Array,
    spans: Array,
    l2: Array,
    lr: float,
    momentum: float,
    nesterov: bool,
    norms: Array | None,
) -> None:
    number = param.dtype.type
    for i, (start, stop) in enumerate(spans):
        p, v = param[start:stop], velocity[start:stop]
        g = grad[start:stop] + number(l2[i]) * p
        if momentum:
            v *= number(momentum)
            v += g
            v[abs(v) <= NEGLIGIBLE] = 0
            g = g + number(momentum) * v if nesterov else v
        update = number(lr) * g
        _record_norms(norms, i, p, update)
        p -= update


def adam(
    param: Array,
    grad: Array,
    mean: Array,
    square: Array,
    spans: Array,
    l2: Array,
    decay: Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    norms: Array | None,
) -> None:
    number = param.dtype.type
    mean_correction = number(1 / (1 - beta1**step))
    square_correction = number(1 / (1 - beta2**step))
    for i, (start, stop) in enumerate(spans):
        p, m, s = param[start:stop], mean[start:stop], square[start:stop]
        g = grad[start:stop] + number(l2[i]) * p
        m[...] = number(beta1) * m + number(1 - beta1) * g
        s[...] = number(beta2) * s + number(1 - beta2) * g * g
        direction = m * mean_correction / (_xp(s).sqrt(s * square_correction) + number(eps))
        update = number(lr) * (direction + number(decay[i]) * p)
        _record_norms(norms, i, p, update)
        p -= update


def gather(data: Array, rows: Array, mean: Array, scale: Array, out: Array) -> None:
    out[...] = (data[rows].astype(out.dtype) - mean) * scale
