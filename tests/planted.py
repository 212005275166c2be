"""Training set-ups with one bug each, for the doctor: every one is a healthy set-up in which one thing is spoiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cr import ops
from tinygrad_cr.data import Dataset, load, split
from tinygrad_cr.nn import MLP, Affine, Dropout, Module, Parameter, ReLU, Sequential
from tinygrad_cr.optim import SGD
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor, record

LR = 0.01
DIGITS = load("digits")


class Setting(NamedTuple):
    """What `preflight` is called with."""

    model: Module
    train: Dataset
    validation: Dataset | None
    options: dict[str, Any]


def healthy(seed: int = 0) -> Setting:
    """What ``tinygrad-cr train`` does by default."""
    parts = split(DIGITS, seed=seed)
    model = MLP([64, 200, 10], dropout=0.3, generator=seed)
    return Setting(model, parts.train, parts.validation, {"lr": LR})


def stacked(seed: int, hidden: Module, first: type[Affine] = Affine) -> Sequential:
    """The same network, layer by layer, with another layer behind the ReLU."""
    generator = Generator(seed)
    return Sequential(first(64, 200, generator=generator), ReLU(), hidden, Affine(200, 10, generator=generator))


# Layers, losses and optimisers with a bug


class NoBiasGradient(Affine):
    """Forgets that the bias has a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        y = x.data @ w.data + self.bias.data
        return record(y, (x, w), lambda g: (g @ w.data.T if x.requires_grad else None, x.data.T @ g))


class SlightlyWrong(Affine):
    """A gradient of the weights that is 0.1 % too large."""

    def forward(self, x: Tensor) -> Tensor:
        w, b = self.weight, self.bias
        y = x.data @ w.data + b.data
        return record(
            y, (x, w, b), lambda g: (g @ w.data.T if x.requires_grad else None, x.data.T @ g * 1.001, g.sum(0))
        )


class AlwaysDropping(Dropout):
    """Does not ask whether it is in training."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.dropout, generator=self.generator, training=True)


class ScaledTwice(Dropout):
    """Inverted in training and vanilla in evaluation: the probability of keeping counts twice."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return ops.dropout(x, self.dropout, generator=self.generator, mode="inverted")
        return x * (1 - self.dropout)


class NeverScaled(Dropout):
    """Vanilla in training, inverted in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        mode = "vanilla" if self.training else "inverted"
        return ops.dropout(x, self.dropout, generator=self.generator, mode=mode, training=self.training)


class Softmaxed(MLP):
    """Gives probabilities where the loss wants logits."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.softmax(super().forward(x))


class Grows(SGD):
    """Subtracts the gradient of the penalty with the wrong sign."""

    def step(self, *, reg: float = 0.0, norms: bool = False) -> Any:
        return super().step(reg=-reg, norms=norms)


class DecaysBiases(SGD):
    """Penalises biases as well."""

    def step(self, *, reg: float = 0.0, norms: bool = False) -> Any:
        for p in self.flat.parameters:
            if not p.regularized:
                p.data -= self.lr * reg * p.data
        return super().step(reg=reg, norms=norms)


def summed(logits: Tensor, labels: Any) -> Tensor:
    """The loss of the batch, not of a row."""
    return ops.cross_entropy(logits, labels) * float(len(labels))


# Settings with a bug


def with_options(**options: Any) -> Callable[[int], Setting]:
    def plant(seed: int) -> Setting:
        setting = healthy(seed)
        return setting._replace(options=setting.options | options)

    return plant


def with_model(make: Callable[[int], Module]) -> Callable[[int], Setting]:
    return lambda seed: healthy(seed)._replace(model=make(seed))


def with_weights(change: Callable[[str, Parameter], None]) -> Callable[[int], Setting]:
    def plant(seed: int) -> Setting:
        setting = healthy(seed)
        for name, parameter in setting.model.named_parameters():
            change(name, parameter)
        return setting

    return plant


def with_data(change: Callable[[Dataset, int], Dataset]) -> Callable[[int], Setting]:
    def plant(seed: int) -> Setting:
        setting = healthy(seed)
        return setting._replace(train=change(setting.train, seed))

    return plant


def labelled(data: Dataset, y: Any) -> Dataset:
    return Dataset(data.x, y, data.name, data.class_names, data.image_shape)


def shuffled(data: Dataset, seed: int) -> Dataset:
    return labelled(data, np.random.default_rng(seed).permutation(data.y))


def shifted_by_a_row(data: Dataset, seed: int) -> Dataset:
    mixed = data.take(np.random.default_rng(seed).permutation(len(data)))  # neighbours were written by one hand
    return labelled(mixed, np.roll(mixed.y, 1))


def counted_from_one(seed: int) -> Setting:
    setting = healthy(seed)
    parts = [Dataset(part.x, part.y + 1, image_shape=(8, 8)) for part in (setting.train, setting.validation)]
    return setting._replace(train=parts[0], validation=parts[1])


def counted_from_one_with_an_output_more(seed: int) -> Setting:
    return counted_from_one(seed)._replace(model=MLP([64, 200, 11], dropout=0.3, generator=seed))


def as_table(column: float | None) -> Callable[[int], Setting]:
    """The digits as a table, of the features that vary; with a further column that does not, if one is given."""

    def plant(seed: int) -> Setting:
        setting = healthy(seed)
        varies = setting.train.x.min(axis=0) != setting.train.x.max(axis=0)
        parts = []
        for part in (setting.train, setting.validation):
            x = part.x[:, varies].astype("float32")
            if column is not None:
                x = np.hstack([x, np.full((len(x), 1), column, "float32")])
            parts.append(Dataset(x, part.y, class_names=part.class_names))
        model = MLP([parts[0].features, 200, 10], dropout=0.3, generator=seed)
        return Setting(model, parts[0], parts[1], setting.options)

    return plant


def with_a_stuck_pixel(data: Dataset, seed: int) -> Dataset:
    x = data.x.copy()
    x[:, 20] = 7
    return Dataset(x, data.y, data.name, data.class_names, data.image_shape)


def with_a_row_of_validation(seed: int) -> Setting:
    setting = healthy(seed)
    x, y = setting.train.x.copy(), setting.train.y.copy()
    x[17], y[17] = setting.validation.x[5], setting.validation.y[5]
    return setting._replace(train=Dataset(x, y, "digits", setting.train.class_names, (8, 8)))


def with_optimizer(kind: type[SGD]) -> Callable[[int], Setting]:
    def plant(seed: int) -> Setting:
        setting = healthy(seed)
        return setting._replace(options={"optimizer": kind(setting.model, LR, 0.9), "reg": 1e-4})

    return plant


def hundredfold(name: str, parameter: Parameter) -> None:
    if parameter.regularized:
        parameter.data *= 100


def zero(name: str, parameter: Parameter) -> None:
    parameter.data[...] = 0


def equal(name: str, parameter: Parameter) -> None:
    if parameter.regularized:
        parameter.data[...] = 0.01


def dead(name: str, parameter: Parameter) -> None:
    if name == "layers.0.bias":
        parameter.data[...] = -1000


def mostly_dead(name: str, parameter: Parameter) -> None:
    if name == "layers.0.bias":
        parameter.data[:150] = -1000


class Bug(NamedTuple):
    """A setting with a bug, and the checks that see it: no other may say anything."""

    plant: Callable[[int], Setting]
    caught: dict[str, str]


BUGS: dict[str, Bug] = {
    "loss summed instead of averaged": Bug(with_options(loss=summed), {"initial loss": "FAIL"}),
    "a missing bias gradient": Bug(
        with_model(lambda seed: stacked(seed, Dropout(0.3, generator=seed), NoBiasGradient)), {"gradients": "FAIL"}
    ),
    "a gradient that is 0.1 % wrong": Bug(
        with_model(lambda seed: stacked(seed, Dropout(0.3, generator=seed), SlightlyWrong)), {"gradients": "FAIL"}
    ),
    "labels shuffled": Bug(with_data(shuffled), {"signal": "FAIL"}),
    "labels shifted by a row": Bug(with_data(shifted_by_a_row), {"signal": "FAIL"}),
    "labels off by one": Bug(counted_from_one, {"labels": "FAIL"}),
    "labels off by one, and an output more": Bug(counted_from_one_with_an_output_more, {"labels": "FAIL"}),
    "weights 100 times too large": Bug(with_weights(hundredfold), {"initial loss": "FAIL"}),
    "weights all zero": Bug(with_weights(zero), {"initialisation": "FAIL"}),
    "weights all equal": Bug(with_weights(equal), {"initialisation": "FAIL"}),
    "learning rate x 1000": Bug(with_options(lr=LR * 1000), {"learning rate": "FAIL"}),
    "learning rate / 1000": Bug(with_options(lr=LR / 1000), {"learning rate": "FAIL"}),
    "dropout left on in evaluation": Bug(
        with_model(lambda seed: stacked(seed, AlwaysDropping(0.3, generator=seed))), {"evaluation mode": "FAIL"}
    ),
    "dropout scaled twice": Bug(
        with_model(lambda seed: stacked(seed, ScaledTwice(0.3, generator=seed))), {"dropout": "FAIL"}
    ),
    "dropout never scaled": Bug(
        with_model(lambda seed: stacked(seed, NeverScaled(0.3, generator=seed))), {"dropout": "FAIL"}
    ),
    "inputs not standardised": Bug(with_options(standardize="none"), {"inputs": "FAIL"}),
    "a constant feature": Bug(as_table(5.0), {"inputs": "WARN"}),
    "a pixel that is stuck": Bug(with_data(with_a_stuck_pixel), {"inputs": "WARN"}),
    "a validation row among the training rows": Bug(with_a_row_of_validation, {"split": "WARN"}),
    "a regularisation gradient with the wrong sign": Bug(with_optimizer(Grows), {"regularisation": "FAIL"}),
    "a penalty on biases": Bug(with_optimizer(DecaysBiases), {"regularisation": "FAIL"}),
    "ReLUs all dead": Bug(with_weights(dead), {"units": "FAIL"}),
    "most ReLUs dead": Bug(with_weights(mostly_dead), {"units": "WARN"}),
    "softmax before the loss": Bug(
        with_model(lambda seed: Softmaxed([64, 200, 10], dropout=0.3, generator=seed)), {"overfit": "FAIL"}
    ),
}
