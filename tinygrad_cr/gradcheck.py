"""Is a gradient right? Compare it with finite differences, in float64.

The analytic gradient of ``sum(v * fn(x))``, v fixed and random, is held against central differences
``(f(x + h) - f(x - h)) / 2h``: for every element of a small input, along random directions for a large one. Finite
differences know nothing at a kink (ReLU at 0, a tie of maxima), so an input that sits on one is moved off it first, and
the report says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_cr.device import assign, host_copy, to_numpy
from tinygrad_cr.errors import DTypeError, GradientError, OptionError
from tinygrad_cr.random import Generator
from tinygrad_cr.tape import no_grad
from tinygrad_cr.tensor import Tensor

Vector = np.ndarray[Any, Any]

STEP = 6e-6
"""Relative step: about the cube root of the rounding error, where truncation and rounding are equally small."""
SHRINK = 16
"""A mismatch is looked at again with smaller steps: one that crosses a kink disappears, a wrong rule stays."""
ROUNDS = 4


@dataclass(frozen=True)
class Comparison:
    """One derivative, both ways. `index` is None for a derivative along a random direction."""

    argument: str
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    error: float

    def __str__(self) -> str:
        where = f"index {self.index}" if self.index is not None else "a random direction"
        return (
            f"argument {self.argument}, {where}: analytic {self.analytic:.10g}, "
            f"numeric {self.numeric:.10g}, relative error {self.error:.2g}"
        )


@dataclass
class GradcheckReport:
    """What `gradcheck` found.

    Attributes:
        function: the name of the function checked.
        worst: for each argument, the comparison with the largest error.
        failures: the first wrong derivative of each argument that has one.
        moved: the places where an input sat on a kink and was moved, as "argument[index]".
        compared: how many derivatives were compared.
    """

    function: str
    worst: dict[str, Comparison] = field(default_factory=dict)
    failures: list[Comparison] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    compared: int = 0

    @property
    def ok(self) -> bool:
        """No derivative was wrong."""
        return not self.failures

    @property
    def error(self) -> float:
        """The largest relative error."""
        return max((c.error for c in self.worst.values()), default=0.0)

    def __str__(self) -> str:
        verdict = "agrees with" if self.ok else "DISAGREES with"
        lines = [f"gradient of {self.function} {verdict} finite differences ({self.compared} derivatives)"]
        lines += [f"  {comparison}" for comparison in (self.failures or self.worst.values())]
        if self.moved:
            shown = ", ".join(self.moved[:8]) + (" ..." if len(self.moved) > 8 else "")
            lines.append(f"  moved off a kink: {shown}")
        return "\n".join(lines)


def gradcheck(
    fn: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    wrt: Mapping[str, Tensor] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_elements: int = 200,
    directions: int = 8,
    seed: int = 0,
    name: str | None = None,
    raises: bool = True,
) -> GradcheckReport:
    """Compare the gradient of `fn` with finite differences.

    Args:
        fn: takes the inputs as tensors, returns a float tensor of any shape. It must give the same result each time:
            randomness comes from a generator made inside, with a fixed seed.
        inputs: arrays or tensors; floats are copied to float64 and checked, integers are passed on.
        wrt: further float64 tensors that `fn` uses, by name, e.g. ``dict(model.named_parameters())``; their
            elements are changed during the check and put back.
        rtol: largest relative error |a - n| / max(|a|, |n|) allowed.
        atol: absolute error always forgiven, relative to max(1, sum of the outputs that change).
        max_elements: inputs with more elements are checked along `directions` random directions instead; a wrong one is
            then traced to an element by bisection.
        seed: of the weights v, the directions and the moves off kinks.
        name: what to call `fn` in the report.
        raises: raise on failure instead of returning the report.

    Raises:
        GradientError: a derivative is wrong; the message names function, argument, index and both values.
        DTypeError: a tensor in `wrt` that is not float64, or a result that is not.
        OptionError: `fn` gives another result when called again.

    >>> from tinygrad_cr import ops
    >>> print(gradcheck(ops.exp, [[0.0]]).ok)
    True
    """
    with np.errstate(all="ignore"):
        check = _Check(fn, inputs, wrt or {}, rtol, atol, seed, name)
    report = GradcheckReport(check.name)
    originals = {key: _values(t) for key, t in check.leaves.items()}
    try:
        for last in (*[False] * (ROUNDS - 1), True):
            # On a kink, inf and nan are what the rule is documented to give; they are compared, not warned about.
            with np.errstate(all="ignore"):
                kinks = check.run(report, max_elements, directions, ignore_kinks=last)
                if not kinks:
                    break
                report.moved += [spot for spot in check.move(kinks) if spot not in report.moved]
    finally:
        for key, original in originals.items():
            _put(check.leaves[key], original)
            check.leaves[key].grad = check.grads_before[key]
    if raises and not report.ok:
        raise GradientError(str(report))
    return report


class _Check:
    """One function, its inputs as named leaves, and the numbers it is probed with."""

    def __init__(
        self,
        fn: Callable[..., Tensor],
        inputs: Sequence[Any],
        wrt: Mapping[str, Tensor],
        rtol: float,
        atol: float,
        seed: int,
        name: str | None,
    ) -> None:
        self.fn = fn
        self.name = name or str(getattr(fn, "__name__", type(fn).__name__))
        self.rtol, self.atol = rtol, atol
        self.generator = Generator(seed)
        self.arguments: list[Tensor] = []
        self.leaves: dict[str, Tensor] = {}
        for i, value in enumerate(inputs):
            given = value if isinstance(value, Tensor) else Tensor(value)
            if given.dtype.kind == "f":
                source = to_numpy(value) if hasattr(value, "dtype") else np.asarray(value, np.float64)
                given = Tensor(np.array(source, np.float64, order="C"), requires_grad=True, device=given.device)
                self.leaves[_argument_name(fn, i)] = given
            self.arguments.append(given)
        for key, tensor in wrt.items():
            if tensor.dtype != np.float64 or not tensor.requires_grad:
                raise DTypeError(
                    f"gradcheck wants float64 tensors that require grad, {key} is {tensor.dtype}; "
                    "convert a module with .to('float64')"
                )
            self.leaves[key] = tensor
        self.grads_before = {key: t.grad for key, t in self.leaves.items()}
        with no_grad():
            result = fn(*self.arguments)
        if result.dtype != np.float64:
            raise DTypeError(f"{self.name} returned {result.dtype} for float64 inputs")
        self.weights = self.generator.normal(result.shape)
        again = self.outputs()
        if not np.array_equal(_values(result), again, equal_nan=True):
            raise OptionError(
                f"{self.name} gave {_values(result).sum()} and then {again.sum()} for the same inputs; "
                "make its Generator inside the function, with a fixed seed"
            )

    def outputs(self) -> Vector:
        with no_grad():
            return _values(self.fn(*self.arguments))

    def gradients(self) -> dict[str, Vector]:
        for leaf in self.leaves.values():
            leaf.grad = None
        result = self.fn(*self.arguments)
        if result.requires_grad:
            result.backward(self.weights)
        leaves = self.leaves.items()
        return {key: np.zeros(t.shape) if t.grad is None else host_copy(t.grad, t.backend) for key, t in leaves}

    def run(
        self, report: GradcheckReport, max_elements: int, directions: int, ignore_kinks: bool
    ) -> list[tuple[str, tuple[int, ...] | None]]:
        """Fill the report with one comparison after another; return the kinks found instead, if there are any."""
        report.worst, report.failures, report.compared = {}, [], 0
        base = self.outputs()
        gradients = self.gradients()
        kinks: list[tuple[str, tuple[int, ...] | None]] = []
        for key, leaf in self.leaves.items():
            small = leaf.size <= max_elements
            for direction, index in self._probes(leaf, None if small else directions):
                comparison, kink = self._compare(key, leaf, gradients[key], direction, index, base)
                report.compared += 1
                if kink and not ignore_kinks:
                    kinks.append((key, index))
                    if not small:
                        break
                    continue
                worst = report.worst.get(key)
                if worst is None or not comparison.error <= worst.error:
                    report.worst[key] = comparison
                if not comparison.error <= self.rtol:
                    if not small and np.isfinite(comparison.error):
                        comparison = self._locate(key, leaf, gradients[key], direction, base)
                    report.failures.append(comparison)
                    break
        return kinks

    def _probes(self, leaf: Tensor, directions: int | None) -> Iterator[tuple[Vector, tuple[int, ...] | None]]:
        if directions is None:
            for index in np.ndindex(leaf.shape):
                unit = np.zeros(leaf.shape)
                unit[index] = 1
                yield unit, index
        else:
            for _ in range(directions):
                yield np.where(self.generator.uniform(leaf.shape) < 0.5, -1.0, 1.0), None

    def _compare(
        self,
        key: str,
        leaf: Tensor,
        gradient: Vector,
        direction: Vector,
        index: tuple[int, ...] | None,
        base: Vector,
    ) -> tuple[Comparison, bool]:
        """The comparison along a direction, and whether the function has a kink there.

        Outputs are subtracted one by one before they are added up: those that do not change bring no rounding error,
        and do not count for the absolute error that is forgiven.
        """
        analytic = float((gradient * direction).sum())
        size = STEP * max(1.0, abs(float(leaf.data[index]))) if index is not None else STEP
        best: Comparison | None = None
        jumps: list[bool] = []
        for step in (size, size / SHRINK, size / SHRINK**2):
            above, below = self._at(leaf, direction, step), self._at(leaf, direction, -step)
            right, left = self._slope(above, base, step), self._slope(base, below, step)
            numeric = self._slope(above, below, 2 * step)
            touched = np.abs(self.weights * base)[above != below].sum()
            scale = self.atol / self.rtol * max(1.0, float(touched))
            error = abs(analytic - numeric) / max(abs(analytic), abs(numeric), scale)
            comparison = Comparison(key, index, analytic, numeric, error)
            if best is None or error <= best.error:
                best = comparison
            slopes = max(abs(right), abs(left), scale)
            jumps.append(not abs(right - left) <= 1e-3 * slopes)
            if error <= self.rtol and not jumps[-1]:
                return comparison, False
        return best or comparison, all(jumps)

    def _slope(self, above: Vector, below: Vector, step: float) -> float:
        return float((self.weights * (above - below))[above != below].sum() / step)

    def _at(self, leaf: Tensor, direction: Vector, step: float) -> Vector:
        saved = _values(leaf)
        _put(leaf, saved + step * direction)
        try:
            return self.outputs()
        finally:
            _put(leaf, saved)

    def _locate(self, key: str, leaf: Tensor, gradient: Vector, direction: Vector, base: Vector) -> Comparison:
        """Halve the set of elements that move together until the one that disagrees stands alone."""
        suspects = np.arange(leaf.size)
        while suspects.size > 1:
            half = suspects[: suspects.size // 2]
            part = np.zeros(leaf.size)
            part[half] = direction.reshape(-1)[half]
            comparison, _ = self._compare(key, leaf, gradient, part.reshape(leaf.shape), None, base)
            suspects = half if not comparison.error <= self.rtol else suspects[suspects.size // 2 :]
        index = tuple(int(i) for i in np.unravel_index(int(suspects[0]), leaf.shape))
        unit = np.zeros(leaf.shape)
        unit[index] = 1
        return self._compare(key, leaf, gradient, unit, index, base)[0]

    def move(self, kinks: list[tuple[str, tuple[int, ...] | None]]) -> list[str]:
        """Push the named elements (all, where the index is None) off their kinks; the places moved, as text."""
        for sign in (1.0, -1.0):
            before = {key: _values(leaf) for key, leaf in self.leaves.items()}
            for key, index in kinks:
                data = _values(self.leaves[key])
                spot: Any = ... if index is None else index
                push = sign * (0.03 + 0.07 * self.generator.uniform(np.shape(data[spot])))
                data[spot] += push
                _put(self.leaves[key], data)
            if np.isfinite(self.outputs()).all():
                break
            for key, data in before.items():
                _put(self.leaves[key], data)
        return [f"{key}{list(index) if index is not None else ' (all elements)'}" for key, index in kinks]


def _values(t: Tensor) -> Vector:
    """A copy of the elements on the host."""
    return host_copy(t.data, t.backend)  # type: ignore[no-any-return]


def _put(t: Tensor, values: Vector) -> None:
    """Write the elements, wherever they are."""
    assign(t.data, values, t.backend)


def _argument_name(fn: Callable[..., Any], position: int) -> str:
    """'1 (w)' for the second argument of f(x, w): the position, and the name where there is one."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p.name for p in parameters if p.kind in kinds]
    return f"{position} ({named[position]})" if position < len(named) else str(position)
