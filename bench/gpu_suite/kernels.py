"""Every kernel alone on arrays of 64 MiB, beside a copy of the same size: what share of the bandwidth it reaches.

A kernel is held against `reference` on the same device before it is timed. Of a kernel with a matrix product the
launches around the product are timed: they are recorded as the kernel makes them, and replayed without it. Bytes are
those that must move: each input read once, each output written once.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cr.kernels import KERNELS, backend

SIDE = 4096
"""4096 x 4096 float32 are 64 MiB."""
DRY_SIDE = 32
BLOCKS, CALLS = 7, 20
TOLERANCE = 1e-5
"""Relative, of one float32 term; the rounding of a sum grows like the root of its length."""


Launch = tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """A kernel and what it is called with.

    Attributes:
        arguments: by name, in the order of the contract; arrays are `base` arrays that are copied before use.
        outputs: the names of what it writes.
        moved: bytes that must be read and written, products not counted.
        length: of the longest sum in it.
    """

    kernel: str
    arguments: dict[str, Any]
    outputs: tuple[str, ...]
    moved: int
    length: int = 1


class Arrays:
    """Random arrays on the device, made once on the host; whoever writes into one copies it first."""

    def __init__(self, xp: Any, side: int) -> None:
        self.xp, self.side = xp, side
        rng = np.random.default_rng(0)
        self.normal = [xp.asarray(rng.standard_normal((side, side), dtype=np.float32)) for _ in range(4)]
        self.row = [xp.asarray(rng.standard_normal(side, dtype=np.float32)) for _ in range(2)]
        self.labels = xp.asarray(rng.integers(0, side, side))
        self.classes = xp.asarray(rng.integers(0, 8, side * side // 8))
        self.rows = xp.asarray(rng.permutation(side))
        self.bytes = xp.asarray(rng.integers(0, 256, (side, side), np.uint8))
        self.words = xp.asarray(rng.integers(0, 2**32, (side * side // 4, 4), np.uint32))

    def empty(self, *shape: int, dtype: str = "float32") -> Any:
        """Full of what no kernel should leave behind."""
        return self.xp.full(shape, 7 if dtype != "float32" else float("nan"), dtype)


def calls(arrays: Arrays) -> dict[str, Call]:
    """A call of each kernel, by what it is called in the report; one with two faces has two."""
    n, whole = arrays.side, arrays.normal[0].nbytes
    a, b, c, _ = arrays.normal
    flat = [matrix.reshape(-1) for matrix in arrays.normal]
    positive = arrays.xp.maximum(b, 0)
    mask = {"threshold": 32768, "scale": 2.0, "seed": 5, "draw": 7, "stream": 3}
    # Sums of n terms of size 1 would drown the bias: weights as in training.
    layer = {"x": a, "w": b * (n**-0.5)}
    gradients = {"dx": arrays.empty(n, n), "dw": arrays.empty(n, n), "db": arrays.empty(n)}
    spans, l2 = np.array([[0, n * n - n], [n * n - n, n * n]]), np.array([1e-4, 0.0])
    sgd = {"param": flat[0], "grad": flat[1], "velocity": flat[2], "spans": spans, "l2": l2, "lr": 1e-3}
    sgd |= {"momentum": 0.9, "nesterov": False}
    adam = {"param": flat[0], "grad": flat[1], "mean": flat[2], "square": flat[3] ** 2, "spans": spans, "l2": l2}
    adam |= {"decay": l2, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 3}
    network = {"x": a, "values": arrays.xp.concatenate([(b * (n**-0.5)).reshape(-1), arrays.row[0]] * 2)}
    network |= {"layers": np.array([[0, n * n, n, n, 32768], [n * n + n, 2 * n * n + n, n, n, 0]])}
    network |= {"scales": np.array([2.0, 1.0])}
    updated = {"sgd": ("param", "velocity"), "adam": ("param", "mean", "square")}
    line = arrays.empty(n * n)
    eight = flat[0].reshape(-1, 8)
    norms = arrays.xp.zeros((2, 2), "float64")
    return {
        "affine (bias)": Call(
            "affine", {**layer, "b": arrays.row[0], "out": arrays.empty(n, n)}, ("out",), 2 * whole, n
        ),
        "affine_backward (db)": Call("affine_backward", {"dy": c, **layer, **gradients}, (*gradients,), whole, n),
        "affine_relu_dropout": Call(
            "affine_relu_dropout",
            {**layer, "b": arrays.row[0], **mask, "out": arrays.empty(n, n)},
            ("out",),
            2 * whole,
            n,
        ),
        "affine_relu_dropout_backward": Call(
            "affine_relu_dropout_backward",
            {"dy": c, **layer, "y": positive, "scale": 2.0, "dz": arrays.empty(n, n), **gradients},
            ("dz", *gradients),
            3 * whole,
            n,
        ),
        "feed_forward": Call(
            "feed_forward",
            {**network, "seed": 5, "draw": 7, "stream": 3, "hidden": arrays.empty(n * n), "out": arrays.empty(n, n)},
            ("hidden", "out"),
            5 * whole,
            n,
        ),
        "feed_forward_backward": Call(
            "feed_forward_backward",
            {"dy": c, **network, "hidden": positive.reshape(-1), "out": b}
            | {"gradients": arrays.empty(2 * n * n + 2 * n), "dx": arrays.empty(n, n)},
            ("gradients", "dx"),
            8 * whole,
            n * n,
        ),
        "sgd": Call("sgd", {**sgd, "norms": None}, updated["sgd"], 5 * whole),
        "sgd, norms": Call("sgd", {**sgd, "norms": norms}, (*updated["sgd"], "norms"), 5 * whole, n * n),
        "adam": Call("adam", {**adam, "norms": None}, updated["adam"], 7 * whole),
        "adam, norms": Call("adam", {**adam, "norms": norms}, (*updated["adam"], "norms"), 7 * whole, n * n),
        "softmax_cross_entropy": Call(
            "softmax_cross_entropy",
            {"logits": a, "labels": arrays.labels, "weights": None, "loss": arrays.empty(1)}
            | {"dlogits": arrays.empty(n, n)},
            ("loss", "dlogits"),
            2 * whole + 8 * n,
            n,
        ),
        "softmax_cross_entropy, 8 classes": Call(
            "softmax_cross_entropy",
            {"logits": eight, "labels": arrays.classes, "weights": None, "loss": arrays.empty(1)}
            | {"dlogits": arrays.empty(*eight.shape)},
            ("loss", "dlogits"),
            2 * whole + 8 * len(eight),
            n,
        ),
        "gather, uint8": Call(
            "gather",
            {"data": arrays.bytes, "rows": arrays.rows, "mean": arrays.row[0], "scale": arrays.row[1]}
            | {"out": arrays.empty(n, n)},
            ("out",),
            whole + whole // 4,
        ),
        "gather, float32": Call(
            "gather",
            {"data": a, "rows": arrays.rows, "mean": arrays.row[0], "scale": arrays.row[1], "out": arrays.empty(n, n)},
            ("out",),
            2 * whole,
        ),
        "dropout": Call("dropout", {"x": flat[0], **mask, "out": line}, ("out",), 2 * whole),
        "relu": Call("relu", {"x": flat[0], "out": line}, ("out",), 2 * whole),
        "relu_backward": Call(
            "relu_backward", {"dy": flat[0], "y": positive.reshape(-1), "dx": line}, ("dx",), 3 * whole
        ),
        "gelu": Call("gelu", {"x": flat[0], "out": line}, ("out",), 2 * whole),
        "gelu_backward": Call("gelu_backward", {"dy": flat[0], "x": flat[1], "dx": line}, ("dx",), 3 * whole),
        "mean_squared_error": Call(
            "mean_squared_error",
            {"prediction": flat[0], "target": flat[1], "loss": arrays.empty(1), "dprediction": line},
            ("loss", "dprediction"),
            3 * whole,
            n,
        ),
        "pick": Call("pick", {"x": a, "index": arrays.rows, "out": arrays.empty(n, n)}, ("out",), 2 * whole),
        "scatter_add": Call("scatter_add", {"out": a, "index": arrays.rows, "values": b}, ("out",), 3 * whole),
        "philox": Call(
            "philox",
            {"counters": arrays.words, "key": arrays.words[0, :2].copy(), "out": arrays.xp.zeros_like(arrays.words)},
            ("out",),
            2 * arrays.words.nbytes,
        ),
    }


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Inside, launches of the families are noted as they are made, to be made again by themselves."""
    launches: list[Launch] = []
    prefix = "tinygrad_cr.kernels.gpu."
    families = [m for n, m in sys.modules.items() if n.startswith(prefix) and "launch" in vars(m)]
    originals = [(module, module.launch) for module in families]

    def noting(launch: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **named: Any) -> None:
            launches.append((launch, arguments, named))
            launch(*arguments, **named)

        return call

    try:
        for module, launch in originals:
            module.launch = noting(launch)  # type: ignore[attr-defined]
        yield launches
    finally:
        for module, launch in originals:
            module.launch = launch  # type: ignore[attr-defined]


def disagreement(found: dict[str, Any], wanted: dict[str, Any], call: Call, xp: Any) -> str | None:
    """What a kernel left behind that `reference` did not, or None."""
    limit = TOLERANCE * call.length**0.5
    for name in call.outputs:
        if found[name].dtype.kind != "f":
            wrong = int((found[name] != wanted[name]).sum())
            if wrong:
                return f"{wrong} elements of {name} differ"
            continue
        # A NaN in either is one that the other has not: no kernel of these gives one.
        excess = xp.abs(found[name] - wanted[name]) - limit * xp.abs(wanted[name])
        if not float(excess.max()) <= limit:
            return f"{name} is off by {float(xp.abs(found[name] - wanted[name]).max()):.3g}"
    return None


class Kernels:
    """The contestant: it has one command of its own, `kernel`."""

    def __init__(self, device: str) -> None:
        self.device, self.own, self.reference = device, backend(device), backend("reference")
        self.arrays = Arrays(self.own.xp, SIDE if device == "gpu" else DRY_SIDE)
        self.calls = calls(self.arrays)

    def describe(self) -> dict[str, str]:
        """Nothing that the others do not say."""
        return {}

    def names(self) -> dict[str, Any]:
        """What can be measured, and kernels that nobody thought of."""
        covered = {call.kernel for call in self.calls.values()}
        return {"names": list(self.calls), "uncovered": [name for name in KERNELS if name not in covered]}

    def copy(self) -> dict[str, Any]:
        """Bytes a second, read and written, of a copy of such an array."""
        source, target = self.arrays.normal[0], self.arrays.empty(*self.arrays.normal[0].shape)
        seconds = self._seconds(lambda: self.own.xp.copyto(target, source))
        return {"seconds": seconds, "rate": 2 * source.nbytes / statistics.median(seconds)}

    def kernel(self, name: str) -> dict[str, Any]:
        """Check, then time; `problem` says what is wrong, and then there are no times."""
        call = self.calls[name]
        launches, arguments, problem = self.check(call)
        record: dict[str, Any] = {"kernel": call.kernel, "moved": call.moved, "problem": problem}
        if problem:
            return record
        function = getattr(self.own, call.kernel)
        record["launches"] = len(launches)
        record["whole"] = self._seconds(lambda: function(*arguments))
        if launches:

            def replay() -> None:
                for launch, given, named in launches:
                    launch(*given, **named)

            record["alone"] = self._seconds(replay)
        return record

    def check(self, call: Call) -> tuple[list[Launch], list[Any], str | None]:
        """The launches that a kernel makes, the arguments as it left them, and what `reference` finds otherwise."""
        found, wanted = self._copied(call), self._copied(call)
        # Looked up before: a family is imported when its first kernel is.
        function = getattr(self.own, call.kernel)
        with recorded() as launches:
            function(*found.values())
        getattr(self.reference, call.kernel)(*wanted.values())
        return launches, list(found.values()), disagreement(found, wanted, call, self.own.xp)

    def _copied(self, call: Call) -> dict[str, Any]:
        ours = type(self.arrays.normal[0])
        return {k: v.copy() if isinstance(v, ours) else v for k, v in call.arguments.items()}

    def _seconds(self, run: Callable[[], None]) -> list[float]:
        """Of a call, in each of some blocks of calls that follow one another; by the device's own clock."""
        for _ in range(3):
            run()
        return [self._block(run) / CALLS for _ in range(BLOCKS)]

    def _block(self, run: Callable[[], None]) -> float:
        if self.device != "gpu":
            begin = time.perf_counter()
            for _ in range(CALLS):
                run()
            return time.perf_counter() - begin
        cuda = self.own.xp.cuda
        begin, end = cuda.Event(), cuda.Event()
        cuda.Device().synchronize()
        begin.record()
        for _ in range(CALLS):
            run()
        end.record()
        end.synchronize()
        return float(cuda.get_elapsed_time(begin, end)) / 1e3
