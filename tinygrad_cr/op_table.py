"""The table of operations: what each is tried on, and what PyTorch calls it.

`tinygrad-cr gradcheck`, the tests of gradients, of backends and of parity with PyTorch all run over these rows; an
operation that is not here is not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cr import nn, ops
from tinygrad_cr.gradcheck import GradcheckReport, gradcheck
from tinygrad_cr.operands import DROPOUT_MODES
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor

Peer = Callable[..., Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One operation on inputs of given shapes.

    Attributes:
        operation, name: e.g. "multiply" and "broadcast".
        fn: takes one tensor for each shape.
        shapes: of the inputs.
        positive: the inputs are drawn above 0 instead of around it.
        peer: the same in PyTorch: takes the module torch and one of its tensors for each shape.
    """

    operation: str
    name: str
    fn: Callable[..., Tensor]
    shapes: tuple[Shape, ...]
    positive: bool = False
    peer: Peer | None = None

    def inputs(self, seed: int = 0, dtype: Any = np.float64) -> list[np.ndarray[Any, Any]]:
        """Random arrays of the case's shapes."""
        generator = Generator(seed)
        arrays = [generator.normal(shape) for shape in self.shapes]
        if self.positive:
            arrays = [0.2 + np.abs(a) for a in arrays]
        return [a.astype(dtype) for a in arrays]

    def __str__(self) -> str:
        return f"{self.operation}-{self.name}"


def check_all(seed: int = 0) -> Iterator[tuple[str, str, GradcheckReport]]:
    """Check the gradient of every case; yields operation, case and report."""
    for case in CASES:
        report = gradcheck(case.fn, case.inputs(seed), seed=seed, name=case.operation, raises=False)
        yield case.operation, case.name, report
    for name, layer, shape in layers():
        layer.to("float64")
        x = Generator(seed).normal(shape)
        yield name, "layer", check_layer(name, layer, x, seed)


def check_layer(name: str, layer: nn.Module, x: Any, seed: int = 0) -> GradcheckReport:
    """Check a float64 layer with respect to its input and its parameters, with the same mask at each call."""

    def forward(x: Tensor) -> Tensor:
        generator = Generator(seed)
        for module in layer.modules():
            if hasattr(module, "generator"):
                module.generator = generator
        return layer(x)

    parameters = dict(layer.named_parameters())
    return gradcheck(forward, [x], wrt=parameters, seed=seed, name=name, raises=False)


def layers() -> list[tuple[str, nn.Module, Shape]]:
    """Every layer with the shape of an input."""
    return [
        ("Affine", nn.Affine(5, 3, generator=0), (4, 5)),
        ("ReLU", nn.ReLU(), (4, 5)),
        ("Dropout inverted", nn.Dropout(0.4, generator=0), (4, 5)),
        ("Dropout vanilla", nn.Dropout(0.4, mode="vanilla", generator=0), (4, 5)),
        ("AffineReLUDropout inverted", nn.AffineReLUDropout(5, 7, dropout=0.4, generator=0), (4, 5)),
        ("AffineReLUDropout vanilla", nn.AffineReLUDropout(5, 7, mode="vanilla", generator=0), (4, 5)),
        ("AffineReLUDropout evaluating", nn.AffineReLUDropout(5, 7, mode="vanilla", generator=0).eval(), (4, 5)),
        ("Sequential", nn.Sequential(nn.Affine(4, 9, generator=0), nn.ReLU(), nn.Dropout(generator=1)), (5, 4)),
        ("MLP", nn.MLP([6, 5, 4, 3], dropout=0.3, generator=0), (3, 6)),
    ]


def _unary(operation: str, fn: Callable[[Tensor], Tensor], peer: Peer, positive: bool = False) -> list[Case]:
    return [
        Case(operation, "vector", fn, ((7,),), positive, peer),
        Case(operation, "0-d", fn, ((),), positive, peer),
        Case(operation, "empty", fn, ((0, 3),), positive, peer),
        Case(operation, "transposed", lambda x: fn(x.T), ((3, 5),), positive, lambda t, x: peer(t, x.T)),
        Case(operation, "strided", lambda x: fn(x[:, ::2]), ((3, 9),), positive, lambda t, x: peer(t, x[:, ::2])),
    ]


def _binary(operation: str, fn: Callable[..., Tensor], peer: Peer, positive: bool = False) -> list[Case]:
    shapes: dict[str, tuple[Shape, Shape]] = {
        "same shape": ((4, 3), (4, 3)),
        "broadcast row": ((4, 3), (3,)),
        "broadcast both": ((4, 1), (1, 3)),
        "broadcast 3-d": ((2, 1, 3), (4, 1)),
        "0-d": ((), ()),
        "0-d and matrix": ((), (2, 3)),
        "empty": ((0, 3), (1, 3)),
    }
    cases = [Case(operation, name, fn, pair, positive, peer) for name, pair in shapes.items()]
    return [
        *cases,
        Case(operation, "repeated operand", lambda x: fn(x, x), ((3, 2),), positive, lambda t, x: peer(t, x, x)),
        Case(
            operation,
            "transposed",
            lambda a, b: fn(a.T, b),
            ((3, 4), (4, 3)),
            positive,
            lambda t, a, b: peer(t, a.T, b),
        ),
        Case(operation, "number", lambda x: fn(fn(x, 2), 3.5), ((5,),), positive),
        Case(operation, "number first", lambda x: fn(1.5, x), ((5,),), positive),
    ]


def _reduction(operation: str, fn: Callable[..., Tensor], peer: Peer, empty: bool = False) -> list[Case]:
    cases = [
        Case(operation, "all axes", fn, ((4, 3),), peer=lambda t, x: peer(t, x, (0, 1), False)),
        Case(operation, "axis 0", lambda x: fn(x, 0), ((4, 3),), peer=lambda t, x: peer(t, x, (0,), False)),
        Case(operation, "keepdims", lambda x: fn(x, -1, True), ((4, 3),), peer=lambda t, x: peer(t, x, (1,), True)),
        Case(operation, "two axes", lambda x: fn(x, (0, 2)), ((2, 3, 4),), peer=lambda t, x: peer(t, x, (0, 2), False)),
        Case(operation, "0-d", fn, ((),)),
        Case(operation, "transposed", lambda x: fn(x.T, 0), ((4, 3),), peer=lambda t, x: peer(t, x.T, (0,), False)),
    ]
    if empty:
        cases.append(Case(operation, "empty", fn, ((0, 3),), peer=lambda t, x: peer(t, x, (0, 1), False)))
    return cases


def _matmul() -> list[Case]:
    shapes: dict[str, tuple[Shape, Shape]] = {
        "matrices": ((3, 4), (4, 2)),
        "vector left": ((4,), (4, 2)),
        "vector right": ((3, 4), (4,)),
        "vectors": ((4,), (4,)),
        "batched": ((2, 3, 4), (2, 4, 5)),
        "batch broadcast": ((2, 1, 3, 4), (3, 4, 2)),
        "batch and matrix": ((2, 3, 4), (4, 5)),
        "batch and vector": ((2, 3, 4), (4,)),
        "vector and batch": ((4,), (2, 4, 3)),
        "no rows": ((0, 4), (4, 2)),
        "no inner": ((3, 0), (0, 2)),
    }

    def peer(t: Any, a: Any, b: Any) -> Any:
        return t.matmul(a, b)

    return [
        *[Case("matmul", name, ops.matmul, pair, peer=peer) for name, pair in shapes.items()],
        Case("matmul", "repeated operand", lambda x: x @ x, ((3, 3),), peer=lambda t, x: x @ x),
        Case("matmul", "transposed", lambda a, b: a.T @ b, ((4, 3), (4, 2)), peer=lambda t, a, b: a.T @ b),
    ]


_ROWS = np.array([2, 0, 2])
_LABELS = np.array([1, 0, 2, 1])
_WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0])
_CHOICE = np.array([[True, False, True], [False, False, True]])


def _shapes() -> list[Case]:
    return [
        Case("reshape", "to vector", lambda x: x.reshape(-1), ((3, 4),), peer=lambda t, x: x.reshape(-1)),
        Case("reshape", "transposed", lambda x: x.T.reshape(2, 6), ((3, 4),), peer=lambda t, x: x.T.reshape(2, 6)),
        Case("reshape", "empty", lambda x: x.reshape(3, 0), ((0, 3),), peer=lambda t, x: x.reshape(3, 0)),
        Case("transpose", "reversed", ops.transpose, ((2, 3, 4),), peer=lambda t, x: x.permute(2, 1, 0)),
        Case("transpose", "order", lambda x: x.transpose(1, 2, 0), ((2, 3, 4),), peer=lambda t, x: x.permute(1, 2, 0)),
        Case("transpose", "0-d", ops.transpose, ((),)),
        Case("expand_dims", "last", lambda x: x.expand_dims(-1), ((2, 3),), peer=lambda t, x: x.unsqueeze(-1)),
        Case("squeeze", "all", ops.squeeze, ((2, 1, 3, 1),), peer=lambda t, x: x.squeeze()),
        Case("squeeze", "one", lambda x: x.squeeze(1), ((2, 1, 3, 1),), peer=lambda t, x: x.squeeze(1)),
        Case(
            "concatenate",
            "axis 1",
            lambda a, b: ops.concatenate([a, b], 1),
            ((2, 3), (2, 1)),
            peer=lambda t, a, b: t.cat([a, b], 1),
        ),
        Case(
            "concatenate",
            "with empty",
            lambda a, b: ops.concatenate([a, b, a]),
            ((2, 3), (0, 3)),
            peer=lambda t, a, b: t.cat([a, b, a]),
        ),
        Case(
            "stack",
            "axis 1",
            lambda a, b: ops.stack([a, b, a], 1),
            ((2, 3), (2, 3)),
            peer=lambda t, a, b: t.stack([a, b, a], 1),
        ),
        Case("getitem", "slice", lambda x: x[1:, ::2], ((3, 5),), peer=lambda t, x: x[1:, ::2]),
        Case("getitem", "negative step", lambda x: x[::-1], ((4,),), peer=lambda t, x: x.flip(0)),
        Case("getitem", "integer", lambda x: x[1], ((3, 5),), peer=lambda t, x: x[1]),
        Case("getitem", "one element", lambda x: x[1, -1], ((3, 5),), peer=lambda t, x: x[1, -1]),
        Case("getitem", "ellipsis and None", lambda x: x[..., None, 0], ((3, 5),), peer=lambda t, x: x[..., None, 0]),
        Case("getitem", "repeated rows", lambda x: x[_ROWS], ((3, 4),), peer=lambda t, x: x[t.tensor(_ROWS)]),
        Case(
            "getitem",
            "rows and columns",
            lambda x: x[_ROWS, [1, 0, 1]],
            ((3, 4),),
            peer=lambda t, x: x[t.tensor(_ROWS), t.tensor([1, 0, 1])],
        ),
        Case("getitem", "mask", lambda x: x[_CHOICE], ((2, 3),), peer=lambda t, x: x[t.tensor(_CHOICE)]),
        Case("getitem", "0-d", lambda x: x[...], ((),), peer=lambda t, x: x[...]),
    ]


def _softmax(operation: str, fn: Callable[..., Tensor], peer: Peer) -> list[Case]:
    return [
        Case(operation, "rows", fn, ((4, 3),), peer=lambda t, x: peer(t, x, -1)),
        Case(operation, "axis 0", lambda x: fn(x, 0), ((4, 3),), peer=lambda t, x: peer(t, x, 0)),
        Case(operation, "far apart", lambda x: fn(x * 100.0, -1), ((4, 3),), peer=lambda t, x: peer(t, x * 100.0, -1)),
        Case(operation, "no rows", lambda x: fn(x, -1), ((0, 3),), peer=lambda t, x: peer(t, x, -1)),
        Case(operation, "transposed", lambda x: fn(x.T, -1), ((4, 3),), peer=lambda t, x: peer(t, x.T, -1)),
    ]


def _dropouts() -> list[Case]:
    cases = []
    for mode in DROPOUT_MODES:
        for training in (True, False):
            name = f"{mode} {'training' if training else 'evaluating'}"

            def drop(x: Tensor, mode: str = mode, training: bool = training) -> Tensor:
                return ops.dropout(x, 0.4, generator=Generator(3), mode=mode, training=training)

            def fused(x: Tensor, w: Tensor, b: Tensor, mode: str = mode, training: bool = training) -> Tensor:
                return ops.affine_relu_dropout(x, w, b, 0.4, generator=Generator(3), mode=mode, training=training)

            cases += [
                Case("dropout", name, drop, ((5, 7),)),
                Case("affine_relu_dropout", name, fused, ((4, 3), (3, 11), (11,))),
            ]
    return [
        *cases,
        Case("dropout", "transposed", lambda x: ops.dropout(x.T, 0.5, generator=Generator(1)), ((5, 7),)),
        Case("dropout", "0-d", lambda x: ops.dropout(x, 0.5, generator=Generator(1)), ((),)),
        Case("dropout", "empty", lambda x: ops.dropout(x, 0.5, generator=Generator(1)), ((0, 3),)),
    ]


def _layers() -> list[Case]:
    def affine(t: Any, x: Any, w: Any, b: Any) -> Any:
        return x @ w + b

    def affine_relu(t: Any, x: Any, w: Any, b: Any) -> Any:
        return t.relu(x @ w + b)

    cases = []
    for operation, fn, peer in (("affine", ops.affine, affine), ("affine_relu_dropout", _no_drop, affine_relu)):
        cases += [
            Case(operation, "matrix", fn, ((4, 3), (3, 5), (5,)), peer=peer),
            Case(operation, "vector", fn, ((3,), (3, 5), (5,)), positive=True, peer=peer),
            Case(operation, "3-d", fn, ((2, 4, 3), (3, 5), (5,)), peer=peer),
            Case(operation, "no rows", fn, ((0, 3), (3, 5), (5,)), peer=peer),
            Case(operation, "no inputs", fn, ((2, 0), (0, 5), (5,)), peer=peer),
            Case(
                operation,
                "transposed",
                lambda x, w, b, fn=fn: fn(x.T, w.T, b[::2]),
                ((3, 4), (5, 3), (9,)),
                peer=lambda t, x, w, b, peer=peer: peer(t, x.T, w.T, b[::2]),
            ),
            Case(
                operation,
                "repeated operand",
                lambda x, b, fn=fn: fn(x, x, b),
                ((3, 3), (3,)),
                peer=lambda t, x, b, peer=peer: peer(t, x, x, b),
            ),
        ]
    return cases


def _no_drop(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return ops.affine_relu_dropout(x, w, b)


def _losses() -> list[Case]:
    def weighted(t: Any, z: Any) -> Any:
        each = t.nn.functional.cross_entropy(z, t.tensor(_LABELS), reduction="none")
        w = t.tensor(_WEIGHTS, dtype=z.dtype)
        return (each * w).sum() / w.sum()

    return [
        Case(
            "cross_entropy",
            "mean",
            lambda z: ops.cross_entropy(z, _LABELS),
            ((4, 3),),
            peer=lambda t, z: t.nn.functional.cross_entropy(z, t.tensor(_LABELS)),
        ),
        Case("cross_entropy", "weighted", lambda z: ops.cross_entropy(z, _LABELS, _WEIGHTS), ((4, 3),), peer=weighted),
        Case(
            "cross_entropy",
            "far apart",
            lambda z: ops.cross_entropy(z * 30.0, _LABELS),
            ((4, 3),),
            peer=lambda t, z: t.nn.functional.cross_entropy(z * 30.0, t.tensor(_LABELS)),
        ),
        Case("cross_entropy", "scaled", lambda z: ops.cross_entropy(z, _LABELS) * 3.0, ((4, 3),)),
        Case(
            "cross_entropy",
            "transposed",
            lambda z: ops.cross_entropy(z.T, _LABELS),
            ((3, 4),),
            peer=lambda t, z: t.nn.functional.cross_entropy(z.T, t.tensor(_LABELS)),
        ),
        Case("cross_entropy", "one row", lambda z: ops.cross_entropy(z, [2]), ((1, 3),)),
        Case("mse", "matrices", ops.mse, ((4, 3), (4, 3)), peer=lambda t, p, q: t.nn.functional.mse_loss(p, q)),
        Case("mse", "repeated operand", lambda x: ops.mse(x, x * 2.0), ((5,),), peer=lambda t, x: (x**2).mean()),
        Case("mse", "0-d", ops.mse, ((), ()), peer=lambda t, p, q: t.nn.functional.mse_loss(p, q)),
        Case(
            "mse",
            "transposed",
            lambda p, q: ops.mse(p.T, q),
            ((3, 4), (4, 3)),
            peer=lambda t, p, q: t.nn.functional.mse_loss(p.T, q),
        ),
    ]


def _choices() -> list[Case]:
    return [
        Case(
            "where",
            "broadcast",
            lambda a, b: ops.where(_CHOICE, a, b),
            ((2, 3), (3,)),
            peer=lambda t, a, b: t.where(t.tensor(_CHOICE), a, b),
        ),
        Case("where", "number", lambda a: ops.where(_CHOICE, a, 0.0), ((2, 3),)),
        Case("where", "repeated operand", lambda x: ops.where(x > 0, x, x * 2.0), ((2, 3),)),
        Case("clip", "both", lambda x: ops.clip(x, -0.5, 0.5), ((9,),), peer=lambda t, x: t.clip(x, -0.5, 0.5)),
        Case("clip", "low", lambda x: ops.clip(x, low=0.1), ((9,),), peer=lambda t, x: t.clip(x, min=0.1)),
        Case("clip", "high", lambda x: ops.clip(x, high=0.1), ((),), peer=lambda t, x: t.clip(x, max=0.1)),
        Case("clip", "empty", lambda x: ops.clip(x, 0.0, 1.0), ((0, 2),), peer=lambda t, x: t.clip(x, 0.0, 1.0)),
    ]


CASES: list[Case] = [
    *_binary("add", ops.add, lambda t, a, b: a + b),
    *_binary("subtract", ops.subtract, lambda t, a, b: a - b),
    *_binary("multiply", ops.multiply, lambda t, a, b: a * b),
    *_binary("divide", ops.divide, lambda t, a, b: a / b, positive=True),
    *_binary("power", ops.power, lambda t, a, b: a**b, positive=True),
    *_binary("maximum", ops.maximum, lambda t, a, b: t.maximum(a, b)),
    *_binary("minimum", ops.minimum, lambda t, a, b: t.minimum(a, b)),
    Case("power", "square of negatives", lambda x: x**2, ((6,),), peer=lambda t, x: x**2),
    Case("power", "exponent 0", lambda x: x**0, ((6,),), peer=lambda t, x: x**0),
    *_unary("negative", ops.negative, lambda t, x: -x),
    *_unary("exp", ops.exp, lambda t, x: t.exp(x)),
    *_unary("log", ops.log, lambda t, x: t.log(x), positive=True),
    *_unary("sqrt", ops.sqrt, lambda t, x: t.sqrt(x), positive=True),
    *_unary("tanh", ops.tanh, lambda t, x: t.tanh(x)),
    *_unary("sigmoid", ops.sigmoid, lambda t, x: t.sigmoid(x)),
    *_unary("relu", ops.relu, lambda t, x: t.relu(x)),
    *_unary("gelu", ops.gelu, lambda t, x: t.nn.functional.gelu(x)),
    *_unary("abs", ops.abs, lambda t, x: t.abs(x)),
    *_unary("astype", lambda x: ops.astype(x, x.dtype), lambda t, x: x),
    *_choices(),
    *_reduction("sum", ops.sum, lambda t, x, d, k: t.sum(x, d, k), empty=True),
    *_reduction("mean", ops.mean, lambda t, x, d, k: t.mean(x, d, k)),
    *_reduction("max", ops.max, lambda t, x, d, k: t.amax(x, d, k)),
    *_reduction("min", ops.min, lambda t, x, d, k: t.amin(x, d, k)),
    *_reduction("var", ops.var, lambda t, x, d, k: t.var(x, d, correction=0, keepdim=k)),
    Case("var", "ddof 1", lambda x: ops.var(x, 0, ddof=1), ((4, 3),), peer=lambda t, x: t.var(x, 0, correction=1)),
    *_reduction("logsumexp", ops.logsumexp, lambda t, x, d, k: t.logsumexp(x, d, k)),
    *_matmul(),
    *_shapes(),
    *_softmax("softmax", ops.softmax, lambda t, x, d: t.softmax(x, d)),
    *_softmax("log_softmax", ops.log_softmax, lambda t, x, d: t.log_softmax(x, d)),
    *_losses(),
    *_layers(),
    *_dropouts(),
]
