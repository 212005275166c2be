"""Optimisers, in order of increasing complexity. Each step is one kernel call over the flat buffers of a module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_cr import tape
from tinygrad_cr.device import assign, host_copy, lies_on_gpu, to_numpy
from tinygrad_cr.errors import DeviceError, GraphError, OptionError, ShapeError, StateDictError, unknown_name
from tinygrad_cr.kernels import Array
from tinygrad_cr.nn import Module, Parameter
from tinygrad_cr.options import PerMember, number, numbers, of_member
from tinygrad_cr.tape import ask, each_member, watch

Number = float | Sequence[float]
"""Of a population, also one for each member."""


class Optimizer:
    """What all optimisers share: the buffers, which tensors take part, and the penalty on weights.

    Args:
        model: the module whose parameters are updated.
        lr: the learning rate; assign to it at any time.
        weight_decay: adds ``weight_decay * W`` to the gradient of weights, not of biases.

    For a population, each number may be a list of one for each member.

    Raises:
        OptionError: a number outside its range, or another number of them than members.
    """

    buffers: tuple[str, ...] = ()
    """The names of the attributes that hold state of the size of the parameters."""
    options: tuple[str, ...] = ("weight_decay",)
    """The names of the arguments, and attributes, besides model and lr."""

    def __init__(self, model: Module, lr: Number, weight_decay: Number = 0.0) -> None:
        self.flat = model.flat()
        self.members = self.flat.members
        self._assigned: Any = object()
        self.lr = lr
        self.weight_decay = self._numbers("weight_decay", weight_decay)
        self.steps = 0
        self._weights = np.array([float(p.regularized) for p in self.flat.parameters])
        self._penalties: tuple[Any, ...] = (None, None, None, None)
        for name in self.buffers:
            setattr(self, name, self.flat.zeros(self.flat.values.shape[-1], self.flat.values.dtype))
        self._buffers = [getattr(self, name) for name in self.buffers]

    def _numbers(self, name: str, value: Any, below: float = math.inf) -> Any:
        return numbers(name, value, self.members, below=below)

    def trains(self, model: Module) -> bool:
        """Whether the parameters of this module are the ones updated here, in the memory they live in now."""
        return self.flat.covers(model.parameters())

    @property
    def lr(self) -> Any:
        """The learning rate; assigning a number that is negative or not finite is an `OptionError`."""
        return self._lr

    @lr.setter
    def lr(self, value: Any) -> None:
        # Schedules assign the same number, or the same numbers of the members, step after step.
        last = self._assigned
        if value is last or (type(value) is type(last) is float and value == last):
            return
        self._lr = checked = self._numbers("lr", value)
        # Not the list or array that was given: it may change.
        self._assigned = value if type(value) is PerMember else checked
        self._rates = [float(of_member(checked, m)) for m in range(self.members or 1)]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.flat.clear()

    def forget(self, m: int) -> None:
        """Let member m of a population begin anew: what was remembered of its gradients is 0 again.

        >>> from tinygrad_cr import nn
        >>> optimizer = SGD(nn.Affine(1, 1, members=2), lr=0.5, momentum=0.9)
        >>> optimizer.velocity[...] = np.nan
        >>> optimizer.forget(1)
        >>> np.isnan(optimizer.velocity).all(axis=1)
        array([ True, False])
        """
        for buffer in self._buffers:
            buffer[m] = 0

    def config(self) -> dict[str, Any]:
        """The arguments besides model and lr that make this optimiser again."""
        return {name: getattr(self, name) for name in self.options}

    def _rate(self) -> float | list[float]:
        return self._rates[0] if self.members is None else self._rates

    def _count(self) -> int:
        self.steps += 1
        return self.steps

    def step(self, *, reg: Number = 0.0, norms: bool | str = False) -> Array | None:
        """Update every parameter that has a gradient; one without is left alone.

        Args:
            reg: strength of the penalty 0.5 * reg * sum(W**2) on weights, whose gradient is added here.
            norms: measure, in the same pass, ``sum(p**2)`` before the update and ``sum(update**2)``; "parameters" asks
                for the first alone, all that a penalty needs, and saves the time for the other on the CPU.

        Returns:
            [k, 2] float64, a row for each parameter of the module in order; [members, k, 2] of a population; or None.
            With "parameters" SGD and Adam have one column on the CPU. It is an array of the device: on the GPU the
            host does not wait for it until it is looked at.

        Raises:
            OptionError: norms is something else.
            GraphError: a parameter got other memory since this optimiser was made.
        """
        flat = self.flat
        chosen: list[int] | None = None
        spans, weights = flat.spans, self._weights
        if not flat.ready():
            if not flat.intact():
                raise GraphError(
                    "the model's parameters moved to other memory since the optimizer was made "
                    "(by .to(), by packing into another module, or by assigning .data); make the optimizer afterwards"
                )
            chosen = self._choose()
            spans, weights = spans[chosen], weights[chosen]
        members = self.members
        xp = flat.backend.xp
        out = None
        if norms:
            columns = self._columns(norms)
            # Every norm is written. A captured step would make xp.zeros a call of its own, which no table holds.
            out = xp.empty((*(() if members is None else (members,)), len(spans), columns))
            out.fill(0)
        if tape.capturing:
            watch(self, "weight_decay")
        known_weights, known_reg, known_decay, l2 = self._penalties
        if weights is not known_weights or reg is not known_reg or self.weight_decay is not known_decay:
            l2 = [self._penalty(m, reg) * weights for m in range(members or 1)]
            # A list may have other numbers next time.
            self._penalties = weights, None if isinstance(reg, list | np.ndarray) else reg, self.weight_decay, l2
        if tape.capturing:
            count, rate = ask(self._count), ask(self._rate)
        else:
            count, rate = self._count(), self._rate()
        if members is None:
            self._update(0, [flat.values, flat.gradients, *self._buffers], (count, rate), spans, l2[0], weights, out)
        else:
            for m in each_member(members):
                arrays = [array[m] for array in (flat.values, flat.gradients, *self._buffers)]
                measured = None if out is None else out[m]
                self._update(m, arrays, (count, rate[m]), spans, l2[m], weights, measured)
        if out is not None and chosen is not None:
            everything = xp.zeros((*out.shape[:-2], len(flat.parameters), out.shape[-1]))
            for i, p in enumerate(flat.parameters):
                squares = xp.square(p.data, dtype=np.float64).reshape(*out.shape[:-2], -1)
                everything[..., i, 0] = squares.sum(axis=-1)
            everything[..., chosen, :] = out
            return everything
        return out

    def _columns(self, norms: bool | str) -> int:
        if norms not in (True, "parameters"):
            raise OptionError(f"norms wants True, False or 'parameters', got {norms!r}")
        # A rule of somebody's own writes both columns.
        known = type(self)._update in (SGD._update, Adam._update)
        return 1 if norms == "parameters" and known and self.flat.backend.host else 2

    def _penalty(self, m: int, reg: Number) -> float:
        own = reg[m] if isinstance(reg, list | tuple | np.ndarray) and self.members is not None else reg
        return float(of_member(self.weight_decay, m)) + float(own)  # type: ignore[arg-type]

    def _choose(self) -> list[int]:
        """The places of the parameters that have a gradient, which then lies where the kernels read it."""
        for parameter in self.flat.parameters:
            if parameter.grad is not parameter.grad_view and parameter.grad is not None:
                _take_over(parameter)
        return [i for i, p in enumerate(self.flat.parameters) if p.grad is not None and p.requires_grad]

    def _update(
        self,
        m: int,
        arrays: Sequence[Array],
        live: tuple[int, float],
        spans: Array,
        l2: Array,
        weights: Array,
        norms: Array | None,
    ) -> None:
        """Update one network, or member m of a population.

        arrays: values, gradients and buffers; live: the number of the step and the learning rate.
        """
        raise TypeError(f"{type(self).__name__} defines no update")

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything a later step depends on, as NumPy arrays: the buffers by name, and `steps`."""
        k = self.flat.backend
        return {"steps": np.array(self.steps)} | {name: host_copy(getattr(self, name), k) for name in self.buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, on whatever device. Either all fits, or nothing is changed.

        Raises:
            StateDictError: missing or unexpected names, or a buffer of another size or dtype.
        """
        wanted = {"steps", *self.buffers}
        problems = [f"missing {name}" for name in sorted(wanted - set(state))]
        problems += [f"unexpected {name}" for name in sorted(set(state) - wanted)]
        arrays = {name: to_numpy(state.get(name, 0)) for name in self.buffers}
        for name in self.buffers:
            own, given = getattr(self, name), arrays[name]
            if name in state and (given.shape, given.dtype) != (own.shape, own.dtype):
                problems.append(f"{name} is {given.dtype} {given.shape}, wanted {own.dtype} {own.shape}")
        steps = np.asarray(state.get("steps", 0))
        if steps.shape != () or steps.dtype.kind not in "iu" or steps < 0:
            problems.append(f"steps is {state['steps']!r}, wanted a number of updates")
        if problems:
            raise StateDictError("optimizer state does not fit, nothing was loaded: " + "; ".join(problems))
        self.steps = int(state["steps"])
        for name in self.buffers:
            assign(getattr(self, name), arrays[name], self.flat.backend)


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
        lr: Number,
        momentum: Number = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: Number = 0.0,
    ) -> None:
        super().__init__(model, lr, weight_decay)
        self.momentum = self._numbers("momentum", momentum, below=1)
        self.nesterov = nesterov
        if nesterov and not all(of_member(self.momentum, m) for m in range(self.members or 1)):
            raise OptionError("nesterov wants a momentum above 0")

    def _update(
        self,
        m: int,
        arrays: Sequence[Array],
        live: tuple[int, float],
        spans: Array,
        l2: Array,
        weights: Array,
        norms: Array | None,
    ) -> None:
        if tape.capturing:
            watch(self, "momentum", "nesterov")
        momentum = self.momentum if self.members is None else of_member(self.momentum, m)
        values, gradients, velocity = arrays
        self.flat.backend.sgd(values, gradients, velocity, spans, l2, live[1], momentum, self.nesterov, norms)


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
        lr: Number = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-8,
        weight_decay: Number = 0.0,
    ) -> None:
        super().__init__(model, lr, weight_decay)
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise OptionError(f"betas wants two numbers in [0, 1), e.g. (0.9, 0.999), got {betas!r}")
        self.betas = (number("betas[0]", betas[0], below=1), number("betas[1]", betas[1], below=1))
        self.eps = number("eps", eps)

    def _update(
        self,
        m: int,
        arrays: Sequence[Array],
        live: tuple[int, float],
        spans: Array,
        l2: Array,
        weights: Array,
        norms: Array | None,
    ) -> None:
        watch(self, "betas", "eps")
        count, rate = live
        l2, decay = self._split(m, l2, weights)
        values, gradients, mean, square = arrays
        adam = self.flat.backend.adam
        adam(values, gradients, mean, square, spans, l2, decay, rate, *self.betas, self.eps, count, norms)

    def _split(self, m: int, l2: Array, weights: Array) -> tuple[Array, Array]:
        """What is added to the gradient, and what shrinks the parameters apart from it."""
        return l2, np.zeros(len(l2))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): ``p -= lr * weight_decay * p`` for weights.

    >>> from tinygrad_cr import nn
    >>> AdamW(nn.Affine(1, 1), weight_decay=0.1).weight_decay
    0.1
    """

    def __init__(
        self,
        model: Module,
        lr: Number = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-8,
        weight_decay: Number = 1e-2,
    ) -> None:
        super().__init__(model, lr, betas, eps=eps, weight_decay=weight_decay)

    def _split(self, m: int, l2: Array, weights: Array) -> tuple[Array, Array]:
        decay = of_member(self.weight_decay, m) * weights
        return l2 - decay, decay


def clip_norm(optimizer: Optimizer, limit: float) -> None:
    """Shorten the gradient of all parameters together to Euclidean norm `limit` if it is longer (Pascanu et al. 2013).

    To be called between backward and step. It scales the gradient of the loss; what `reg` and `weight_decay` add to it
    comes afterwards. A gradient of NaN stays what it is. On the GPU the host does not wait for the norm.

    >>> from tinygrad_cr import nn
    >>> model = nn.Affine(2, 1, init=0.0)
    >>> optimizer = SGD(model, lr=1.0)
    >>> model([[6.0, 8.0]]).sum().backward()
    >>> clip_norm(optimizer, 1.0)
    >>> bool(np.isclose(np.linalg.norm(optimizer.flat.gradients), 1.0))
    True
    """
    flat = optimizer.flat
    gradients = [flat.gradients] if flat.complete() else [p.grad for p in flat.parameters if p.grad is not None]
    if flat.members is None:
        _shorten(gradients, limit, flat.backend.xp)
    else:
        for m in each_member(flat.members):
            _shorten([g[m] for g in gradients], limit, flat.backend.xp)


def _shorten(gradients: Sequence[Array], limit: float, xp: Any) -> None:
    squares = [xp.sum(xp.square(g, dtype=np.float64)) for g in gradients]
    norm = xp.sqrt(xp.sum(xp.stack(squares)))
    factor = xp.divide(limit, xp.maximum(norm, limit))
    for g in gradients:
        xp.multiply(g, factor, out=g, casting="same_kind")


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def make_optimizer(name: str, model: Module, lr: Number, momentum: Number) -> Optimizer:
    """The optimiser of that name; momentum concerns SGD alone.

    Raises:
        OptionError: an unknown name (the nearest one is named), or a number outside its range.

    >>> from tinygrad_cr import nn
    >>> type(make_optimizer("adam", nn.Affine(1, 1), 1e-3, 0.0)).__name__
    'Adam'
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    numbers("momentum", momentum, model.members, below=1)
    if name == "sgd":
        return SGD(model, lr, momentum)
    return OPTIMIZERS[name](model, lr)


def _take_over(parameter: Parameter) -> None:
    """A gradient that somebody assigned goes to where the kernels read gradients."""
    grad: Array = parameter.grad
    if lies_on_gpu(grad) == parameter.backend.host:
        raise DeviceError(
            f"a gradient of a parameter on {parameter.device!r} lies there, too, got a {type(grad).__module__} array; "
            f"make it with Tensor(array, device={parameter.device!r}).data"
        )
    if getattr(grad, "shape", None) != parameter.shape or grad.dtype != parameter.dtype:
        raise ShapeError(
            f"a gradient of a parameter is a {parameter.dtype} array of shape {parameter.shape}, "
            f"got {getattr(grad, 'dtype', type(grad).__name__)} {getattr(grad, 'shape', '')}"
        )
    parameter.backend.xp.copyto(parameter.grad_view, grad)
    parameter.grad = parameter.grad_view
