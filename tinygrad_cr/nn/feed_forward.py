"""`FeedForward`: layers one after another as one operation, for networks whose calls take longer than computing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_cr import tape
from tinygrad_cr.kernels import Array
from tinygrad_cr.nn.flat import FlatParameters
from tinygrad_cr.nn.layers import Affine, AffineReLUDropout
from tinygrad_cr.nn.module import Module
from tinygrad_cr.operands import KEEP_ALL, claim_draw, dropout_plan
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor, wrap

MOST_HIDDEN = 1 << 18
"""Elements of all hidden layers together. Where there are more, calls hardly count, and the layers need less memory:
one by one, each result is freed as soon as the next layer has used it."""


class FeedForward:
    """The layers of a network as one operation on the tape, with one kernel for each direction.

    Values, gradients and masks are those of the layers one by one, to the last bit. What is looked at in each call is
    what belongs to the layers; a method that somebody replaces in their class later is not seen.

    Args:
        layers: what is computed, in order.
        flat: where their parameters lie.

    Attributes:
        layers, flat: as given; for other layers, or other memory, make another object.
    """

    def __init__(self, layers: Sequence[Module], flat: FlatParameters) -> None:
        self.layers, self.flat = layers[:], flat
        self._affine = _affine_layers(layers, flat)
        if not self._affine:
            return
        self._kernels, self._values = flat.backend, flat.values
        self._memory = [(vars(each), each.weight, each.weight.data, each.bias, each.bias.data) for each in self._affine]
        self._way_back = _WayBack([p for layer in self._affine for p in (layer.weight, layer.bias)], flat)
        widths = [self._affine[0].weight.shape[0]] + [layer.weight.shape[1] for layer in self._affine]
        self._inputs, self._outputs, self._hidden = widths[0], widths[-1], sum(widths[1:-1])
        self._most_rows = MOST_HIDDEN // self._hidden
        self._plan = self._planned()

    def __call__(self, x: Tensor) -> Tensor | None:
        """x: [n, in] -> [n, out]; or None for what is left to the layers, all that they refuse included."""
        rows, values, shape = x.data, self._values, x.data.shape
        if x.backend is not self._kernels or rows.dtype != values.dtype or len(shape) != 2:
            return None
        n, inputs = shape
        if inputs != self._inputs or n > self._most_rows or not rows.flags.c_contiguous:
            return None
        if not self._unchanged():
            return None
        for layer, dropout, mode, training in self._plan[0]:
            if layer.training is not training or layer.dropout is not dropout or layer.mode is not mode:
                self._plan = self._planned()
                break
        _, layers, scales, first, others = self._plan
        if first is None:
            seed = draw = stream = 0
        else:
            generator = first.generator
            for layer in others:
                # The kernel gives them the draws that follow, as a generator does that is shared.
                if layer.generator is not generator or type(generator) is not Generator:
                    return None
            seed, draw, stream = claim_draw(generator)
            for _ in others:
                claim_draw(generator)
        kernels, empty = self._kernels, self._kernels.xp.empty
        hidden, out = empty(n * self._hidden, values.dtype), empty((n, self._outputs), values.dtype)
        kernels.feed_forward(rows, values, layers, scales, seed, draw, stream, hidden, out)
        result = wrap(out, kernels)
        if tape.mode.recording:
            wanted = x.requires_grad
            rule = partial(self._way_back, x if wanted else None, rows, layers, scales, hidden, out)
            result.node = tape.Node((x.node or x,) if wanted else (), rule)
            result.requires_grad = True
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return FeedForward, (self.layers, self.flat)

    @property
    def fits(self) -> bool:
        """Whether it can be called at all."""
        return bool(self._affine)

    def _unchanged(self) -> bool:
        """Whether nobody put another tensor, another array, or a forward of the instance's own into a layer."""
        for own, weight, weights, bias, biases in self._memory:
            if own["weight"] is not weight or weight.data is not weights or not weight.requires_grad:
                return False
            if own["bias"] is not bias or bias.data is not biases or not bias.requires_grad or "forward" in own:
                return False
        return True

    def _planned(self) -> tuple[list[Any], Array, Array, Any, list[Any]]:
        """How dropout is set, layers and scales as kernels take them, the first layer that drops, and the others."""
        known, dropping = [], []
        layers, scales = np.zeros((len(self._affine), 5), np.int64), np.ones(len(self._affine))
        layers[:, :2] = np.reshape([start for start, _ in self._way_back.spans], (-1, 2))
        for k, layer in enumerate(self._affine):
            layers[k, 2:4] = layer.weight.shape
            if isinstance(layer, AffineReLUDropout):
                layers[k, 4], scales[k] = dropout_plan(layer.dropout, layer.mode, layer.training)
                known.append((layer, layer.dropout, layer.mode, layer.training))
                if layers[k, 4] != KEEP_ALL:
                    dropping.append(layer)
        return known, layers, scales, next(iter(dropping), None), dropping[1:]


class _WayBack:
    """The backward rule. It knows parameters and their memory, and not the layers: a graph keeps none of them alive."""

    def __init__(self, parameters: list[Any], flat: FlatParameters) -> None:
        self.parameters, self.kernels = parameters, flat.backend
        self.values, self.gradients = flat.values, flat.gradients
        self.places = [(parameter, parameter.grad_view) for parameter in parameters]
        spans = {id(p): span for p, span in zip(flat.parameters, flat.spans.tolist(), strict=True)}
        self.spans = [spans[id(p)] for p in parameters]

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        # A model that remembers what it returned is copied with its graph. No attributes but those of a structure.
        names = ("parameters", "kernels", "values", "gradients", "places", "spans")
        return None, {name: getattr(self, name) for name in names}

    def __call__(
        self, x: Tensor | None, rows: Array, layers: Array, scales: Array, hidden: Array, out: Array, g: Array
    ) -> tuple[Array | None, ...]:
        """The gradient of x, if it is wanted; those of parameters are left where they belong, in one walk over them."""
        if tape.capturing:
            tape.refuse("the way back through a network that was computed outside")
        kernels, gradients = self.kernels, self.gradients
        if g.shape != out.shape or not g.flags.c_contiguous:
            g = kernels.xp.ascontiguousarray(g).reshape(out.shape)
        dx = None if x is None or not x.requires_grad else kernels.xp.empty(rows.shape, rows.dtype)
        first = self._first()
        if not first:
            gradients = kernels.xp.empty_like(gradients)
        kernels.feed_forward_backward(g, rows, self.values, layers, scales, hidden, out, gradients, dx)
        if first:
            self._keep()
        else:
            for parameter, (start, stop) in zip(self.parameters, self.spans, strict=True):
                if parameter.requires_grad:
                    tape.accumulate(parameter, gradients[start:stop].reshape(parameter.shape), owned=False)
        return () if x is None else (dx,)

    def _first(self) -> bool:
        """Whether gradients are the first since they were cleared, and stay where they are written."""
        for parameter, place in self.places:
            if parameter.grad is not None or parameter.grad_view is not place or not parameter.requires_grad:
                return False
        return True

    def _keep(self) -> None:
        """Give parameters the gradients that were written. Not before: where the kernel failed there are none."""
        for parameter, place in self.places:
            parameter.grad = place


def _affine_layers(layers: Sequence[Module], flat: FlatParameters) -> list[Affine]:
    """The layers, if they are several different ones of one network on the host that fit each other; else none.

    They lie in the buffers of another network since it was made of this one and other layers: then none, too.
    """
    affine = [layer for layer in layers if type(layer) in (Affine, AffineReLUDropout) and isinstance(layer, Affine)]
    if len(affine) < max(2, len(layers)) or flat.members is not None or not flat.backend.host or not flat.intact():
        return []
    parameters = [id(parameter) for layer in affine for parameter in (layer.weight, layer.bias)]
    packed = {id(p) for p in flat.parameters}
    if len(set(parameters)) < len(parameters) or not packed.issuperset(parameters):
        return []
    whole = all(each.weight.ndim == 2 and each.bias.shape == each.weight.shape[1:] for each in affine)
    return affine if whole and all(a.weight.shape[1] == b.weight.shape[0] for a, b in pairwise(affine)) else []
