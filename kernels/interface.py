"""The contract of the kernels: what every backend must be able to compute.

A kernel works on C-contiguous arrays it is given, writes into outputs it is given, validates nothing (the ops
do) and keeps nothing. Every floating array of one call has the same dtype, float32 or float64 (`F` below).
An output of a backward kernel may be None: that gradient is not wanted and is not computed. An output never
overlaps an input unless the kernel says so. Zero rows and zero columns are allowed everywhere but in
the losses, which average over what there is.

Dropout masks are a pure function of ``(seed, draw, stream)`` and of an element's position in its array, so no
mask is ever stored. `reference.py` fixes the layout: element ``i`` of the flattened array takes lane ``i % 8`` of
Philox block ``i // 8``, and stays iff that 16-bit lane is below ``threshold``.
"""

from __future__ import annotations

from typing import Any, Protocol

Array = Any
"""An array of a backend: `numpy.ndarray` or `cupy.ndarray`."""

BACKWARD = {
    "affine": "affine_backward",
    "relu": "relu_backward",
    "dropout": "dropout",
    "affine_relu_dropout": "affine_relu_dropout_backward",
    "feed_forward": "feed_forward_backward",
    "gelu": "gelu_backward",
    "pick": "scatter_add",
}
"""Which kernel is the vector-Jacobian product of which; the losses hold theirs in the same pass."""


NO_DROPOUT = 65536
"""The threshold that every lane is below: all elements stay."""
NEGLIGIBLE = 1e-30
"""A velocity smaller than this becomes 0: it would shrink into denormal numbers, which are a hundred times slower."""


class BackendError(RuntimeError):
    """A backend that nobody knows, that this machine cannot run, or that is set up wrongly."""


class Kernels(Protocol):
    """A backend: its array library `xp` and one function for each method below.

    `host`: its arrays are NumPy's. Where they are not, reading a number from one waits for all that was begun.
    """

    name: str
    xp: Any
    host: bool

    def to_numpy(self, array: Array) -> Any:
        """One of its arrays as NumPy's."""

    def empty(self, shape: Any, dtype: Any) -> Array:
        """One of its arrays, whatever is in it, that begins on a cache line: for what is written again and again."""

    def affine(self, x: Array, w: Array, b: Array, out: Array) -> None:
        """``out = x @ w + b``; x: [n, in] F, w: [in, out] F, b: [out] F, out: [n, out] F."""

    def affine_backward(
        self, dy: Array, x: Array, w: Array, dx: Array | None, dw: Array | None, db: Array | None
    ) -> None:
        """``dx = dy @ w.T``, ``dw = x.T @ dy``, ``db = dy.sum(0)``; each shaped as what it differentiates."""

    def relu(self, x: Array, out: Array) -> None:
        """``out = max(x, 0)``, NaN stays NaN; x, out: [n] F."""

    def relu_backward(self, dy: Array, y: Array, dx: Array) -> None:
        """``dx = dy where y > 0, else 0``; y is the output of `relu`; all [n] F."""

    def dropout(self, x: Array, threshold: int, scale: float, seed: int, draw: int, stream: int, out: Array) -> None:
        """``out = x * scale where kept, else 0``; x, out: [n] F; threshold in 1..65536.

        It is its own backward kernel: the mask comes back from the same ``(seed, draw, stream)``.
        """

    def affine_relu_dropout(
        self,
        x: Array,
        w: Array,
        b: Array,
        threshold: int,
        scale: float,
        seed: int,
        draw: int,
        stream: int,
        out: Array,
    ) -> None:
        """``out = relu(x @ w + b) * scale where kept, else 0``; shapes as `affine`, mask over flattened out."""

    def affine_relu_dropout_backward(
        self,
        dy: Array,
        x: Array,
        w: Array,
        y: Array,
        scale: float,
        dz: Array,
        dx: Array | None,
        dw: Array | None,
        db: Array | None,
    ) -> None:
        """Gradients of `affine_relu_dropout` from its output alone.

        ``y > 0`` says that a unit was active and kept, so ``dz = dy * scale where y > 0``; then as
        `affine_backward`. dz: [n, out] F is scratch.
        """

    def feed_forward(
        self,
        x: Array,
        values: Array,
        layers: Array,
        scales: Array,
        seed: int,
        draw: int,
        stream: int,
        hidden: Array,
        out: Array,
    ) -> None:
        """`affine` and `affine_relu_dropout` one after another: all k layers of a network in one call.

        values: [p] F, weights and biases. layers: [k, 5] int64, of each where its weights and where its bias begin in
        values, its inputs, its outputs, and its threshold, or 0 where only `affine` is computed; scales: [k] float64.
        The first layer whose threshold is in 1..65535 takes the given draw, the next such layer the next.
        x: [n, in] F, out: [n, out] F; hidden: what all layers but the last give, each [n, outputs] F, end to end.
        """

    def feed_forward_backward(
        self,
        dy: Array,
        x: Array,
        values: Array,
        layers: Array,
        scales: Array,
        hidden: Array,
        out: Array,
        gradients: Array,
        dx: Array | None,
    ) -> None:
        """Gradients of `feed_forward` from what it gave; gradients: [p] F, each in the place that its values have."""

    def gelu(self, x: Array, out: Array) -> None:
        """``out = x * Phi(x)``, Phi the standard normal distribution function; x, out: [n] F."""

    def gelu_backward(self, dy: Array, x: Array, dx: Array) -> None:
        """``dx = dy * (Phi(x) + x * phi(x))``; all [n] F."""

    def softmax_cross_entropy(
        self, logits: Array, labels: Array, weights: Array | None, loss: Array, dlogits: Array
    ) -> None:
        """Mean cross-entropy of softmax(logits) and its gradient, in one pass over the rows.

        ``loss = sum_i w_i (logsumexp(z_i) - z_i[label_i]) / sum_i w_i`` and
        ``dlogits_i = w_i (softmax(z_i) - onehot(label_i)) / sum w``, with w = 1 where weights is None.
        logits, dlogits: [n, c] F, labels: [n] int64, weights: [n] F or None, loss: [1] F.
        A label outside [0, c) makes the loss NaN; nothing outside the arrays is read.
        """

    def mean_squared_error(self, prediction: Array, target: Array, loss: Array, dprediction: Array) -> None:
        """``loss = mean((p - t)**2)``, ``dprediction = 2 (p - t) / n``; [n] F each, loss: [1] F."""

    def pick(self, x: Array, index: Any, out: Array) -> None:
        """``out = x[index]``; any shapes NumPy's indexing allows."""

    def scatter_add(self, out: Array, index: Any, values: Array) -> None:
        """``out[index] += values``, repeated indices adding up; any shapes NumPy's indexing allows."""

    def sgd(
        self,
        param: Array,
        grad: Array,
        velocity: Array,
        spans: Array,
        l2: Array,
        lr: float,
        momentum: float,
        nesterov: bool,
        norms: Array | None,
    ) -> None:
        """One step of stochastic gradient descent on the flat parameter buffer, in place.

        ``g = grad + l2 * param``; ``velocity = momentum * velocity + g``; ``param -= lr * d`` with
        ``d = g + momentum * velocity`` if nesterov, else ``velocity``. A velocity of at most `NEGLIGIBLE` becomes 0;
        with momentum 0 it is not touched.
        param, grad, velocity: [p] F; spans: [k, 2] int64, the half-open range of each tensor; l2: [k] float64.
        norms: [k, 2] float64 or None; receives ``sum(param**2)`` before the update and ``sum(update**2)``; or on the
        CPU [k, 1], for the first alone.
        """

    def adam(
        self,
        param: Array,
        grad: Array,
        mean: Array,
        square: Array,
        spans: Array,
        l2: Array,
        decay: Array,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        step: int,
        norms: Array | None,
    ) -> None:
        """One step of Adam (Kingma and Ba 2015) with decoupled decay (Loshchilov and Hutter 2019), in place.

        ``g = grad + l2 * param``, ``mean = beta1 mean + (1 - beta1) g``, ``square = beta2 square + (1 - beta2) g**2``,
        ``param -= lr * (mhat / (sqrt(vhat) + eps) + decay * param)``, hats: corrected for ``step`` = 1, 2, ...
        mean, square: [p] F; l2, decay: [k] float64; the rest as `sgd`.
        """

    def gather(self, data: Array, rows: Array, mean: Array, scale: Array, out: Array) -> None:
        """``out[i] = (data[rows[i]] - mean) * scale``: a shuffled minibatch, converted and standardised.

        data: [N, d] uint8, float32 or float64; rows: [n] int64; mean, scale: [d] F; out: [n, d] F.
        """

    def philox(self, counters: Array, key: Array, out: Array) -> None:
        """Philox4x32-10 (Salmon et al. 2011): counters, out: [n, 4] uint32, key: [2] uint32."""


KERNELS = tuple(
    name
    for name, member in vars(Kernels).items()
    if callable(member) and not name.startswith("_") and name not in ("to_numpy", "empty")
)
"""The names of all kernels, in the order of the contract."""
