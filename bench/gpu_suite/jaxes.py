"""JAX: the step of `bench.contestants.jax`, or an epoch of it in one scan; shuffles are made on the device."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from bench.contestants.jax import IMPLEMENTATIONS, scan, step
from bench.gpu_suite.inputs import arrays
from bench.gpu_suite.workloads import LEARNING_RATE, Case

TRIES = 3


class Training:
    """A training loop around `step`, or around `scan`."""

    def __init__(self, case: Case, implementation: str, scanned: bool) -> None:
        self.case, self.scanned = case, scanned
        self.precision = "tensorfloat32" if case.tf32 else "highest"
        x, y = arrays(case)
        self.data = (jnp.asarray(x), jnp.asarray(y.astype(np.int32)), None, None)
        rng = np.random.default_rng(0)
        params = [
            (jnp.asarray((rng.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32)), jnp.zeros(b, jnp.float32))
            for a, b in pairwise(case.sizes)
        ]
        key = jax.random.key(0, impl=implementation)
        self.state: Any = (params, jax.tree.map(jnp.zeros_like, params), key, jnp.float32(LEARNING_RATE), jnp.int32(0))
        self.shuffles = jax.random.key(1)
        self.shuffled = jax.jit(self._shuffled)

    def _shuffled(self, key: Any) -> Any:
        key, own = jax.random.split(key)
        return key, jax.random.permutation(own, self.case.rows).astype(jnp.int32)

    def epoch(self) -> float:
        """One pass over the shuffled data set; the loss of its last step, which waits for the device."""
        case = self.case
        with jax.default_matmul_precision(self.precision):
            self.shuffles, order = self.shuffled(self.shuffles)
            state = (*self.state[:4], jnp.int32(0))
            if self.scanned:
                state, loss = scan(state, self.data, order[: case.steps * case.batch].reshape(case.steps, case.batch))
            else:
                for _ in range(case.steps):
                    state, loss = step(state, self.data, order, case.batch)
        self.state = state
        return float(loss)


def fastest(case: Case, scanned: bool) -> Training:
    """With the generator of bits that is fastest here."""
    best, kept = float("inf"), None
    for implementation in IMPLEMENTATIONS:
        training = Training(case, implementation, scanned)
        training.epoch()
        for _ in range(TRIES):
            begin = time.perf_counter()
            training.epoch()
            seconds = time.perf_counter() - begin
            if seconds < best:
                best, kept = seconds, training
    assert kept is not None
    return kept


class Jax:
    """The contestant."""

    def __init__(self, device: str) -> None:
        self.found = jax.devices()[0]
        if device == "gpu" and self.found.platform != "gpu":
            raise RuntimeError(f"JAX {jax.__version__} sees no GPU: its device is {self.found}")

    def describe(self) -> dict[str, str]:
        """Versions."""
        return {"jax": jax.__version__}

    def make(self, case: Case, variant: str) -> Training:
        """Ready to train."""
        return fastest(case, variant == "jax-scan")

    def synchronize(self) -> None:
        """Nothing is left to wait for: an epoch ends with a loss, and the updates come out of the same program."""
