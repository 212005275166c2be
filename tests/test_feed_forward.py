"""Networks as one operation: every bit that their layers give, or the layers themselves."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import tinygrad_cr
from calls import EVERY, training_step
from tinygrad_cr import Tensor, nn, no_grad, ops, optim
from tinygrad_cr.errors import CaptureError, DeviceError, DTypeError, GraphError, OptionError, ShapeError
from tinygrad_cr.kernels import backend
from tinygrad_cr.nn import feed_forward
from tinygrad_cr.nn.probe import observed
from tinygrad_cr.random import Generator

HOSTS = [name for name in EVERY if isinstance(name, str)]
LABELS = np.arange(7) % 3


def data(dtype: str = "float32", rows: int = 7) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).normal(size=(rows, 4)).astype(dtype)


def network(dropout: float = 0.5, mode: str = "inverted", dtype: str = "float32", sizes: Any = (4, 9, 6, 3)) -> nn.MLP:
    return nn.MLP(sizes, dropout=dropout, dropout_mode=mode, generator=3, dtype=dtype)


@contextmanager
def counted(device: str = "cpu") -> Iterator[list[str]]:
    """The names of the kernels of layers and networks that are called meanwhile."""
    kernels, called = backend(device), []
    names = [f"{name}{way}" for name in ("affine", "affine_relu_dropout", "feed_forward") for way in ("", "_backward")]
    own = {name: getattr(kernels, name) for name in names}

    def counting(name: str) -> Callable[..., None]:
        return lambda *args: (called.append(name), own[name](*args))[1]

    try:
        for name in names:
            setattr(kernels, name, counting(name))
        yield called
    finally:
        vars(kernels).update(own)


@contextmanager
def layer_by_layer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            nn.Sequential, "forward", lambda self, x: functools.reduce(lambda y, layer: layer(y), self.layers, x)
        )
        yield


def everything(model: nn.MLP, x: Tensor) -> list[Any]:
    """Loss, gradients and what was drawn, of two passes whose gradients add up."""
    found: list[Any] = []
    for _ in range(2):
        loss = ops.cross_entropy(model(x), LABELS)
        loss.backward()
        found += [loss.numpy(), x.grad, *(np.array(p.grad) for p in model.parameters()), model.generator.draw]
    return found


def assert_same_bits(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("device", HOSTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["inverted", "vanilla"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("x_wanted", [True, False])
def test_it_gives_the_bits_of_its_layers(
    device: str, dtype: str, mode: str, dropout: float, training: bool, x_wanted: bool
) -> None:
    def run() -> list[Any]:
        model = network(dropout, mode, dtype).to(device).train(training)
        return everything(model, Tensor(data(dtype), requires_grad=x_wanted, device=device))

    with counted(device) as called:
        found = run()
    assert called == ["feed_forward", "feed_forward_backward"] * 2
    with layer_by_layer(), counted(device) as called:
        wanted = run()
    assert "feed_forward" not in called
    assert_same_bits(found, wanted)


def test_it_gives_the_bits_of_its_layers_where_several_threads_compute() -> None:
    x = np.random.default_rng(0).normal(size=(200, 300)).astype("float32")
    labels = np.arange(200) % 10

    def run() -> list[Any]:
        model = nn.MLP([300, 260, 130, 10], dropout=0.3, generator=0)
        loss = ops.cross_entropy(model(x), labels)
        loss.backward()
        return [loss.numpy(), *(p.grad for p in model.parameters())]

    found = run()
    with layer_by_layer():
        assert_same_bits(found, run())


def test_training_eagerly_is_training_compiled() -> None:
    runs = []
    for wrap in (lambda step: step, tinygrad_cr.compile):
        model = network()
        step = wrap(training_step(model, optim.SGD(model, lr=0.1, momentum=0.9)))
        runs.append([step(Tensor(data()), LABELS).numpy().copy() for _ in range(20)] + [model.flat().values])
    assert_same_bits(*runs)


def test_its_gradients_are_those_of_differences() -> None:
    model = network(dtype="float64")

    def loss(x: Tensor) -> Tensor:
        model.generator.restore({"seed": 3, "stream": 0, "draw": 0})
        return ops.cross_entropy(model(x), LABELS)

    with counted() as called:
        assert tinygrad_cr.gradcheck(loss, [data("float64")])
    assert set(called) == {"feed_forward", "feed_forward_backward"}


def test_a_graph_that_is_kept_is_walked_back_twice() -> None:
    model = network()
    loss = ops.cross_entropy(model(data()), LABELS)
    loss.backward(retain_graph=True)
    once = [np.array(p.grad) for p in model.parameters()]
    loss.backward()
    assert_same_bits([p.grad for p in model.parameters()], [2 * g for g in once])
    with pytest.raises(GraphError, match="already walked back"):
        loss.backward()


def test_a_network_that_is_used_twice_adds_both_gradients() -> None:
    def run() -> list[Any]:
        model = network(0.0)
        (ops.cross_entropy(model(data()), LABELS) + ops.cross_entropy(model(2 * data()), LABELS)).backward()
        return [p.grad for p in model.parameters()]

    found = run()
    with layer_by_layer():
        assert_same_bits(found, run())


def packed_anew(model: nn.MLP, x: Tensor) -> None:
    nn.Sequential(model, nn.Affine(3, 2, generator=0))


def on_another_device(model: nn.MLP, x: Tensor) -> None:
    model.to("reference")


def weights_elsewhere(model: nn.MLP, x: Tensor) -> None:
    model.layers[1].weight.data = model.layers[1].weight.data.copy()
    model.flat()


def frozen(model: nn.MLP, x: Tensor) -> None:
    model.layers[1].weight.requires_grad = model.layers[2].bias.requires_grad = False


def input_not_wanted(model: nn.MLP, x: Tensor) -> None:
    x.requires_grad = False


def assigned(model: nn.MLP, x: Tensor) -> None:
    model.layers[1].bias.grad = np.ones(6, "float32")


@pytest.mark.parametrize(
    "change", [packed_anew, on_another_device, weights_elsewhere, frozen, input_not_wanted, assigned]
)
def test_what_happens_between_the_two_ways_is_seen(change: Callable[[nn.MLP, Tensor], None]) -> None:
    def run() -> list[Any]:
        model, x = network(), Tensor(data(), requires_grad=True)
        loss = ops.cross_entropy(model(x), LABELS)
        change(model, x)
        loss.backward()
        return [np.zeros(1) if t.grad is None else t.grad for t in (x, *model.parameters())]

    found = run()
    with layer_by_layer():
        assert_same_bits(found, run())


def test_gradients_lie_where_the_optimizer_reads_them() -> None:
    model = network()
    ops.cross_entropy(model(data()), LABELS).backward()
    assert model.flat().ready()
    assert all(p.grad is p.grad_view for p in model.parameters())


def test_without_a_tape_nothing_is_remembered() -> None:
    with no_grad(), counted() as called:
        y = network()(data())
    assert (called, y.requires_grad, y.node) == (["feed_forward"], False, None)


def test_no_row_at_all() -> None:
    model = network()
    with counted() as called:
        model(data(rows=0)).sum().backward()
    assert called == ["feed_forward", "feed_forward_backward"]
    assert all(not p.grad.any() for p in model.parameters())


def test_an_unusual_gradient_is_taken() -> None:
    model, twin = network(), network()
    g = np.random.default_rng(1).normal(size=(3, 7)).astype("float32").T
    model(data()).backward(g)
    with layer_by_layer():
        twin(data()).backward(g)
    assert_same_bits([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])


def freeze(model: nn.MLP) -> None:
    model.layers[0].weight.requires_grad = False


def freeze_a_bias(model: nn.MLP) -> None:
    model.layers[2].bias.requires_grad = False


def other_memory(model: nn.MLP) -> None:
    model.layers[1].bias.data = model.layers[1].bias.data + 1


def other_weights(model: nn.MLP) -> None:
    model.layers[1].weight.data = 2 * model.layers[1].weight.data


def other_parameter(model: nn.MLP) -> None:
    model.layers[0].bias = nn.Parameter(np.ones(9, "float32"))


def other_weight_parameter(model: nn.MLP) -> None:
    model.layers[0].weight = nn.Parameter(np.ones((4, 9), "float32"))


def other_layer(model: nn.MLP) -> None:
    model.layers[1] = nn.AffineReLUDropout(9, 6, dropout=0.5, generator=1)


def one_layer_more(model: nn.MLP) -> None:
    model.layers.append(nn.ReLU())


def other_forward(model: nn.MLP) -> None:
    layer = model.layers[0]
    vars(layer)["forward"] = lambda x: ops.multiply(type(layer).forward(layer, x), 3)


def another_generator(model: nn.MLP) -> None:
    model.layers[1].generator = Generator(8)


@pytest.mark.parametrize(
    "change",
    [
        *(freeze, freeze_a_bias, other_memory, other_weights, other_parameter, other_weight_parameter, other_layer),
        *(one_layer_more, other_forward, another_generator),
    ],
)
def test_what_it_does_not_know_is_left_to_the_layers(change: Callable[[nn.MLP], None]) -> None:
    def run() -> list[Any]:
        model = network()
        model(data())
        change(model)
        y = model(data())
        y.sum().backward()
        return [y.numpy(), *(p.grad for p in model.parameters() if p.grad is not None), model.generator.draw]

    with counted() as called:
        found = run()
    assert called[:2] == ["feed_forward", "affine_relu_dropout"]
    assert "feed_forward_backward" not in called
    with layer_by_layer():
        assert_same_bits(found, run())


def test_a_layer_in_place_of_another_is_taken_up_once_it_is_packed() -> None:
    model = network()
    model.layers[1] = nn.AffineReLUDropout(9, 6, generator=model.generator)
    with counted() as called:
        model(data())
        model.flat()
        model(data())
    assert called == ["affine_relu_dropout", "affine_relu_dropout", "affine", "feed_forward"]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.layers[0], "dropout", 0.1),
        lambda model: setattr(model.layers[1], "mode", "vanilla"),
        lambda model: model.layers[0].eval(),
        lambda model: [setattr(layer, "generator", Generator(9)) for layer in model.layers[:1]],
        lambda model: model.eval(),
    ],
    ids=["dropout", "mode", "one layer evaluates", "generator", "all evaluate"],
)
def test_dropout_may_be_set_anew(change: Callable[[nn.MLP], Any]) -> None:
    def run() -> list[Any]:
        model = network(sizes=(4, 9, 6, 3))
        first = model(data())
        change(model)
        return [first.numpy(), model(data()).numpy(), model(data()).numpy()]

    found = run()
    with layer_by_layer():
        assert_same_bits(found, run())


@pytest.mark.parametrize("wrong", [1.5, False, "half", np.array([0.0])], ids=repr)
def test_a_wrong_dropout_is_refused_as_the_layers_refuse_it(wrong: Any) -> None:
    model = network(0.0)
    model(data())
    model.layers[0].dropout = wrong
    with pytest.raises(OptionError, match="dropout"):
        model(data())


def wrong_bias(shape: tuple[int, ...]) -> nn.Module:
    layer = nn.Affine(4, 9)
    layer.bias = nn.Parameter(np.zeros(shape, "float32"))
    return nn.Sequential(layer, nn.Affine(9, 3))


def wrong_weight(shape: tuple[int, ...]) -> nn.Module:
    layer = nn.Affine(4, 9)
    layer.weight = nn.Parameter(np.zeros(shape, "float32"))
    return nn.Sequential(layer, nn.Affine(9, 3))


@pytest.mark.parametrize(
    "model",
    [
        *(wrong_bias(shape) for shape in ((), (1,), (10,), (1, 9))),
        *(wrong_weight(shape) for shape in ((), (36,), (4, 10), (9, 4))),
        nn.Sequential(nn.Affine(4, 9), nn.Affine(8, 3)),
        nn.Sequential(nn.AffineReLUDropout(4, 9), nn.Affine(10, 3)),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_themselves(model: nn.Module) -> None:
    with pytest.raises(ShapeError):
        model(data())


def test_an_input_on_another_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="reference"):
        network().to("reference")(data())


class Counting(Generator):
    """Draws every third mask only."""

    __slots__ = ()

    def next_draw(self) -> int:
        self.draw += 3
        return self.draw


def test_a_generator_of_ones_own_draws_for_each_layer() -> None:
    def run() -> list[Any]:
        return [nn.MLP([4, 9, 6, 3], dropout=0.5, generator=Counting(3))(data()).numpy()]

    found = run()
    with layer_by_layer():
        assert_same_bits(found, run())


@pytest.mark.parametrize(
    ("layers", "fits"),
    [
        ([nn.Affine(4, 5, generator=0), nn.Affine(5, 3, generator=0)], True),
        ([nn.Affine(4, 5, generator=0), nn.AffineReLUDropout(5, 3, dropout=0.5, generator=0)], True),
        ([nn.AffineReLUDropout(4, 5, dropout=0.0), nn.AffineReLUDropout(5, 3, dropout=0.0)], True),
        ([nn.Affine(4, 5, generator=0), nn.ReLU(), nn.Affine(5, 3, generator=0)], False),
        ([nn.Affine(4, 3, generator=0)], False),
        ([nn.AffineReLUDropout(4, 5, generator=0), nn.AffineReLUDropout(5, 3, generator=1)], False),
    ],
    ids=["linear", "masked last", "ReLU last", "ReLU apart", "one layer", "a generator for each layer"],
)
def test_which_layers_are_one_operation(layers: list[nn.Module], fits: bool) -> None:
    model = nn.Sequential(*copy.deepcopy(layers))
    with counted() as called:
        y = model(data())
        y.backward(np.ones(y.shape, "float32"))
    assert ("feed_forward" in called) == fits
    twin = nn.Sequential(*copy.deepcopy(layers))
    with layer_by_layer():
        z = twin(data())
        z.backward(np.ones(z.shape, "float32"))
    assert_same_bits(
        [y.numpy(), *(p.grad for p in model.parameters())], [z.numpy(), *(p.grad for p in twin.parameters())]
    )


def test_a_layer_that_stands_twice_is_no_such_network() -> None:
    layer = nn.Affine(4, 4, generator=0)
    model = nn.Sequential(layer, layer)
    with counted() as called:
        model(data()).sum().backward()
    assert set(called) == {"affine", "affine_backward"}


def test_a_class_of_ones_own_computes_what_it_says() -> None:
    class Doubled(nn.Affine):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = nn.Sequential(Doubled(4, 5, generator=0), nn.Affine(5, 3, generator=1))
    twin = nn.Sequential(nn.Affine(4, 5, generator=0), nn.Affine(5, 3, generator=1))
    np.testing.assert_allclose(model(data()).numpy(), 2 * twin(data()).numpy(), rtol=1e-5)


@pytest.mark.parametrize("called_before", [True, False])
@pytest.mark.parametrize("again", [lambda model: model, copy.deepcopy], ids=["itself", "a copy"])
def test_a_network_inside_another_computes_with_the_memory_it_has_now(
    called_before: bool, again: Callable[[nn.Sequential], nn.Sequential]
) -> None:
    def run() -> list[Any]:
        inner = network()
        if called_before:
            inner(data())
        outer = again(nn.Sequential(inner, nn.Affine(3, 3, generator=0)))
        step = training_step(outer, optim.SGD(outer, lr=0.1))
        losses = [step(Tensor(data()), LABELS).numpy() for _ in range(3)]
        return [*losses, outer.layers[0](data()).numpy(), *(p.grad for p in outer.parameters())]

    found = run()
    with layer_by_layer():
        assert_same_bits(found, run())


def test_a_member_of_a_population_is_one_operation_and_a_population_is_none() -> None:
    model = nn.MLP([4, 9, 3], members=3, dropout=0.5, generator=3)
    square = nn.MLP([3, 3, 3], members=3, generator=3)
    with counted() as called:
        model(data())
        square(data()[:, :3].copy())
        assert "feed_forward" not in called
        called.clear()
        y = model[1](data())
        assert called == ["feed_forward"]
    with layer_by_layer():
        twin = nn.MLP([4, 9, 3], members=3, dropout=0.5, generator=3)
        twin(data())
        np.testing.assert_array_equal(y.numpy(), twin[1](data()).numpy())


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_has_memory_of_its_own(again: Callable[[nn.MLP], nn.MLP]) -> None:
    model = network(0.0)
    before = model(data()).numpy()
    twin = again(model)
    for p in model.parameters():
        p.data[...] = 0
    with counted() as called:
        np.testing.assert_array_equal(twin(data()).numpy(), before)
    assert called == ["feed_forward"]


def test_after_a_conversion_it_computes_in_the_new_dtype() -> None:
    model = network(0.0)
    single = model(data()).numpy()
    with counted() as called:
        double = model.to("float64")(data("float64"))
    assert (double.dtype, called) == (np.float64, ["feed_forward"])
    np.testing.assert_allclose(double.numpy(), single, rtol=1e-5, atol=1e-6)


def test_inputs_of_other_shapes_are_left_to_the_layers() -> None:
    model = network(0.0)
    rows = model(data()).numpy()
    with counted() as called:
        np.testing.assert_allclose(model(data()[2]).numpy(), rows[2], rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(
            model(data()[:6].reshape(2, 3, 4)).numpy().reshape(6, 3), model(data()[:6]).numpy()
        )
        np.testing.assert_array_equal(model(np.asfortranarray(data())).numpy(), rows)
    assert called.count("feed_forward") == 1


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (np.ones((7, 5), "float32"), ShapeError, "affine_relu_dropout wants x"),
        (np.ones((7, 4), "float64"), DTypeError, "float64"),
        (np.ones((7, 4), "int64"), DTypeError, "int64"),
    ],
    ids=["width", "float64", "integers"],
)
def test_a_wrong_input_is_refused_by_the_first_layer(x: Any, error: type[Exception], says: str) -> None:
    model = network()
    model(data())
    drawn = model.generator.draw
    with pytest.raises(error, match=says):
        model(x)
    assert model.generator.draw == drawn


def test_many_rows_are_computed_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_forward, "MOST_HIDDEN", 15 * 7)
    model = network(0.0)
    with counted() as called:
        model(data(rows=7))
        model(data(rows=8))
    assert called == ["feed_forward", "affine_relu_dropout", "affine_relu_dropout", "affine"]


def test_layers_are_observed_one_by_one() -> None:
    model, seen = network(), []
    model(data())
    with observed(model, lambda name, layer, x, y: seen.append((name, y.shape))):
        model(data())
    assert seen == [("layers.0", (7, 9)), ("layers.1", (7, 6)), ("layers.2", (7, 3))]
    with counted() as called:
        model(data())
    assert called == ["feed_forward"]


@pytest.mark.parametrize("outside", ["loss", "logits"])
def test_the_way_back_through_a_network_from_outside_is_not_captured(outside: str) -> None:
    model = network()
    logits = model(data())
    loss = ops.cross_entropy(logits, LABELS)

    def step() -> Tensor:
        (loss if outside == "loss" else ops.cross_entropy(logits, LABELS)).backward(retain_graph=True)
        return loss

    with pytest.raises(CaptureError, match="computed outside"):
        tinygrad_cr.compile(step)()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_network_that_remembers_its_output_can_be_copied(copied: Callable[[Any], Any]) -> None:
    model = network()
    model.layers[0].latest = model(data())
    twin = copied(model)
    for each in (model, twin):
        each.layers[0].latest.backward(np.ones((7, 3), "float32"))
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert one.grad is not None
        assert one.grad is not other.grad
        np.testing.assert_array_equal(one.grad, other.grad)


def test_a_way_back_that_failed_leaves_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(dropout=0.0)
    ops.cross_entropy(model(data()), LABELS).backward()
    wanted = [parameter.grad.copy() for parameter in model.parameters()]
    model.flat().clear()
    model.flat().gradients[:] = 7
    loss = ops.cross_entropy(model(data()), LABELS)
    with monkeypatch.context() as patch:
        patch.setattr(backend("cpu"), "feed_forward_backward", None)
        with pytest.raises(TypeError, match="not callable"):
            loss.backward(retain_graph=True)
    assert [parameter.grad for parameter in model.parameters()] == [None] * len(wanted)
    loss.backward()
    for parameter, grad in zip(model.parameters(), wanted, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)


def remembers_its_output(model: nn.MLP, loss: Tensor) -> None:
    model.layers[0].latest = loss


def remembers_its_memory(model: nn.MLP, loss: Tensor) -> None:
    model.layers[0].memory = model.flat()


def has_its_optimizer(model: nn.MLP, loss: Tensor) -> None:
    model.layers[0].optimizer = optim.SGD(model, lr=0.1)


@pytest.mark.parametrize("keep", [None, remembers_its_output, remembers_its_memory, has_its_optimizer])
def test_a_network_is_freed_with_its_last_reference(keep: Callable[[nn.MLP, Tensor], None] | None) -> None:
    gc.disable()
    try:
        model = network()
        loss = ops.cross_entropy(model(data()), LABELS)
        loss.backward(retain_graph=True)
        if keep is not None:
            keep(model, loss)
        parts = [weakref.ref(model.layers[0].weight), weakref.ref(model.layers[0])]
        del model, loss
        assert [part() for part in parts] == [None, None]
    finally:
        gc.enable()
