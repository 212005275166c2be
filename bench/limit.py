"""What the machine allows: the least time that a training step could take.

The model, a roofline whose two parts do not overlap:

1. **Products.** The matrix products of one step alone: forward and dW of every layer, dX of every layer but the first.
   Each counts with the best rate that any library here reaches at exactly this shape and layout, with one thread or
   all cores, its operands warm in cache: NumPy, SciPy's BLAS through numba, PyTorch, JAX and our own kernels, so that
   no machine on which the others multiply badly flatters us. The best may differ from product to product, which no
   real step could exploit.
2. **Bytes** that must move besides: the update reads and writes weights and velocity (4 x 4 bytes a parameter; a
   gradient is used while it is in registers), and the gather reads a batch of rows and writes it as float32. They move
   at the bandwidth of a copy (bytes read plus written) measured on the spot: at the bandwidth of a copy that stays
   within the second-level caches if what is moved again in each step (8 bytes a parameter; the data set, for the rows
   read) fits into all cores' second-level caches together, else at that of a copy eight times as large.

Activations, masks, biases and the loss are not counted: a perfect step does them while the data is in registers. So
the ratio to the limit includes them as overhead. For networks as small as A, the calls themselves are most of the
limit, and the absolute bar of the suite says more.

A real step can stay below: where dropout or ReLU leaves zeros it multiplies less than the whole product, and while one
core waits for bytes the other multiplies.
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
from bench.rates import LIBRARIES
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
    moved["cache" if 2 * FLOAT * parameters <= room else "memory"] += 4 * FLOAT * parameters
    moved["cache" if task.rows * row <= room else "memory"] += task.batch * row
    written = task.batch * task.sizes[0] * FLOAT
    moved["cache" if written <= room else "memory"] += written
    return moved


class Limits:
    """Workers that measure products and copies, one for each library and thread count.

    Attributes:
        failed: the libraries and thread counts that could not be measured, and why: the limit is without them.
    """

    def __init__(self, workers: dict[str, Worker], failed: dict[str, str]) -> None:
        self._workers, self.failed = workers, failed
        self.copy_bytes = {"cache": l2_total() // 2, "memory": 8 * l2_total()}

    def product_seconds(self, wanted: list[list[Any]]) -> dict[str, list[float]]:
        """Seconds of each product, for each library and thread count."""
        return {name: reply["seconds"] for name, reply in self._ask("products", products=wanted).items()}

    def bandwidths(self) -> dict[str, dict[str, float]]:
        """Bytes a second in "cache" and "memory", for each library and thread count."""
        replies = self._ask("bandwidths", sizes=list(self.copy_bytes.values()))
        return {name: dict(zip(self.copy_bytes, r["bytes_per_second"], strict=True)) for name, r in replies.items()}

    @property
    def libraries(self) -> list[str]:
        """The libraries and thread counts that are measured."""
        return list(self._workers)

    def _ask(self, what: str, **arguments: Any) -> dict[str, dict[str, Any]]:
        """A reply of each worker; one that fails is asked no more.

        Raises:
            ContestantError: none is left.
        """
        replies = {}
        for name, worker in list(self._workers.items()):
            try:
                replies[name] = worker(what, **arguments)
            except ContestantError as problem:
                self.failed[name] = str(problem)
                del self._workers[name]
        if not replies:
            raise ContestantError(f"no library is left to measure the limit with: {self.failed}")
        return replies


@contextlib.contextmanager
def limits(quick: bool) -> Iterator[Limits]:
    """The workers, for as long as they are needed; libraries that are missing are left out.

    quick: all cores only, not one as well.
    """
    with ExitStack() as stack:
        workers, failed = {}, {}
        for library in LIBRARIES:
            if find_spec(library) is None:
                continue
            for threads in {cores()} if quick else sorted({1, cores()}):
                environment = {
                    name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "BENCH_THREADS")
                }
                if threads == 1:
                    environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
                name = f"{library}, {threads} thread{'s' if threads > 1 else ''}"
                try:
                    workers[name] = stack.enter_context(Worker(f"limit:{library}", environment))
                except ContestantError as problem:
                    failed[name] = str(problem)
        yield Limits(workers, failed)


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
