"""What the tests of kernels and of operations share: calls that leave nothing behind but what was computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from tinygrad_cr import Tensor, nn, ops, optim
from tinygrad_cr.device import to_numpy
from tinygrad_cr.kernels import available, backend
from tinygrad_cr.op_table import Case

GPU = pytest.param("gpu", marks=pytest.mark.skipif("gpu" not in available(), reason="no CUDA device"))
FAST: list[Any] = ["cpu", GPU]
"""The backends that are held against `reference`."""
EVERY: list[Any] = [*FAST, "reference"]
"""All backends; the rows of the GPU run wherever there is one."""

ON_HOST = ("spans", "l2", "decay", "layers", "scales")
"""Arguments that are NumPy's arrays on every backend."""

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
"""Of a single term of size 1; the rounding error of a sum grows like the root of its length."""

WRITES: dict[str, tuple[str, ...]] = {
    "affine": ("out",),
    "affine_backward": ("dx", "dw", "db"),
    "relu": ("out",),
    "relu_backward": ("dx",),
    "dropout": ("out",),
    "affine_relu_dropout": ("out",),
    "affine_relu_dropout_backward": ("dz", "dx", "dw", "db"),
    "feed_forward": ("hidden", "out"),
    "feed_forward_backward": ("gradients", "dx"),
    "gelu": ("out",),
    "gelu_backward": ("dx",),
    "softmax_cross_entropy": ("loss", "dlogits"),
    "mean_squared_error": ("loss", "dprediction"),
    "pick": ("out",),
    "scatter_add": ("out",),
    "sgd": ("param", "velocity", "norms"),
    "adam": ("param", "mean", "square", "norms"),
    "gather": ("out",),
    "philox": ("out",),
}
"""The arguments a kernel may change, from the contract."""


class Size(NamedTuple):
    """Of a matrix product; an elementwise kernel gets rows * columns elements."""

    rows: int
    inner: int
    columns: int


def call(backend_name: str, kernel: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arrays among the arguments as the kernel left them; the arrays given are copied first."""
    kernels = backend(backend_name)
    arrays = {
        k: (np if k in ON_HOST else kernels.xp).array(v) for k, v in arguments.items() if isinstance(v, np.ndarray)
    }
    getattr(kernels, kernel)(*(arguments | arrays).values())
    return {k: to_numpy(v) for k, v in arrays.items()}


def assert_like_reference(backend_name: str, kernel: str, arguments: dict[str, Any], length: int = 1) -> None:
    """The backend's outputs are those of `reference`, and no input was touched; length: of the longest sum."""
    expected = call("reference", kernel, arguments)
    for name, found in call(backend_name, kernel, arguments).items():
        if name not in WRITES[kernel]:
            np.testing.assert_array_equal(found, arguments[name], err_msg=f"input {name} of {kernel} was changed")
        elif found.dtype.kind == "f":
            kind = next(v.dtype for v in expected.values() if v.dtype.kind == "f")
            limit = TOLERANCE[kind] * max(1, length) ** 0.5
            np.testing.assert_allclose(found, expected[name], rtol=limit, atol=limit, err_msg=f"{kernel} {name}")
        else:
            np.testing.assert_array_equal(found, expected[name], err_msg=f"{kernel} {name}")


class Maker:
    """Arguments of kernels, in the order of the contract: random inputs, and outputs full of NaN."""

    def __init__(self, dtype: Any, seed: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int) -> Any:
        return self.rng.normal(size=shape).astype(self.dtype)

    def unwritten(self, *shape: int) -> Any:
        return np.full(shape, np.nan, self.dtype)

    def affine(self, size: Size) -> dict[str, Any]:
        return {
            "x": self.normal(size.rows, size.inner),
            "w": self.normal(size.inner, size.columns),
            "b": self.normal(size.columns),
            "out": self.unwritten(size.rows, size.columns),
        }

    def affine_backward(self, size: Size) -> dict[str, Any]:
        return {
            "dy": self.normal(size.rows, size.columns),
            "x": self.normal(size.rows, size.inner),
            "w": self.normal(size.inner, size.columns),
            "dx": self.unwritten(size.rows, size.inner),
            "dw": self.unwritten(size.inner, size.columns),
            "db": self.unwritten(size.columns),
        }

    def mask(self, threshold: int = 32768, state: tuple[int, int, int] = (5, 7, 3)) -> dict[str, Any]:
        return dict(
            zip(("threshold", "scale", "seed", "draw", "stream"), (threshold, 65536 / threshold, *state), strict=True)
        )

    def affine_relu_dropout(self, size: Size, **mask: Any) -> dict[str, Any]:
        inputs = self.affine(size)
        out = inputs.pop("out")
        return {**inputs, **self.mask(**mask), "out": out}

    def affine_relu_dropout_backward(self, size: Size) -> dict[str, Any]:
        y = self.normal(size.rows, size.columns)
        wanted = self.affine_backward(size)
        return {
            "dy": wanted["dy"],
            "x": wanted["x"],
            "w": wanted["w"],
            "y": np.maximum(y, 0),
            "scale": 1.6,
            "dz": self.unwritten(size.rows, size.columns),
            "dx": wanted["dx"],
            "dw": wanted["dw"],
            "db": wanted["db"],
        }

    def _layers(self, size: Size) -> tuple[int, Any, Any, Any]:
        """Of three layers, one with dropout, one with ReLU alone: length of a buffer, layers, scales, widths."""
        widths = np.array([size.inner, size.columns, 6, 4])
        weights = widths[:-1] * widths[1:]
        # Each bias lies before its weights, with a gap of three elements behind it.
        starts = np.cumsum([0, *(weights + widths[1:] + 3)])
        layers = np.stack(
            [starts[:-1] + widths[1:] + 3, starts[:-1], widths[:-1], widths[1:], [32768, 0, 65536]], axis=1
        )
        return int(starts[-1]), layers, np.array([2.0, 1.0, 0.5]), widths

    def feed_forward(self, size: Size) -> dict[str, Any]:
        length, layers, scales, widths = self._layers(size)
        values = self.normal(length) / self.dtype.type(max(1, *widths) ** 0.5)
        return {
            "x": self.normal(size.rows, size.inner),
            "values": values,
            "layers": layers,
            "scales": scales,
            "seed": 5,
            "draw": 7,
            "stream": 3,
            "hidden": self.unwritten(size.rows * int(widths[1:-1].sum())),
            "out": self.unwritten(size.rows, int(widths[-1])),
        }

    def feed_forward_backward(self, size: Size) -> dict[str, Any]:
        forward = self.feed_forward(size)
        given = {name: forward[name] for name in ("x", "values", "layers", "scales")}
        outputs = {name: np.maximum(self.normal(*forward[name].shape), 0) for name in ("hidden", "out")}
        gradients, dx = self.unwritten(forward["values"].size), self.unwritten(*forward["x"].shape)
        return {"dy": self.normal(*forward["out"].shape), **given, **outputs, "gradients": gradients, "dx": dx}

    def relu(self, size: Size) -> dict[str, Any]:
        n = size.rows * size.columns
        return {"x": self.normal(n), "out": self.unwritten(n)}

    gelu = relu

    def relu_backward(self, size: Size) -> dict[str, Any]:
        n = size.rows * size.columns
        return {"dy": self.normal(n), "y": np.maximum(self.normal(n), 0), "dx": self.unwritten(n)}

    def gelu_backward(self, size: Size) -> dict[str, Any]:
        n = size.rows * size.columns
        return {"dy": self.normal(n), "x": self.normal(n), "dx": self.unwritten(n)}

    def dropout(self, size: Size, **mask: Any) -> dict[str, Any]:
        arguments = self.relu(size)
        return {"x": arguments["x"], **self.mask(**mask), "out": arguments["out"]}

    def softmax_cross_entropy(self, size: Size, weights: Any = None) -> dict[str, Any]:
        return {
            "logits": self.normal(size.rows, size.columns),
            "labels": self.rng.integers(0, size.columns, size.rows),
            "weights": weights,
            "loss": self.unwritten(1),
            "dlogits": self.unwritten(size.rows, size.columns),
        }

    def mean_squared_error(self, size: Size) -> dict[str, Any]:
        n = size.rows * size.columns
        return {
            "prediction": self.normal(n),
            "target": self.normal(n),
            "loss": self.unwritten(1),
            "dprediction": self.unwritten(n),
        }

    def pick(self, size: Size) -> dict[str, Any]:
        picked = self.rng.integers(0, size.rows, 2 * size.rows) if size.rows else np.zeros(0, int)
        return {
            "x": self.normal(size.rows, size.columns),
            "index": picked,
            "out": self.unwritten(picked.size, size.columns),
        }

    def scatter_add(self, size: Size) -> dict[str, Any]:
        picked = self.rng.integers(0, size.rows, 2 * size.rows) if size.rows else np.zeros(0, int)
        return {
            "out": self.normal(size.rows, size.columns),
            "index": picked,
            "values": self.normal(picked.size, size.columns),
        }

    def gather(self, size: Size, data: Any = None) -> dict[str, Any]:
        stored = self.normal(size.rows + 4, size.columns) if data is None else data
        return {
            "data": stored,
            "rows": self.rng.integers(0, len(stored), size.rows),
            "mean": self.normal(size.columns),
            "scale": self.normal(size.columns),
            "out": self.unwritten(size.rows, size.columns),
        }

    def _tensors(self, size: Size) -> tuple[int, Any]:
        """How long a flat buffer is that holds two tensors with a gap behind each, and where they lie in it."""
        first = size.rows * size.columns
        return first + size.columns + 8, np.array([[0, first], [first + 3, first + 3 + size.columns]])

    def sgd(self, size: Size, momentum: float = 0.9, nesterov: bool = False, norms: bool = True) -> dict[str, Any]:
        n, spans = self._tensors(size)
        return {
            "param": self.normal(n),
            "grad": self.normal(n),
            "velocity": self.normal(n),
            "spans": spans,
            "l2": np.array([0.3, 0.0]),
            "lr": 0.1,
            "momentum": momentum,
            "nesterov": nesterov,
            "norms": np.full((2, 2), np.nan) if norms else None,
        }

    def adam(self, size: Size, step: int = 3, norms: bool = True) -> dict[str, Any]:
        n, spans = self._tensors(size)
        return {
            "param": self.normal(n),
            "grad": self.normal(n),
            "mean": self.normal(n),
            "square": self.normal(n) ** 2,
            "spans": spans,
            "l2": np.array([0.3, 0.0]),
            "decay": np.array([0.2, 0.0]),
            "lr": 0.1,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-8,
            "step": step,
            "norms": np.full((2, 2), np.nan) if norms else None,
        }

    def philox(self, size: Size) -> dict[str, Any]:
        words = self.rng.integers(0, 2**32, (size.rows + 1, 4), np.uint32)
        return {"counters": words[1:], "key": words[0, :2].copy(), "out": np.zeros((size.rows, 4), np.uint32)}


def evaluate(fn: Callable[..., Tensor], inputs: list[Any], device: str = "cpu") -> tuple[Any, list[Any]]:
    """The value of fn and the gradient of ``sum(v * fn(...))`` for each input, v as in `weights_for`."""
    tensors = [Tensor(a, requires_grad=True, device=device) for a in inputs]
    y = fn(*tensors)
    y.backward(weights_for(y))
    return y.numpy(), [np.zeros(t.shape) if t.grad is None else to_numpy(t.grad) for t in tensors]


def weights_for(y: Any) -> Any:
    """Fixed random numbers in the shape and dtype of a result."""
    return np.random.default_rng(1).normal(size=tuple(y.shape)).astype(str(y.dtype).rpartition(".")[2])


def evaluate_case(case: Case, dtype: Any, device: str = "cpu") -> tuple[Any, list[Any]]:
    """`evaluate` on the inputs of a row of the table."""
    return evaluate(case.fn, case.inputs(dtype=dtype), device)


def small_network(dtype: str = "float64") -> nn.MLP:
    """A network of two layers, always the same."""
    return nn.MLP([4, 5, 3], generator=0, dtype=dtype)


def training_step(model: nn.Module, optimizer: optim.Optimizer) -> Callable[[Tensor, Any], Tensor]:
    """The step that everybody writes: forward, backward, update."""

    def step(x: Tensor, y: Any) -> Tensor:
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step
