"""JAX: the whole step jitted, gather and masks included, with donated buffers and nothing sent from the host.

The state that a step takes and gives carries the position within the epoch, so that a call transfers nothing. A mask
needs one random byte a unit, as the probability is a half. Which generator of bits is fastest is measured: JAX's
default (threefry) is slow on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from numpy.typing import NDArray

from bench.inputs import Inputs
from bench.workloads import DROPOUT, LEARNING_RATE, MOMENTUM, Task

IMPLEMENTATIONS = ("unsafe_rbg", "rbg", "threefry2x32")
assert DROPOUT == 0.5, "masks below compare a byte with 128"


def logits_of(params: Any, x: Any) -> Any:
    """The network without dropout; params: [(w, b), ...]."""
    for w, b in params[:-1]:
        x = jnp.maximum(x @ w + b, 0)
    w, b = params[-1]
    return x @ w + b


def loss_of(params: Any, x: Any, y: Any, key: Any) -> Any:
    """Mean cross-entropy with inverted dropout behind each hidden layer."""
    for (w, b), own in zip(params[:-1], jax.random.split(key, max(1, len(params) - 1)), strict=False):
        h = jnp.maximum(x @ w + b, 0)
        keep = jax.random.bits(own, h.shape, jnp.uint8) < 128
        x = jnp.where(keep, h * 2, 0)
    w, b = params[-1]
    z = x @ w + b
    picked = jnp.take_along_axis(z, y[:, None], axis=1, mode="promise_in_bounds")[:, 0]
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - picked)


def update(state: Any, data: Any, rows: Any) -> Any:
    """One step on these rows; state: params, velocity, key, learning rate, position."""
    params, velocity, key, lr, position = state
    x, y, mean, scale = data
    xb = x.at[rows].get(mode="promise_in_bounds")
    if mean is not None:
        xb = (xb.astype(jnp.float32) - mean) * scale
    key, own = jax.random.split(key)
    loss, gradient = jax.value_and_grad(loss_of)(params, xb, y.at[rows].get(mode="promise_in_bounds"), own)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
    params = jax.tree.map(lambda p, v: p - lr * v, params, velocity)
    return (params, velocity, key, lr, position + len(rows)), loss


@partial(jax.jit, static_argnums=3, donate_argnums=0)
def step(state: Any, data: Any, order: Any, size: int) -> Any:
    """The step at the state's position in this order."""
    return update(state, data, lax.dynamic_slice_in_dim(order, state[4], size))


@partial(jax.jit, donate_argnums=0)
def scan(state: Any, data: Any, order: Any) -> Any:
    """A step for each row of order: [steps, batch]."""
    state, losses = lax.scan(lambda s, rows: update(s, data, rows), state, order)
    return state, losses[-1]


class Training:
    """A training loop around `step`, or around `scan`."""

    def __init__(self, task: Task, inputs: Inputs, implementation: str, scanned: bool) -> None:
        self.task, self.implementation, self.scanned = task, implementation, scanned
        optional = [None if a is None else jnp.asarray(a) for a in (inputs.mean, inputs.scale)]
        self.data = (jnp.asarray(inputs.x), jnp.asarray(inputs.y.astype(np.int32)), *optional)
        self.shuffles = np.random.default_rng(0)
        self.accurate = jax.jit(lambda p, x, y: jnp.mean(jnp.argmax(logits_of(p, x), axis=1) == y))
        self.reset(LEARNING_RATE, 0)

    def reset(self, lr: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sizes = self.task.sizes
        params = [
            (
                jnp.asarray((rng.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32)),
                jnp.zeros(b, jnp.float32),
            )
            for a, b in pairwise(sizes)
        ]
        key = jax.random.key(seed, impl=self.implementation)
        self.state = (params, jax.tree.map(jnp.zeros_like, params), key, jnp.float32(lr), jnp.int32(0))

    def epoch(self) -> float:
        batch, rows = self.task.batch, self.task.rows
        order = jnp.asarray(self.shuffles.permutation(rows).astype(np.int32))
        whole = rows // batch
        state = (*self.state[:4], jnp.int32(0))
        data, loss = self.data, jnp.nan
        if self.scanned and whole:
            state, loss = scan(state, data, order[: whole * batch].reshape(whole, batch))
        else:
            for _ in range(whole):
                state, loss = step(state, data, order, batch)
        if rows % batch:
            state, loss = step(state, data, order, rows % batch)
        self.state = state
        return float(loss)

    def accuracy(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        return float(self.accurate(self.state[0], x, y))


class Prediction:
    """A jitted call of the network."""

    def __init__(self, task: Task, inputs: Inputs) -> None:
        self.params = Training(task, inputs, IMPLEMENTATIONS[0], scanned=False).state[0]
        self.x = jnp.asarray(inputs.x)
        self.predict = jax.jit(logits_of)

    def repeat(self, calls: int) -> None:
        predict, params, x = self.predict, self.params, self.x
        for _ in range(calls):
            predict(params, x).block_until_ready()


class Step:
    """One jitted call a step."""

    scanned = False

    def trainers(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Training]]:
        return {f"{name} bits": partial(Training, task, inputs, name, self.scanned) for name in IMPLEMENTATIONS}

    def predictors(self, task: Task, inputs: Inputs) -> Mapping[str, Callable[[], Prediction]]:
        return {} if self.scanned else {"jit": partial(Prediction, task, inputs)}


class Scan(Step):
    """One jitted call an epoch."""

    scanned = True
