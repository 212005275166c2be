"""Optimisers, in order of increasing complexity. Each step is one kernel call over the flat buffers of a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygrad_cr import tape
from tinygrad_cr.errors import GraphError, OptionError, ShapeError, StateDictError, unknown_name
from tinygrad_cr.kernels import Array
from tinygrad_cr.nn import Module, Parameter
from tinygrad_cr.options import number
from tinygrad_cr.tape import ask, watch


class Optimizer:
    """What all optimisers share: the buffers, which tensors take part, and the penalty on weights.

    Args:
        model: the module whose parameters are updated.
        lr: the learning rate; assign to it at any time.
        weight_decay: adds ``weight_decay * W`` to the gradient of weights, not of biases.

    Raises:
        OptionError: a number outside its range.
    """

    buffers: tuple[str, ...] = ()
    """The names of the attributes that hold state of the size of the parameters."""
    options: tuple[str, ...] = ("weight_decay",)
    """The names of the arguments, and attributes, besides model and lr."""

    def __init__(self, model: Module, lr: float, weight_decay: float = 0.0) -> None:
        self.flat = model.flat()
        self.lr = lr
        self.weight_decay = number("weight_decay", weight_decay)
        self.steps = 0
        self._weights = np.array([float(p.regularized) for p in self.flat.parameters])
        self._penalised, self._penalty, self._l2 = self._weights, 0.0, 0.0 * self._weights
        for name in self.buffers:
            setattr(self, name, self.flat.zeros(self.flat.values.size, self.flat.values.dtype))

    def trains(self, model: Module) -> bool:
        """Whether the parameters of this module are the ones updated here, in the memory they live in now."""
        return self.flat.covers(model.parameters())

    @property
    def lr(self) -> float:
        """The learning rate; assigning a number that is negative or not finite is an `OptionError`."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = number("lr", value)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.flat.parameters:
            parameter.grad = None

    def config(self) -> dict[str, Any]:
        """The arguments besides model and lr that make this optimiser again."""
        return {name: getattr(self, name) for name in self.options}

    def _rate(self) -> float:
        return self._lr

    def _count(self) -> int:
        self.steps += 1
        return self.steps

    def step(self, *, reg: float = 0.0, norms: bool = False) -> Array | None:
        """Update every parameter that has a gradient; one without is left alone.

        Args:
            reg: strength of the penalty 0.5 * reg * sum(W**2) on weights, whose gradient is added here.
            norms: measure, in the same pass, ``sum(p**2)`` before the update and ``sum(update**2)``.

        Returns:
            [k, 2] float64, a row for each of the module's parameters in order, or None.

        Raises:
            GraphError: a parameter got other memory since this optimiser was made.
        """
        flat = self.flat
        if not flat.intact():
            raise GraphError(
                "the model's parameters moved to other memory since the optimizer was made "
                "(by .to(), by packing into another module, or by assigning .data); make the optimizer afterwards"
            )
        chosen: list[int] | None = None
        spans, weights = flat.spans, self._weights
        if not flat.complete():
            chosen = self._choose()
            spans, weights = spans[chosen], weights[chosen]
        out = np.zeros((len(spans), 2)) if norms else None
        if tape.capturing:
            watch(self, "weight_decay")
        penalty = self.weight_decay + reg
        if weights is not self._penalised or penalty != self._penalty:
            self._penalised, self._penalty, self._l2 = weights, penalty, penalty * weights
        self._update(ask(self._count), spans, self._l2, weights, out)
        if out is not None and chosen is not None:
            everything = np.array([[np.sum(np.square(p.data, dtype=np.float64)), 0.0] for p in flat.parameters])
            everything[chosen] = out
            return everything
        return out

    def _choose(self) -> list[int]:
        """The places of the parameters that have a gradient, which then lies where the kernels read it."""
        for parameter in self.flat.parameters:
            if parameter.grad is not parameter.grad_view and parameter.grad is not None:
                _take_over(parameter)
        return [i for i, p in enumerate(self.flat.parameters) if p.grad is not None and p.requires_grad]

    def _update(self, count: int, spans: Array, l2: Array, weights: Array, norms: Array | None) -> None:
        raise TypeError(f"{type(self).__name__} defines no update")

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything a later step depends on: the buffers by name, and `steps`."""
        return {"steps": np.array(self.steps)} | {name: np.array(getattr(self, name)) for name in self.buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Either all fits, or nothing is changed.

        Raises:
            StateDictError: missing or unexpected names, or a buffer of another size or dtype.
        """
        wanted = {"steps", *self.buffers}
        problems = [f"missing {name}" for name in sorted(wanted - set(state))]
        problems += [f"unexpected {name}" for name in sorted(set(state) - wanted)]
        for name in self.buffers:
            own, given = getattr(self, name), np.asarray(state.get(name, 0))
            if name in state and (given.shape, given.dtype) != (own.shape, own.dtype):
                problems.append(f"{name} is {given.dtype} {given.shape}, wanted {own.dtype} {own.shape}")
        steps = np.asarray(state.get("steps", 0))
        if steps.shape != () or steps.dtype.kind not in "iu" or steps < 0:
            problems.append(f"steps is {state['steps']!r}, wanted a number of updates")
        if problems:
            raise StateDictError("optimizer state does not fit, nothing was loaded: " + "; ".join(problems))
        self.steps = int(state["steps"])
        for name in self.buffers:
            getattr(self, name)[...] = state[name]


class SGD(Optimizer):
    """Stochastic gradient descent.

    ``velocity = momentum * velocity + grad``, ``p -= lr * velocity``; with `nesterov`
    ``p -= lr * (grad + momentum * velocity)`` (Sutskever et al. 2013, in the form that evaluates at p).

    >>> from tinygrad_cr import nn
    >>> model = nn.Affine(1, 1, init=0.0)
    >>> optimizer = SGD(model, lr=0.5)
    >>> model([[2.0]]).sum().backward()
    >>> optimizer.step()
    >>> model.weight.data
    array([[-1.]], dtype=float32)
    """

    buffers = ("velocity",)
    options = ("momentum", "nesterov", "weight_decay")
    velocity: Array

    def __init__(
        self,
        model: Module,
        lr: float,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(model, lr, weight_decay)
        self.momentum = number("momentum", momentum, below=1)
        self.nesterov = nesterov
        if nesterov and not momentum:
            raise OptionError("nesterov wants a momentum above 0")

    def _update(self, count: int, spans: Array, l2: Array, weights: Array, norms: Array | None) -> None:
        flat = self.flat
        if tape.capturing:
            watch(self, "momentum", "nesterov")
        flat.backend.sgd(
            flat.values,
            flat.gradients,
            self.velocity,
            spans,
            l2,
            ask(self._rate),
            self.momentum,
            self.nesterov,
            norms,
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps scaled by running moments of the gradient.

    Args:
        betas: how slowly the means of the gradient and of its square change, each in [0, 1).
        eps: added to the root of the second, against division by 0.

    The correction of the moments for their start at 0 counts the optimiser's steps, for all tensors alike.

    >>> from tinygrad_cr import nn
    >>> model = nn.Affine(1, 1, init=0.0)
    >>> optimizer = Adam(model, lr=0.5)
    >>> model([[2.0]]).sum().backward()
    >>> optimizer.step()
    >>> model.weight.data
    array([[-0.5]], dtype=float32)
    """

    buffers = ("mean", "square")
    options = ("betas", "eps", "weight_decay")
    mean: Array
    square: Array

    def __init__(
        self,
        model: Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(model, lr, weight_decay)
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise OptionError(f"betas wants two numbers in [0, 1), e.g. (0.9, 0.999), got {betas!r}")
        self.betas = (number("betas[0]", betas[0], below=1), number("betas[1]", betas[1], below=1))
        self.eps = number("eps", eps)

    def _update(self, count: int, spans: Array, l2: Array, weights: Array, norms: Array | None) -> None:
        self._adam(count, spans, l2, np.zeros(len(l2)), norms)

    def _adam(self, count: int, spans: Array, l2: Array, decay: Array, norms: Array | None) -> None:
        flat = self.flat
        watch(self, "betas", "eps")
        flat.backend.adam(
            flat.values,
            flat.gradients,
            self.mean,
            self.square,
            spans,
            l2,
            decay,
            ask(self._rate),
            *self.betas,
            self.eps,
            count,
            norms,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): ``p -= lr * weight_decay * p`` for weights.

    >>> from tinygrad_cr import nn
    >>> AdamW(nn.Affine(1, 1), weight_decay=0.1).weight_decay
    0.1
    """

    def __init__(
        self,
        model: Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(model, lr, betas, eps=eps, weight_decay=weight_decay)

    def _update(self, count: int, spans: Array, l2: Array, weights: Array, norms: Array | None) -> None:
        decay = self.weight_decay * weights
        self._adam(count, spans, l2 - decay, decay, norms)


def clip_norm(optimizer: Optimizer, limit: float) -> None:
    """Shorten the gradient of all parameters together to Euclidean norm `limit` if it is longer (Pascanu et al. 2013).

    To be called between backward and step. It scales the gradient of the loss; what `reg` and `weight_decay` add to it
    comes afterwards. A gradient of NaN stays what it is.

    >>> from tinygrad_cr import nn
    >>> model = nn.Affine(2, 1, init=0.0)
    >>> optimizer = SGD(model, lr=1.0)
    >>> model([[6.0, 8.0]]).sum().backward()
    >>> clip_norm(optimizer, 1.0)
    >>> bool(np.isclose(np.linalg.norm(optimizer.flat.gradients), 1.0))
    True
    """
    flat, xp = optimizer.flat, optimizer.flat.backend.xp
    gradients = [flat.gradients] if flat.complete() else [p.grad for p in flat.parameters if p.grad is not None]
    squares = [xp.sum(xp.square(g, dtype=np.float64)) for g in gradients]
    norm = xp.sqrt(xp.sum(xp.stack(squares)))
    factor = xp.divide(limit, xp.maximum(norm, limit))
    for g in gradients:
        xp.multiply(g, factor, out=g, casting="same_kind")


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def make_optimizer(name: str, model: Module, lr: float, momentum: float) -> Optimizer:
    """The optimiser of that name; momentum concerns SGD alone.

    Raises:
        OptionError: an unknown name (the nearest one is named), or a number outside its range.

    >>> from tinygrad_cr import nn
    >>> type(make_optimizer("adam", nn.Affine(1, 1), 1e-3, 0.0)).__name__
    'Adam'
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    number("momentum", momentum, below=1)
    if name == "sgd":
        return SGD(model, lr, momentum)
    return OPTIMIZERS[name](model, lr)


def _take_over(parameter: Parameter) -> None:
    """A gradient that somebody assigned goes to where the kernels read gradients."""
    grad: Array = parameter.grad
    if getattr(grad, "shape", None) != parameter.shape or grad.dtype != parameter.dtype:
        raise ShapeError(
            f"a gradient of a parameter is a {parameter.dtype} array of shape {parameter.shape}, "
            f"got {getattr(grad, 'dtype', type(grad).__name__)} {getattr(grad, 'shape', '')}"
        )
    parameter.backend.xp.copyto(parameter.grad_view, grad)
    parameter.grad = parameter.grad_view
