"""The lecture "training neural networks" (CS231n, winter 2016, Karpathy and Johnson) from beginning to end.

    python examples/lecture.py            # 10,000 training rows, 30 trials a search: under 3 minutes on two cores
    python examples/lecture.py --full     # 49,000 rows and 100 trials, as in the lecture

The lecture uses CIFAR-10. Here its 20 images to overfit are 20 of CIFAR-10 as well, and everything else is
Fashion-MNIST. Lines that begin with "slide |" are what the lecture shows; everything else is measured while you watch.
`docs/lecture.md` says how the two compare.
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cr import Generator, Tensor, data, nn, no_grad, ops, optim, train
from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, DownloadError, OptionError
from tinygrad_cr.lecture import ClassifierTrainer, InvertedDropout, VanillaDropout, init_two_layer_model, two_layer_net

IMAGES = Path(__file__).parents[1] / "tests" / "data" / "cifar10-20.npz"
HIDDEN = 50


class Parts(NamedTuple):
    """What everything but the overfitting runs on: pixels 0..255, and the same less the training part's mean image."""

    train: Dataset
    validation: Dataset
    test: Dataset
    X_train: Any
    X_val: Any

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.train.features, HIDDEN, self.train.classes


class Trial(NamedTuple):
    val_acc: float
    lr: float
    reg: float


def title(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def slide(*lines: str) -> None:
    for line in lines:
        print(f"slide | {line}")


def model_for(parts: Parts, generator: Generator) -> dict[str, Any]:
    return init_two_layer_model(*parts.sizes, generator=generator, dtype="float32")


# Data


def images_of_cifar(path: Path) -> tuple[Any, Any]:
    """The 20 images less their mean image, in float64 as the lecture's NumPy had them."""
    images = data.load(path)
    return images.x - images.x.mean(axis=0), images.y


def classification_data(name: str, rows: int, seed: int) -> Parts:
    try:
        whole = enlarged_digits() if name == "digits" else data.load(name)
    except (DataError, DownloadError) as error:
        print(f"{name} is not available ({error}); the digits that ship with the package take its place.")
        whole = enlarged_digits()
    parts = data.split(whole, validation=1 / 6, seed=seed)
    assert parts.validation is not None
    assert parts.test is not None
    first, validation = parts.train.take(slice(0, rows)), parts.validation.take(slice(0, 1000))
    zero_centred = data.Standardizer("mean-image").fit(first.x)
    return Parts(first, validation, parts.test, zero_centred.transform(first.x), zero_centred.transform(validation.x))


def enlarged_digits() -> Dataset:
    """The digits as 32x32 images of pixels 0..255, so that learning rates mean about what they mean in the lecture."""
    digits = data.load("digits")
    images = np.kron(digits.x.reshape(-1, 8, 8) * (255 / 16), np.ones((1, 4, 4)))
    return Dataset(images.astype(np.uint8), digits.y, "digits")


# Babysitting the learning process


def sanity_check(X: Any, y: Any, parts: Parts, generator: Generator) -> None:
    title("Check that the loss is reasonable")
    slide("loss with reg 0:   2.30261216167   (ln 10 = 2.302585)", "loss with reg 1e3: 3.06859716482   (went up, good)")
    cifar = init_two_layer_model(X.shape[1], HIDDEN, 10, generator=generator)
    for name, model, rows, labels in (
        ("20 CIFAR-10 images", cifar, X, y),
        (parts.train.name, model_for(parts, generator), parts.X_train[:1000], parts.train.take(slice(0, 1000)).y),
    ):
        for reg in (0.0, 1e3):
            loss, _ = two_layer_net(rows, model, labels, reg)
            penalty = 0.5 * reg * sum(float((model[w] ** 2).sum()) for w in ("W1", "W2"))
            print(f"{name}: reg {reg:g}, loss {loss:.6f}, wanted ln 10 + {penalty:.6f} = {math.log(10) + penalty:.6f}")
    analytic, numeric = slopes(X, y, cifar, generator)
    print(f"gradient along a random direction: {analytic:.6e}, by finite differences {numeric:.6e}")


def slopes(X: Any, y: Any, model: dict[str, Any], generator: Generator, step: float = 1e-8) -> tuple[float, float]:
    """How fast the loss grows along a random direction: by the gradient, and by two losses."""
    direction = {name: generator.normal(array.shape) for name, array in model.items()}
    _, grads = two_layer_net(X, model, y, 1.0)

    def loss(sign: float) -> float:
        return float(two_layer_net(X, {n: a + sign * step * direction[n] for n, a in model.items()}, y, 1.0)[0])

    return sum(float((grads[n] * d).sum()) for n, d in direction.items()), (loss(1) - loss(-1)) / (2 * step)


def overfit(X_tiny: Any, y_tiny: Any, generator: Generator) -> None:
    title("Make sure that you can overfit a very small portion of the training data")
    slide(
        "Finished epoch 1 / 200: cost 2.302603, train: 0.400000, val 0.400000, lr 1.000000e-03",
        "Finished epoch 20 / 200: cost 1.297760, train: 0.650000, val 0.650000, lr 1.000000e-03",
        "Finished epoch 195 / 200: cost 0.002694, train: 1.000000, val 1.000000, lr 1.000000e-03",
        "Finished epoch 200 / 200: cost 0.002597, train: 1.000000, val 1.000000, lr 1.000000e-03",
        "finished optimization. best validation accuracy: 1.000000",
    )
    model = init_two_layer_model(32 * 32 * 3, 50, 10, generator=generator)
    trainer = ClassifierTrainer()
    _, stats = trainer.train(
        X_tiny,
        y_tiny,
        X_tiny,
        y_tiny,
        model,
        two_layer_net,
        num_epochs=200,
        reg=0.0,
        update="sgd",
        learning_rate_decay=1,
        sample_batches=False,
        learning_rate=1e-3,
        verbose=False,
    )
    print("(verbose=True prints all 200 lines)")
    for epoch in (1, 2, 5, 10, 15, 20, 195, 200):
        cost, accuracy = stats["loss_history"][epoch - 1], stats["train_acc_history"][epoch - 1]
        print(f"epoch {epoch}: cost {cost:f}, train: {accuracy:f}")


def learning_rates(parts: Parts, generator: Generator) -> None:
    title("Find a learning rate that makes the loss go down")
    slide(
        "1e-6, epochs 1 and 10: cost 2.302576, 2.302420; train 0.080, 0.190 (loss barely changing: too low)",
        "1e6,  epochs 1 to 3: cost nan (almost always means that the learning rate is too high)",
        "3e-3, epochs 1 to 6: cost 2.19, 2.18, 1.94, 1.83, inf, inf (still too high)",
        "so the rough range to cross-validate is [1e-3 ... 1e-5]",
    )
    for lr, epochs in ((1e-6, 10), (1e6, 3), (3e-3, 6), (1e-2, 3)):
        _, stats = ClassifierTrainer(generator).train(
            parts.X_train,
            parts.train.y,
            parts.X_val,
            parts.validation.y,
            model_for(parts, generator),
            two_layer_net,
            num_epochs=epochs,
            reg=0.000001,
            update="sgd",
            learning_rate_decay=1,
            sample_batches=True,
            learning_rate=lr,
            early_stop=False,
            verbose=True,
        )
        costs, accuracies = stats["loss_history"], stats["train_acc_history"]
        exploded = next((i for i, cost in enumerate(costs) if not cost <= 3 * costs[0]), None)
        if exploded is not None:
            verdict = f"update {exploded} took the cost from {costs[0]:.6f} to {costs[exploded]:g}: too high"
        elif abs(costs[-1] - costs[0]) < 0.01 * costs[0]:
            verdict = f"the cost went from {costs[0]:.6f} to {costs[-1]:.6f}, it barely moves: too low"
        else:
            verdict = f"the cost went from {costs[0]:.6f} to {costs[-1]:.6f}: it learns"
        print(f"--> lr {lr:g}: {verdict}; train accuracy {accuracies[0]:.3f} to {accuracies[-1]:.3f}\n")


# Hyperparameters


def search(
    parts: Parts,
    trials: int,
    generator: Generator,
    *,
    lr: tuple[float, float],
    reg: tuple[float, float],
    shown: int = 12,
    epochs: int = 5,
) -> Trial:
    """Random search in log space, between powers of ten; the best trial."""
    results = []
    stopped = 0
    for count in range(1, trials + 1):
        at_lr, at_reg = (10 ** (low + (high - low) * generator.uniform((1,)).item()) for low, high in (lr, reg))
        _, stats = ClassifierTrainer(generator).train(
            parts.X_train,
            parts.train.y,
            parts.X_val,
            parts.validation.y,
            model_for(parts, generator),
            two_layer_net,
            num_epochs=epochs,
            reg=at_reg,
            update="momentum",
            learning_rate_decay=0.9,
            sample_batches=True,
            batch_size=100,
            learning_rate=at_lr,
            verbose=False,
        )
        stopped += stats["stopped"] is not None
        results.append(Trial(max(stats["val_acc_history"]), at_lr, at_reg))
        if count <= shown:
            print(f"val_acc: {results[-1].val_acc:f}, lr: {at_lr:e}, reg: {at_reg:e}, ({count} / {trials})", flush=True)
    best = max(results)
    print(f"... {stopped} of {trials} were stopped early because the cost was more than 3 x the original cost")
    print(f"best: val_acc: {best.val_acc:f}, lr: {best.lr:e}, reg: {best.reg:e}")
    place = (math.log10(best.lr) - lr[0]) / (lr[1] - lr[0])
    away = min(place, 1 - place)
    worry = "that is worrying: better ones may lie beyond" if away < 0.1 else "nothing to worry about"
    print(f"its learning rate is {away:.0%} of the range away from an edge: {worry}")
    return best


def cross_validation(parts: Parts, trials: int, generator: Generator) -> Trial:
    title("Coarse search: 5 epochs a trial, in log space")
    slide(
        "val_acc: 0.412000, lr: 1.405206e-04, reg: 4.793564e-01, (1 / 100)",
        "val_acc: 0.079000, lr: 1.753300e-05, reg: 1.200424e+03, (5 / 100)",
        "val_acc: 0.482000, lr: 4.296863e-04, reg: 6.642555e-01, (9 / 100)   (nice)",
    )
    search(parts, trials, generator, lr=(-6, -3), reg=(-5, 5))
    title("Finer search")
    slide(
        "val_acc: 0.527000, lr: 5.340517e-04, reg: 4.097824e-01, (0 / 100)",
        "val_acc: 0.531000, lr: 9.471549e-04, reg: 1.433895e-03, (14 / 100)",
        "53%: relatively good for a 2-layer network with 50 hidden neurons. But this best result is worrying. Why?",
        "(its learning rate is near the edge of the range)",
    )
    best = search(parts, trials, generator, lr=(-4, -3), reg=(-4, 0))
    title("The same beyond the upper edge of the range")
    wider = search(parts, trials, generator, lr=(-4, -2), reg=(-4, 0))
    print(f"the wider range was worth {wider.val_acc - best.val_acc:+.3f} validation accuracy")
    return max(best, wider)


def grid_and_random(generator: Generator) -> None:
    title("Random search or grid search")
    grid = list(product((-6, -4.5, -3), (-5, 0, 5)))
    random = generator.uniform((9, 2))
    print(f"9 trials on a grid try {len({lr for lr, _ in grid})} learning rates; at random, {len(set(random[:, 0]))}.")
    print("Where one of two hyperparameters matters far more than the other, the grid spends 6 of its 9 trials on")
    print("repetitions (Bergstra and Bengio 2012).")


# Watching a run


def monitor(parts: Parts, best: Trial, seed: int, epochs: int = 10) -> None:
    title("Watch the curves: loss, accuracies and their gap, ratio of update to weights")
    slide(
        "big gap = overfitting: more regularization; no gap: more model capacity",
        "ratio of update to weight norms: want about 1e-3",
    )
    for few in (1, 10):
        part = parts.train.take(slice(0, len(parts.train) // few))
        model = nn.MLP(parts.sizes, init=1e-4, generator=seed)
        options: dict[str, Any] = {
            "lr": best.lr,
            "reg": best.reg,
            "momentum": 0.9,
            "batch_size": 100,
            "standardize": "mean-image",
        }
        # As many updates for few rows as for all.
        schedule: dict[str, Any] = {"epochs": epochs * few, "lr_decay": 0.9 ** (1 / few)}
        trainer = train.Trainer(model, **options, **schedule, generator=seed, reporter=False)
        history = trainer.fit(part, parts.validation)
        print(f"{len(part)} training rows, lr {best.lr:.2e}, reg {best.reg:.2e}")
        print("epoch    cost   train     val     gap   |dW1|/|W1|   |dW2|/|W2|")
        gap = math.nan
        for row in history[few - 1 :: few]:
            gap = row["accuracy"] - row["val_accuracy"]
            ratios = [row[f"update_ratio.layers.{i}.weight"] for i in (0, 1)]
            print(
                f"{row['epoch']:5}  {row['loss']:6.4f}  {row['accuracy']:6.4f}  {row['val_accuracy']:6.4f}  "
                f"{gap:+6.3f}   {ratios[0]:10.1e}   {ratios[1]:10.1e}"
            )
        advice = "overfitting, regularize more" if gap > 0.05 else "not much, a larger network may do better"
        print(f"--> a gap of {gap:.3f}: {advice}")


def flat_starts(parts: Parts, seed: int) -> None:
    title("A curve that starts flat: bad initialization is a prime suspect")
    for init in (1e-3, "he"):
        model = nn.MLP([parts.train.features, 100, 100, parts.train.classes], init=init, generator=seed)
        trainer = train.Trainer(model, lr=0.02, epochs=8, batch_size=100, generator=seed, reporter=False)
        costs = trainer.fit(parts.train, parts.validation).column("loss")
        print(f"init {init:>5}: cost by epoch {'  '.join(f'{cost:.4f}' for cost in costs)}")


# Part 2


def parameter_updates(parts: Parts, seed: int) -> None:
    title("Parameter updates")
    for name in ("SGD", "momentum", "Nesterov momentum", "Adam"):
        model = nn.MLP(parts.sizes, generator=seed)
        optimizer: optim.Optimizer = optim.Adam(model, lr=1e-3)
        if name != "Adam":
            momentum = 0.0 if name == "SGD" else 0.9
            optimizer = optim.SGD(model, lr=0.01, momentum=momentum, nesterov=name.startswith("Nesterov"))
        trainer = train.Trainer(model, optimizer=optimizer, epochs=3, batch_size=100, generator=seed, reporter=False)
        costs = trainer.fit(parts.train, parts.validation).column("loss")
        print(f"{name:>17}, lr {optimizer.lr:g}: cost by epoch {'  '.join(f'{cost:.4f}' for cost in costs)}")


def ensemble(parts: Parts, seed: int, members: int = 5) -> None:
    title("Model ensembles")
    slide("1. train multiple independent models, 2. at test time average their results: enjoy 2% extra performance")
    probabilities, accuracies = [], []
    for member in range(members):
        model = nn.MLP(parts.sizes, generator=seed + member)
        options: dict[str, Any] = {
            "epochs": 8,
            "lr": 0.02,
            "lr_decay": 0.8,
            "batch_size": 100,
            "generator": seed + member,
        }
        trainer = train.Trainer(model, **options, reporter=False)
        trainer.fit(parts.train, parts.validation)
        probabilities.append(train.predict_proba(model, parts.test.x, trainer.standardizer))
        accuracies.append(accuracy(probabilities[-1], parts.test.y))
        print(f"model {member + 1}: test accuracy {accuracies[-1]:.4f}")
    together = accuracy(np.mean(probabilities, axis=0), parts.test.y)
    rows = len(parts.test)
    print(
        f"average of the probabilities of {members}: {together:.4f}; the models alone: {np.mean(accuracies):.4f} on "
        f"average, {max(accuracies):.4f} the best one"
    )
    print(
        f"gain over one model: {100 * (together - np.mean(accuracies)):+.2f} points, measured on {rows} rows "
        f"(the standard error of one accuracy is {100 * math.sqrt(together * (1 - together) / rows):.2f} points)"
    )


def accuracy(scores: Any, y: Any) -> float:
    return float((scores.argmax(axis=1) == y).mean())


def one_neuron(generator: Generator) -> None:
    title("Dropout: why test time scales, on one neuron a = w0 x + w1 y with p = 0.5")
    slide("test time a = w0 x + w1 y; training E[a] = 1/4 (0 + w0 x + w1 y + w0 x + w1 y) = 1/2 (w0 x + w1 y)")
    inputs, w, b = Tensor([[3.0, 5.0]]), Tensor([[2.0], [-1.0]]), Tensor([0.0])
    for mode in ("vanilla", "inverted"):
        found: dict[tuple[bool, ...], float] = {}
        while len(found) < 4:  # draw until each of the 4 masks has come
            dropped = ops.dropout(inputs, 0.5, generator=generator, mode=mode)
            found[tuple((dropped.numpy()[0] != 0).tolist())] = ops.affine(dropped, w, b).item()
        test = ops.affine(ops.dropout(inputs, 0.5, mode=mode, training=False), w, b).item()
        values = ", ".join(f"{mask[0]:d}{mask[1]:d}: {a:g}" for mask, a in sorted(found.items()))
        print(f"{mode:>8}: masks {values}; their mean {sum(found.values()) / 4:g}, at test time {test:g}")


def dropout(parts: Parts, generator: Generator, epochs: int = 6, passes: int = 100) -> None:
    title("Dropout in a three-layer network, as printed: train_step and predict")
    slide("vanilla: scale the activations by p at test time; inverted: divide by p in training, test time is unchanged")
    sizes = (parts.train.features, 100, 100, parts.train.classes)
    standardizer = data.Standardizer("per-feature").fit(parts.train.x)
    test = parts.test.take(slice(0, 2000))
    x_test, y_test = standardizer.transform(test.x), test.y
    for kind in (VanillaDropout, InvertedDropout):
        arrays: dict[str, Any] = {}
        for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            weights = nn.standard_deviation("he", inputs, outputs) * generator.normal((outputs, inputs))
            arrays |= {f"W{i}": weights.astype(np.float32), f"b{i}": np.zeros(outputs, np.float32)}
        net: VanillaDropout | InvertedDropout = kind(**arrays, p=0.5, generator=generator)
        optimizer = optim.SGD(net, lr=0.02, momentum=0.9)
        for _ in range(epochs):
            for x, y in data.Batches(parts.train, 100, standardizer=standardizer, generator=generator):
                out = net.train_step(x.T)
                optimizer.zero_grad()
                ops.cross_entropy(out.T, y).backward()
                optimizer.step()
        with no_grad():
            outs = np.stack([net.train_step(x_test.T).numpy().T for _ in range(passes)])
        scores = net.predict(x_test.T).T
        off = np.linalg.norm(outs.mean(axis=0) - scores) / np.linalg.norm(scores)
        noise = np.linalg.norm(outs.std(axis=0, ddof=1)) / math.sqrt(passes) / np.linalg.norm(scores)
        averages = [accuracy(ops.softmax(outs[:n]).numpy().mean(axis=0), y_test) for n in (1, 10, passes)]
        print(
            f"{net.mode}, p = {net.p:g}: test accuracy of predict {accuracy(scores, y_test):.4f}; Monte-Carlo averages "
            f"of 1, 10 and {passes} masks {', '.join(f'{a:.4f}' for a in averages)}"
        )
        print(f"    the mean output of {passes} masks is {off:.1%} off predict's; chance alone explains {noise:.1%},")
        print("    the rest is the ReLU, behind which an expectation and a scaled activation agree only roughly")
    print(f"a layer of 100 units has 2^100 = {2**100:.1e} masks, each a network that shares its weights with the rest")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wants a number of at least 1, got {text!r}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Walk through the CS231n lecture on training neural networks.")
    parser.add_argument("--images", type=Path, default=IMAGES, help="the 20 CIFAR-10 images (.npz)")
    parser.add_argument("--data", default="fashion-mnist", help="data set of everything else (%(default)s)")
    parser.add_argument("--rows", type=positive, default=10_000, help="training rows (%(default)s)")
    parser.add_argument("--trials", type=positive, default=30, help="trials of each search (%(default)s)")
    parser.add_argument("--full", action="store_true", help="the lecture's size: 49,000 rows, 100 trials")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    options = parser.parse_args()
    rows, trials = (49_000, 100) if options.full else (options.rows, options.trials)
    try:
        generator = Generator(options.seed)
        X, y = images_of_cifar(options.images)
        parts = classification_data(options.data, rows, options.seed)
    except (DataError, OptionError) as error:
        parser.error(str(error))
    print(
        f"20 CIFAR-10 images for the overfitting; {parts.train.name}: {len(parts.train)} training, "
        f"{len(parts.validation)} validation and {len(parts.test)} test rows, the mean image subtracted; "
        f"{trials} trials a search"
    )
    sanity_check(X, y, parts, generator)
    overfit(X, y, generator)
    learning_rates(parts, generator)
    best = cross_validation(parts, trials, generator)
    grid_and_random(generator)
    monitor(parts, best, options.seed)
    flat_starts(parts, options.seed)
    parameter_updates(parts, options.seed)
    ensemble(parts, options.seed)
    one_neuron(generator)
    dropout(parts, generator)


if __name__ == "__main__":
    main()
