"""Kernels one by one: each is held against `reference` first, then timed, beside what the machine allows.

A product's limit is the sum of its matrix products at the best rate any library reaches; an elementwise kernel's limit
is its bytes over the copy bandwidth of the level of memory that holds them. A call from Python costs about a
microsecond and is included, as it is in use.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import limit
from bench.machine import l2_total
from bench.rates import best
from bench.report import table
from bench.worker import settle

ROWS, INNER, COLUMNS = 128, 784, 256
"""The first layer of network C."""
LIMIT_ROUNDS = 3
TOLERANCE = 1e-5
"""Relative, of one float32 term; the rounding of a sum grows like the root of its length."""


@dataclass(frozen=True)
class Case:
    """A call of a kernel.

    Attributes:
        arguments: by name, in the order of the contract.
        outputs: the names of what it writes.
        elements: what a nanosecond is counted for.
        products: its matrix products, as in `limit.products`.
        bytes_moved: read and written, where there is no product.
    """

    arguments: dict[str, Any]
    outputs: tuple[str, ...]
    elements: int
    products: tuple[tuple[str, int, int, int], ...] = ()
    bytes_moved: int = 0

    @property
    def flops(self) -> int:
        """Of the products: two an element and term."""
        return sum(2 * math.prod(shape) for _, *shape in self.products)


def cases(quick: bool) -> dict[str, Case]:
    """A call of each kernel of the contract, in float32 at a size that real training has."""
    rng = np.random.default_rng(0)
    n, d, m = (8, 16, 24) if quick else (ROWS, INNER, COLUMNS)
    count = n * m
    parameters = (d + 1) * m

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    def empty(*shape: int) -> Any:
        return np.full(shape, np.nan, np.float32)

    mask = {"threshold": 32768, "scale": 2.0, "seed": 5, "draw": 7, "stream": 3}
    layer = {"x": normal(n, d), "w": normal(d, m)}
    gradients = {"dx": empty(n, d), "dw": empty(d, m), "db": empty(m)}
    shape = (n, d, m)
    forward, backward = (("forward", *shape),), (("dx", *shape), ("dw", *shape))
    spans, l2 = np.array([[0, d * m], [d * m, parameters]]), np.array([1e-4, 0.0])
    x, y = normal(count), np.maximum(normal(count), 0)
    labels = rng.integers(0, 10, n)
    picked = rng.integers(0, 50 * n, n)
    standard = {"mean": normal(d), "scale": normal(d)}
    target = normal(count)
    words = rng.integers(0, 2**32, (count // 8, 4), np.uint32)
    whole = parameters + (m + 1) * 10
    network = {
        "x": normal(n, d),
        "values": normal(whole) / np.float32(d**0.5),
        "layers": np.array([[0, d * m, d, m, 32768], [parameters, whole - 10, m, 10, 0]]),
        "scales": np.array([2.0, 1.0]),
    }
    state = {name: mask[name] for name in ("seed", "draw", "stream")}
    second = (n, m, 10)
    sgd = {"param": normal(parameters), "grad": normal(parameters), "velocity": normal(parameters)}
    adam = {**sgd, "mean": normal(parameters), "square": normal(parameters) ** 2}
    del adam["velocity"]
    return {
        "affine": Case({**layer, "b": normal(m), "out": empty(n, m)}, ("out",), count, forward),
        "affine_backward": Case({"dy": normal(n, m), **layer, **gradients}, ("dx", "dw", "db"), parameters, backward),
        "relu": Case({"x": x, "out": empty(count)}, ("out",), count, (), 8 * count),
        "relu_backward": Case({"dy": x, "y": y, "dx": empty(count)}, ("dx",), count, (), 12 * count),
        "dropout": Case({"x": x, **mask, "out": empty(count)}, ("out",), count, (), 8 * count),
        "affine_relu_dropout": Case({**layer, "b": normal(m), **mask, "out": empty(n, m)}, ("out",), count, forward),
        "affine_relu_dropout_backward": Case(
            {"dy": normal(n, m), **layer, "y": y.reshape(n, m), "scale": 2.0, "dz": empty(n, m), **gradients},
            ("dz", "dx", "dw", "db"),
            parameters,
            backward,
        ),
        "feed_forward": Case(
            {**network, **state, "hidden": empty(count), "out": empty(n, 10)},
            ("hidden", "out"),
            count + 10 * n,
            (("forward", *shape), ("forward", *second)),
        ),
        "feed_forward_backward": Case(
            {"dy": normal(n, 10), **network, "hidden": y, "out": normal(n, 10), "gradients": empty(whole)}
            | {"dx": empty(n, d)},
            ("gradients", "dx"),
            whole,
            (*backward, ("dx", *second), ("dw", *second)),
        ),
        "gelu": Case({"x": x, "out": empty(count)}, ("out",), count, (), 8 * count),
        "gelu_backward": Case({"dy": y, "x": x, "dx": empty(count)}, ("dx",), count, (), 12 * count),
        "softmax_cross_entropy": Case(
            {"logits": normal(n, 10), "labels": labels, "weights": None, "loss": empty(1), "dlogits": empty(n, 10)},
            ("loss", "dlogits"),
            10 * n,
            (),
            80 * n + 8 * n,
        ),
        "mean_squared_error": Case(
            {"prediction": x, "target": target, "loss": empty(1), "dprediction": empty(count)},
            ("loss", "dprediction"),
            count,
            (),
            12 * count,
        ),
        "pick": Case({"x": normal(50 * n, m), "index": picked, "out": normal(n, m)}, ("out",), count, (), 8 * count),
        "scatter_add": Case(
            {"out": normal(50 * n, m), "index": picked, "values": normal(n, m)}, ("out",), count, (), 12 * count
        ),
        "sgd": Case(
            {**sgd, "spans": spans, "l2": l2, "lr": 1e-6, "momentum": 0.9, "nesterov": False, "norms": None},
            ("param", "velocity"),
            parameters,
            (),
            20 * parameters,
        ),
        "adam": Case(
            {**adam, "spans": spans, "l2": l2, "decay": l2, "lr": 1e-6, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
            | {"step": 3, "norms": None},
            ("param", "mean", "square"),
            parameters,
            (),
            28 * parameters,
        ),
        "gather": Case(
            {"data": rng.integers(0, 256, (50 * n, d), np.uint8), "rows": picked, **standard, "out": empty(n, d)},
            ("out",),
            n * d,
            (),
            5 * n * d,
        ),
        "philox": Case(
            {"counters": words, "key": words[0, :2].copy(), "out": np.zeros_like(words)},
            ("out",),
            count // 2,
            (),
            2 * words.nbytes,
        ),
    }


def disagreement(kernel: Any, reference: Any, case: Case) -> str | None:
    """What the kernel computes differently from the reference, or None."""
    found, wanted = ({k: _copy(v) for k, v in case.arguments.items()} for _ in range(2))
    kernel(*found.values())
    reference(*wanted.values())
    longest = max((max(shape) for _, *shape in case.products), default=1)
    limit = TOLERANCE * max(longest, case.elements if "loss" in case.outputs else 1) ** 0.5
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            continue
        if name not in case.outputs:
            if not np.array_equal(value, case.arguments[name]):
                return f"changed its input {name}"
        elif not np.allclose(value, wanted[name], rtol=limit, atol=limit):
            with np.errstate(invalid="ignore"):
                return f"{name} is off by {np.abs(value.astype(float) - wanted[name]).max():.3g}"
    return None


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def measure(quick: bool) -> list[dict[str, Any]]:
    """A record for each kernel of the contract; one without a case, or that is wrong, is not timed and says so."""
    from tinygrad_cr.kernels import KERNELS, Kernels, backend

    cpu, reference = backend("cpu"), backend("reference")
    known = cases(quick)
    records: list[dict[str, Any]] = []
    with limit.limits(quick) as limits:
        wanted = sorted({p for case in known.values() for p in case.products})
        rounds = range(1 if quick else LIMIT_ROUNDS)
        times = [row for _ in rounds for row in limits.product_seconds([list(p) for p in wanted]).values()]
        copies = [row for _ in rounds for row in limits.bandwidths().values()]
    product_seconds = {p: min(row[i] for row in times) for i, p in enumerate(wanted)}
    copy = {level: max(row[level] for row in copies) for level in ("cache", "memory")}
    for name in KERNELS:
        record: dict[str, Any] = {"kernel": name}
        records.append(record)
        contract = list(inspect.signature(getattr(Kernels, name)).parameters)[1:]
        case = known.get(name)
        if case is None or list(case.arguments) != contract:
            record["problem"] = "bench/kernels.py has no case that fits its contract"
            continue
        kernel = getattr(cpu, name)
        record["problem"] = disagreement(kernel, getattr(reference, name), case)
        if record["problem"]:
            continue
        arguments = [_copy(value) for value in case.arguments.values()]

        def repeat(calls: int, kernel: Any = kernel, arguments: list[Any] = arguments) -> None:
            for _ in range(calls):
                kernel(*arguments)

        # Threads of NumPy's products, which the reference is made of, look out for work for a while.
        settle()
        level = "cache" if case.bytes_moved <= l2_total() else "memory"
        least = sum(product_seconds[p] for p in case.products) + case.bytes_moved / copy[level]
        record |= {
            "own": kernel is not getattr(reference, name),
            "seconds": best(repeat),
            "limit_seconds": least,
            "elements": case.elements,
            "flops": case.flops,
            "bytes": case.bytes_moved,
        }
    return records


def markdown(records: list[dict[str, Any]]) -> str:
    """A row a kernel: ns an element, the rate, the same at the limit, and how far it is from that."""
    rows = []
    for r in records:
        if r["problem"]:
            rows.append([r["kernel"], f"**{r['problem']}**", *[""] * 5])
            continue
        amount, unit = (r["flops"], "GFLOP/s") if r["flops"] else (r["bytes"], "GB/s")
        rows.append(
            [
                r["kernel"] + ("" if r["own"] else " (reference: no fast version)"),
                f"{r['seconds'] * 1e6:.1f}",
                f"{r['seconds'] / r['elements'] * 1e9:.2f}",
                f"{amount / r['seconds'] / 1e9:.1f} {unit}",
                f"{amount / r['limit_seconds'] / 1e9:.1f} {unit}",
                f"{r['seconds'] / r['limit_seconds']:.2f}x",
                "agrees",
            ]
        )
    return table(["kernel", "us", "ns an element", "rate", "limit", "time over limit", "with reference"], rows)
