"""The programs of the lecture "training neural networks" (CS231n, winter 2016), runnable as its slides print them.

Every formula here is the engine's: what this page adds is the lecture's names, its dicts of arrays, its lines of
output, and, for dropout, its column vectors. `examples/lecture.py` walks through the lecture with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data import Batches, Dataset
from tinygrad_cr.errors import DataError, OptionError, ShapeError, StateDictError, unknown_name
from tinygrad_cr.nn import Module, Parameter
from tinygrad_cr.optim import SGD
from tinygrad_cr.options import integer, number
from tinygrad_cr.random import Generator, as_generator
from tinygrad_cr.tape import no_grad
from tinygrad_cr.tensor import Tensor, float_dtype
from tinygrad_cr.train.progress import epoch_line, finished_line

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
NAMES = ("W1", "b1", "W2", "b2")
INITIAL_STD = 1e-4
EXPLOSION = 3
"""The lecture's tip: if the cost is ever more than 3 times the original cost, break out early."""
ACCURACY_ROWS = 1000
"""The training accuracy is measured on at most so many rows."""


def init_two_layer_model(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    generator: Generator | int | None = None,
    dtype: Any = "float64",
) -> Arrays:
    """A model as the lecture keeps it: W1 [input, hidden], b1 [hidden], W2 [hidden, output], b2 [output].

    The weights are normal with a standard deviation of 1e-4, the biases 0.

    Args:
        input_size, hidden_size, output_size: widths of the layers.
        generator: where the weights come from: a Generator, a seed, or None for a fresh seed.
        dtype: "float64", as NumPy would have it, or "float32", which is faster.

    Raises:
        OptionError: a size that is not positive, or another dtype.

    >>> model = init_two_layer_model(32 * 32 * 3, 50, 10)
    >>> {name: array.shape for name, array in model.items()}
    {'W1': (3072, 50), 'b1': (50,), 'W2': (50, 10), 'b2': (10,)}
    """
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": output_size}
    inputs, hidden, outputs = (integer(name, size, least=1) for name, size in sizes.items())
    source, dtype = as_generator(generator), float_dtype(dtype)
    w1, w2 = (INITIAL_STD * source.normal(shape) for shape in ((inputs, hidden), (hidden, outputs)))
    values = (w1, np.zeros(hidden), w2, np.zeros(outputs))
    return {name: value.astype(dtype) for name, value in zip(NAMES, values, strict=True)}


def two_layer_net(X: Any, model: Mapping[str, Any], y: Any = None, reg: float = 0.0) -> Any:
    """Affine, ReLU, affine and softmax: the scores or, where labels are given, the cost and its gradient.

    The cost is the mean cross-entropy plus 0.5 * reg * (sum(W1**2) + sum(W2**2)).

    Args:
        X: [n, d] numbers; they are computed with in the dtype of the model.
        model: W1 [d, h], b1 [h], W2 [h, c], b2 [c], all float32 or all float64.
        y: [n] integers in [0, c), or None.
        reg: strength of the penalty.

    Returns:
        Without labels the scores, [n, c]. With labels the cost, a float, and a dict of gradients like the model.

    Raises:
        StateDictError: a model without one of the four arrays.
        ShapeError, DTypeError, DataError, OptionError: arrays, labels or reg that do not fit.

    >>> model = init_two_layer_model(2, 50, 10)
    >>> loss, grads = two_layer_net([[1.0, 2.0]], model, [3], 0.0)
    >>> round(loss, 4), list(grads)
    (2.3026, ['W1', 'b1', 'W2', 'b2'])
    """
    reg = number("reg", reg)
    missing = [name for name in NAMES if name not in model]
    if missing:
        raise StateDictError(f"the model lacks {', '.join(missing)}; init_two_layer_model makes a whole one")
    parameters = {name: Tensor(model[name], requires_grad=y is not None) for name in NAMES}
    w1, b1, w2, b2 = parameters.values()
    # A cost that explodes is reported as inf or nan; a warning for each operation on the way there says no more.
    with np.errstate(over="ignore", invalid="ignore"):
        scores = ops.affine(ops.affine_relu_dropout(Tensor(X, dtype=w1.dtype), w1, b1), w2, b2)
        if y is None:
            return scores.numpy()
        cost = ops.cross_entropy(scores, y)
        if reg:
            cost = cost + 0.5 * reg * (ops.multiply(w1, w1).sum() + ops.multiply(w2, w2).sum())
        cost.backward()
    return cost.item(), {name: parameter.grad for name, parameter in parameters.items()}


class ClassifierTrainer:
    """The lecture's training loop, for any model that is a dict of arrays and any loss function that fits it.

    `train.Trainer` is the faster and the more complete one; this one runs the lecture's programs.

    Args:
        generator: of the shuffles: a Generator, a seed, or None for a fresh seed.
    """

    def __init__(self, generator: Generator | int | None = None) -> None:
        self.generator = as_generator(generator)

    def train(
        self,
        X: Any,
        y: Any,
        X_val: Any,
        y_val: Any,
        model: Mapping[str, Any],
        loss_function: Callable[..., Any],
        *,
        reg: float = 0.0,
        learning_rate: float = 1e-3,
        momentum: float = 0.9,
        learning_rate_decay: float = 1.0,
        update: str = "sgd",
        sample_batches: bool = True,
        num_epochs: int = 10,
        batch_size: int = 100,
        early_stop: bool = True,
        verbose: bool = False,
    ) -> tuple[Arrays, dict[str, Any]]:
        """Train a copy of the model, and keep its best epoch.

        Args:
            X, y: the training part, [n, d] (images are flattened) and [n] integers from 0.
            X_val, y_val: the validation part.
            model: where training starts: arrays by name, all float32 or all float64. It stays as it is.
            loss_function: ``f(X, model) -> scores`` [n, c], and ``f(X, model, y, reg) -> cost, gradients`` with a
                dict of gradients like the model: `two_layer_net` or one of your own.
            reg: passed on to the loss function.
            learning_rate: of the first epoch.
            momentum: of the update 'momentum'; `optim.SGD` says how the velocity is kept.
            learning_rate_decay: factor on the learning rate after each epoch.
            update: 'sgd' or 'momentum'.
            sample_batches: shuffled minibatches, of which an epoch shows each row once; with False, one update an
                epoch with all rows.
            num_epochs: how many epochs.
            batch_size: rows in a minibatch; the last of an epoch may be smaller.
            early_stop: stop when the cost is more than 3 times the original cost, or no number.
            verbose: print the lecture's lines. The cost in them is that of the epoch's last minibatch before its
                update, the accuracies are those after it, and the training accuracy is that of at most 1000 rows.

        Returns:
            best_model: the parameters of the first epoch with the best validation accuracy; those of the start if
                training was stopped in its first epoch.
            stats: loss_history (a cost an update), train_acc_history and val_acc_history (a value an epoch; those of
                the start if training was stopped in its first), and stopped (None, or why training ended early).

        Raises:
            OptionError: an option outside its range, an unknown update, gradients that are not those of the model.
            DataError, ShapeError, DTypeError: data, labels, a model or gradients that do not fit.

        >>> X, y = np.eye(4), [0, 1, 2, 3]
        >>> model = init_two_layer_model(4, 8, 4, generator=1)
        >>> options = {"num_epochs": 1, "sample_batches": False, "verbose": True}
        >>> best_model, stats = ClassifierTrainer().train(X, y, X, y, model, two_layer_net, **options)
        starting iteration 0
        Finished epoch 1 / 1: cost 1.386294, train: 0.250000, val 0.250000, lr 1.000000e-03
        finished optimization. best validation accuracy: 0.250000
        """
        epochs, size = integer("num_epochs", num_epochs, least=1), integer("batch_size", batch_size, least=1)
        lr, decay = number("learning_rate", learning_rate), number("learning_rate_decay", learning_rate_decay)
        if update not in ("sgd", "momentum"):
            raise unknown_name("update", update, ("sgd", "momentum"))
        momentum = number("momentum", momentum, below=1)
        trained = _Model(model)
        optimizer = SGD(trained, lr, momentum if update == "momentum" else 0.0)
        train, validation = Dataset(X, y), Dataset(X_val, y_val)
        sample = train.spread(ACCURACY_ROWS)
        batches = Batches(
            train,
            size if sample_batches else len(train),
            generator=self.generator,
            shuffle=sample_batches,
            dtype=str(trained.dtype),
        )

        def accuracies() -> tuple[float, float]:
            return trained.accuracy(loss_function, sample), trained.accuracy(loss_function, validation)

        say: Callable[[str], None] = print if verbose else lambda line: None
        best, start = trained.copy(), accuracies()
        best_accuracy: float | None = None
        stats: dict[str, Any] = {"loss_history": [], "train_acc_history": [], "val_acc_history": [], "stopped": None}
        costs = stats["loss_history"]
        say("starting iteration 0")
        for epoch in range(1, epochs + 1):
            for x, labels in batches:
                costs.append(trained.gradients(loss_function, x, labels, reg))
                if early_stop and not costs[-1] <= EXPLOSION * costs[0]:
                    stats["stopped"] = (
                        f"stopped early in epoch {epoch} / {epochs}: the cost is {costs[-1]:f}, the original cost was "
                        f"{costs[0]:f}: the learning rate, {optimizer.lr:e}, is probably too high"
                    )
                    break
                optimizer.step()
            if stats["stopped"]:
                say(stats["stopped"])
                break
            accuracy, val_accuracy = accuracies()
            stats["train_acc_history"].append(accuracy)
            stats["val_acc_history"].append(val_accuracy)
            if best_accuracy is None or val_accuracy > best_accuracy:
                best, best_accuracy = trained.copy(), val_accuracy
            figures = {"loss": costs[-1], "accuracy": accuracy, "val_accuracy": val_accuracy, "lr": optimizer.lr}
            say(epoch_line({"epoch": epoch, **figures}, epochs))
            optimizer.lr *= decay
        if best_accuracy is None:
            best_accuracy = start[1]
            stats["train_acc_history"], stats["val_acc_history"] = [[accuracy] for accuracy in start]
        say(finished_line(best_accuracy))
        return best, stats


class _Model(Module):
    """A dict of arrays as a module: what an optimiser updates."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        if not isinstance(model, Mapping) or not model:
            raise OptionError(f"model wants arrays by name, as init_two_layer_model gives them; got {model!r}")
        self.arrays = {name: Parameter(np.asarray(value)) for name, value in model.items()}
        self.flat()

    def values(self) -> Arrays:
        """The arrays as they are now, in the memory where the optimiser updates them."""
        return {name: parameter.data for name, parameter in self.arrays.items()}

    def copy(self) -> Arrays:
        return {name: value.copy() for name, value in self.values().items()}

    def accuracy(self, loss_function: Callable[..., Any], data: Dataset) -> float:
        if data.y is None:
            raise DataError("ClassifierTrainer wants labels for both parts")
        scores = np.asarray(loss_function(data.x.astype(self.dtype, copy=False), self.values()))
        if scores.ndim != 2 or len(scores) != len(data):
            raise ShapeError(f"loss_function(X, model) wants to give scores ({len(data)}, classes), got {scores.shape}")
        return float((scores.argmax(axis=1) == data.y).mean())

    def gradients(self, loss_function: Callable[..., Any], x: Array, y: Array, reg: float) -> float:
        """Take over the gradients of the loss function; its cost."""
        cost, gradients = loss_function(x, self.values(), y, reg)
        if set(gradients) != set(self.arrays):
            raise OptionError(
                f"loss_function gave gradients named {sorted(gradients)}, the model has {sorted(self.arrays)}"
            )
        for name, parameter in self.arrays.items():
            parameter.grad = np.asarray(gradients[name], parameter.dtype)
        return float(cost)


class _ThreeLayers(Module):
    """Two hidden layers with dropout and an output layer, for examples that are columns."""

    mode: str

    def __init__(
        self,
        W1: Any,
        b1: Any,
        W2: Any,
        b2: Any,
        W3: Any,
        b3: Any,
        p: float = 0.5,
        *,
        generator: Generator | int | None = None,
    ) -> None:
        self.p = number("p", p)
        if not 0 < self.p <= 1:
            raise OptionError(f"p must be in (0, 1], got {p!r}; it is the probability of keeping a unit")
        self.W1, self.W2, self.W3 = (Parameter(np.array(w)) for w in (W1, W2, W3))
        self.b1, self.b2, self.b3 = (Parameter(np.array(b), regularized=False) for b in (b1, b2, b3))
        self.generator = as_generator(generator)
        fitting = [w.ndim == 2 and b.shape in (w.shape[:1], (w.shape[0], 1)) for w, b in self._layers()]
        if not all(fitting) or self.W1.shape[0] != self.W2.shape[1] or self.W2.shape[0] != self.W3.shape[1]:
            given = ", ".join(f"{name} {p.shape}" for name, p in self.named_parameters())
            raise ShapeError(f"three layers want W1 [h, d], W2 [g, h], W3 [c, g] and biases [h], [g], [c]; got {given}")
        self.flat()

    def _layers(self) -> list[tuple[Parameter, Parameter]]:
        return [(self.W1, self.b1), (self.W2, self.b2), (self.W3, self.b3)]

    def forward(self, x: Tensor) -> Tensor:
        """`train_step` while the module is in training, else what `predict` computes."""
        return self._out(x, self.training)

    def train_step(self, X: Any) -> Tensor:
        """The lecture's forward pass with two fresh masks; X: [d] or [d, n] -> [c] or [c, n].

        What the slide does not show is ``loss = ops.cross_entropy(out.T, y)``, ``loss.backward()`` and an update of
        the attributes W1 to b3, such as ``optim.SGD(net, lr).step()``.

        Raises:
            ShapeError: X of another height.
        """
        return self._out(X, True)

    def predict(self, X: Any) -> Array:
        """The lecture's forward pass at test time, without masks; X: [d] or [d, n] -> [c] or [c, n].

        Raises:
            ShapeError: X of another height.
        """
        with no_grad():
            return self._out(X, False).numpy()

    def _out(self, X: Any, training: bool) -> Tensor:
        # A tensor stays one, for a gradient of its own.
        columns = X if isinstance(X, Tensor) else Tensor(X, dtype=self.dtype, device=self.W1.device)
        inputs = self.W1.shape[1]
        if columns.ndim not in (1, 2) or columns.shape[0] != inputs:
            raise ShapeError(
                f"X wants a column of {inputs} numbers an example, [{inputs}] or [{inputs}, n]; got {columns.shape}"
                + ("; pass X.T" if columns.ndim == 2 and columns.shape[1] == inputs else "")
            )
        options: dict[str, Any] = {"generator": self.generator, "mode": self.mode, "training": training}
        *hidden, (w3, b3) = ((ops.transpose(w), ops.reshape(b, -1)) for w, b in self._layers())
        rows = ops.transpose(columns)
        for w, b in hidden:
            rows = ops.affine_relu_dropout(rows, w, b, 1 - self.p, **options)
        return ops.transpose(ops.affine(rows, w3, b3))


class VanillaDropout(_ThreeLayers):
    """The lecture's three-layer network with vanilla dropout: masks in training, activations times p at test time.

    Args:
        W1, b1, W2, b2, W3, b3: [h, d], [h], [g, h], [g], [c, g], [c]; biases may be columns, [h, 1]. They are copied
            and become attributes of these names, Parameters all of them.
        p: the probability of *keeping* a unit, as in the lecture, in (0, 1].
        generator: of the masks: a Generator, a seed, or None for a fresh seed.

    Raises:
        ShapeError, DTypeError: arrays that do not fit together.
        OptionError: p outside its range.

    >>> one = np.ones((1, 1))
    >>> net = VanillaDropout(one, one[0], one, one[0], one, one[0], p=0.5)
    >>> net.predict([1.0])  # ((1 + 1) / 2 + 1) / 2 + 1
    array([2.])
    """

    mode = "vanilla"


class InvertedDropout(_ThreeLayers):
    """The lecture's three-layer network with inverted dropout: masks divided by p in training, nothing at test time.

    Arguments and errors are those of `VanillaDropout`.

    >>> one = np.ones((1, 1))
    >>> net = InvertedDropout(one, one[0], one, one[0], one, one[0], p=0.5, generator=1)
    >>> net.predict([1.0])  # (1 + 1 + 1) + 1
    array([4.])
    >>> train_step, predict = net.train_step, net.predict
    >>> train_step([1.0]).shape
    (1,)
    """

    mode = "inverted"
