"""What the machine allows: the least time that a training step could take.

The model, a lower bound in the sense of a roofline whose two parts do not overlap:

1. **Products.** The matrix products of one step alone: forward and dW of every layer, dX of every layer but the first.
   Each counts with the best rate that any library here reaches at exactly this shape and layout, with one thread or
   all cores, its operands warm in cache: NumPy, SciPy's BLAS through numba, PyTorch, JAX and our own kernels, so that
   no machine on which the others multiply badly flatters us. The best may differ from product to product, which no
   real step could exploit; but where dropout or ReLU leaves zeros a step may multiply less than the whole product.
2. **Bytes** that must move besides: the update reads weights, gradients and velocity and writes weights and velocity
   (5 x 4 bytes a parameter; the gradient's own write belongs to the product), and the gather reads a batch of rows and
   writes it as float32. They move at the bandwidth of a copy (bytes read plus written) measured on the spot: at the
   bandwidth of a copy that stays within the second-level caches if what is moved again in each step (12 bytes a
   parameter; the data set, for the rows read) fits into all cores' second-level caches together, else at that of a
   copy eight times as large.

Activations, masks, biases and the loss are not counted: a perfect step does them while the data is in registers. So
the ratio to the limit includes them as overhead. For networks as small as A, the calls themselves are most of the
limit, and the absolute bar of the suite says more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from bench.machine import cores, l2_total
from bench.process import ContestantError
from bench.rates import ALL_CORES_ONLY, LIBRARIES
from bench.workers import Worker
from bench.workloads import RANDOM, Task

FLOAT = 4


def products(task: Task) -> list[list[Any]]:
    """[kind, rows, inner, outer] of every product of one step."""
    found: list[list[Any]] = []
    for i, (inner, outer) in enumerate(pairwise(task.sizes)):
        shape = [task.batch, inner, outer]
        found += [["forward", *shape], ["dw", *shape]] + ([["dx", *shape]] if i else [])
    return found


def moved_bytes(task: Task) -> dict[str, int]:
    """Bytes that must move in one step, "cache" or "memory" by where their working set lies."""
    room = l2_total()
    parameters = sum((a + 1) * b for a, b in pairwise(task.sizes))
    row = task.sizes[0] * (FLOAT if task.data == RANDOM else 1)
    moved = {"cache": 0, "memory": 0}
    moved["cache" if 3 * FLOAT * parameters <= room else "memory"] += 5 * FLOAT * parameters
    moved["cache" if task.rows * row <= room else "memory"] += task.batch * row
    written = task.batch * task.sizes[0] * FLOAT
    moved["cache" if written <= room else "memory"] += written
    return moved


class Limits:
    """Workers that measure products and copies, one for each library and thread count."""

    def __init__(self, workers: dict[str, Worker]) -> None:
        self._workers = workers
        self.copy_bytes = {"cache": l2_total() // 2, "memory": 8 * l2_total()}

    def product_seconds(self, wanted: list[list[Any]]) -> dict[str, list[float]]:
        """Seconds of each product, for each library and thread count."""
        return {name: worker("products", products=wanted)["seconds"] for name, worker in self._workers.items()}

    def bandwidths(self) -> dict[str, dict[str, float]]:
        """Bytes a second in "cache" and "memory", for each library and thread count."""
        found = {}
        for name, worker in self._workers.items():
            rates = worker("bandwidths", sizes=list(self.copy_bytes.values()))["bytes_per_second"]
            found[name] = dict(zip(self.copy_bytes, rates, strict=True))
        return found


@contextlib.contextmanager
def limits(quick: bool) -> Iterator[Limits]:
    """The workers, for as long as they are needed; libraries that are missing are left out.

    quick: all cores only, not one as well.
    """
    with ExitStack() as stack:
        workers = {}
        for library in LIBRARIES:
            if find_spec(library) is None:
                continue
            for threads in {cores()} if quick or library in ALL_CORES_ONLY else sorted({1, cores()}):
                environment = {
                    name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "BENCH_THREADS")
                }
                with contextlib.suppress(ContestantError):
                    worker = stack.enter_context(Worker(f"limit:{library}", environment))
                    workers[f"{library}, {threads} thread{'s' if threads > 1 else ''}"] = worker
        yield Limits(workers)


def limit_seconds(
    task: Task, rounds: list[dict[str, list[float]]], bandwidths: list[dict[str, dict[str, float]]]
) -> dict[str, Any]:
    """The limit of a step and what it is made of.

    rounds: for each round, the seconds of each product by library; bandwidths: for each round, as `Limits` gives them.
    The best of all rounds counts.
    """
    each: list[dict[str, Any]] = []
    for i, (kind, rows, inner, outer) in enumerate(products(task)):
        seconds, name = min((times[i], name) for times_of in rounds for name, times in times_of.items())
        each.append({"product": f"{kind} {rows}x{inner}x{outer}", "seconds": seconds, "by": name})
    best = {level: max(rates[level] for one in bandwidths for rates in one.values()) for level in ("cache", "memory")}
    moved = moved_bytes(task)
    moving = sum(moved[level] / best[level] for level in moved)
    return {
        "seconds": sum(p["seconds"] for p in each) + moving,
        "products": each,
        "moving_seconds": moving,
        "moved_bytes": moved,
    }
