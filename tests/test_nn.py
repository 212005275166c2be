"""Modules: names, modes, states, first weights, and the two flat buffers that hold a network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calls import EVERY
from tinygrad_cr import ops
from tinygrad_cr.errors import DTypeError, OptionError, ShapeError, StateDictError
from tinygrad_cr.nn import (
    MLP,
    Affine,
    AffineReLUDropout,
    Dropout,
    Module,
    Parameter,
    ReLU,
    Sequential,
    standard_deviation,
)
from tinygrad_cr.optim import SGD
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor


def mlp(**options: Any) -> MLP:
    return MLP([5, 4, 3], **{"generator": 0} | options)


def bits(module: Module) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in module.state_dict().items()}


def in_flat_buffers(module: Module) -> bool:
    """Whether each parameter, and its gradient after a backward pass, is a piece of the module's two buffers."""
    flat = module.flat()
    module.zero_grad()
    for parameter in module.parameters():
        (parameter * 3).sum().backward()
    return all(
        np.shares_memory(p.data, flat.values)
        and np.shares_memory(p.grad, flat.gradients)
        and np.array_equal(flat.values[start:stop], p.data.ravel())
        and np.array_equal(flat.gradients[start:stop], p.grad.ravel())
        for p, (start, stop) in zip(module.parameters(), flat.spans, strict=True)
    )


class Branches(Module):
    """Parameters and modules in lists and tuples, one of them used twice."""

    def __init__(self) -> None:
        self.scales = [Parameter(np.full(3, float(i), "float32")) for i in range(2)]
        self.pair = (Affine(3, 3, generator=1), ReLU())
        self.again = self.pair[0]
        self.note = "no parameter"
        self.sizes = [3, 3]

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.pair[1](self.pair[0](x))) * self.scales[0] * self.scales[1]


# Flat buffers


def loaded() -> Module:
    module = mlp()
    module.load_state_dict(mlp(generator=1).state_dict())
    return module


def nested() -> Module:
    return Sequential(Sequential(Affine(2, 3, generator=0), ReLU()), Sequential(Affine(3, 2, generator=1)))


PACKED: dict[str, Callable[[], Module]] = {
    "a new network": mlp,
    "a single layer": lambda: Affine(3, 2, generator=0),
    "a network that loaded a state": loaded,
    "a network in float64": lambda: mlp().to("float64"),
    "a network made in float64": lambda: mlp(dtype="float64"),
    "a network in float64 and back": lambda: mlp().to("float64").to("float32"),
    "a network on the reference backend": lambda: mlp().to("reference"),
    "nested networks": nested,
    "nested networks in float64": lambda: nested().to("float64"),
    "parameters in lists": Branches,
}


@pytest.mark.parametrize("made", PACKED.values(), ids=PACKED)
def test_parameters_and_gradients_are_views_into_two_flat_buffers_in(made):
    assert in_flat_buffers(made())


@pytest.mark.parametrize("made", PACKED.values(), ids=PACKED)
def test_tensors_begin_on_cache_lines_and_do_not_overlap_in(made):
    flat = made().flat()
    spans = flat.spans.tolist()
    aligned = all((flat.values.ctypes.data + start * flat.values.itemsize) % 64 == 0 for start, _ in spans)
    assert aligned
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


def test_the_outer_network_packs_the_parameters_of_the_inner_ones():
    outer = nested()
    inner = outer.layers[0].parameters() + outer.layers[1].parameters()
    assert all(np.shares_memory(p.data, outer.flat().values) for p in inner)


def test_packing_keeps_every_value():
    layers = [Affine(2, 3, generator=0), Affine(3, 2, generator=1)]
    before = [bits(layer) for layer in layers]
    Sequential(*layers)
    assert [bits(layer) for layer in layers] == before


def test_packing_again_gives_the_same_buffers():
    model = mlp()
    assert model.flat() is model.flat()


def test_a_parameter_given_other_memory_is_packed_anew():
    model = mlp()
    model.layers[0].weight.data = np.ones((5, 4), "float32")
    assert in_flat_buffers(model)


def test_parameters_of_two_dtypes_cannot_be_packed():
    with pytest.raises(DTypeError, match=r"layers\.0\.weight float32 on cpu.*layers\.1\.weight float64 on cpu"):
        Sequential(Affine(2, 2), Affine(2, 2, dtype="float64"))


def test_a_module_without_parameters_packs_into_nothing():
    assert Sequential(ReLU(), Dropout(0.5)).flat().values.size == 0


def test_a_second_backward_pass_adds_to_the_flat_gradients():
    model, x = mlp(), np.ones((2, 5), "float32")
    model(x).sum().backward()
    once = model.flat().gradients.copy()
    model(x).sum().backward()
    np.testing.assert_array_equal(model.flat().gradients, 2 * once)


def test_a_parameter_used_twice_gets_the_sum_of_both_gradients():
    layer = Affine(2, 2, generator=0)
    x = np.ones((1, 2), "float32")
    Sequential(layer, layer)(x).sum().backward()
    twin = Affine(2, 2, generator=0)
    weight, bias = (Tensor(p.data, requires_grad=True) for p in twin.parameters())
    ops.affine(ops.affine(x, weight, bias), weight, bias).sum().backward()
    np.testing.assert_allclose(layer.weight.grad, weight.grad, rtol=1e-6)


# Names and modes


def test_parameters_in_lists_and_tuples_are_found_once_each_under_dotted_names():
    names = [name for name, _ in Branches().named_parameters()]
    assert names == ["scales.0", "scales.1", "pair.0.weight", "pair.0.bias"]


def test_nested_names_are_paths():
    assert list(nested().state_dict()) == [
        "layers.0.layers.0.weight",
        "layers.0.layers.0.bias",
        "layers.1.layers.0.weight",
        "layers.1.layers.0.bias",
    ]


def test_train_and_eval_reach_every_module_below():
    model = Sequential(Sequential(Dropout(0.5), Affine(2, 2)), Branches())
    model.eval()
    off = {module.training for module in model.modules()}
    model.train()
    assert (off, {module.training for module in model.modules()}) == ({False}, {True})


def test_train_and_eval_return_the_module():
    model = mlp()
    assert model.eval().train() is model


def test_evaluation_of_a_dropout_network_draws_no_mask():
    model = mlp(dropout=0.5).eval()
    draw = model.generator.draw
    model(np.ones((2, 5), "float32"))
    assert model.generator.draw == draw


def test_training_draws_a_new_mask_at_each_call():
    layer = Dropout(0.5, generator=0)
    first, second = (layer(np.ones(64, "float32")).data for _ in range(2))
    assert not np.array_equal(first, second)


def test_a_module_without_forward_says_so():
    with pytest.raises(TypeError, match="Module defines no forward"):
        Module()(np.ones(1))


def test_a_batch_of_another_width_is_refused_with_all_shapes():
    with pytest.raises(ShapeError, match=r"\(2, 6\), \(5, 4\), \(4,\)"):
        mlp()(np.ones((2, 6), "float32"))


# States


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(3))
def test_a_state_loaded_into_another_network_makes_it_bit_identical(seed, dtype):
    source, target = mlp(generator=seed, dtype=dtype), mlp(generator=99, dtype=dtype)
    target.load_state_dict(source.state_dict())
    assert bits(target) == bits(source)


def test_a_state_dict_does_not_change_with_the_network():
    model = mlp()
    state = model.state_dict()
    model.flat().values[...] = 0
    assert bits(mlp()) == {name: array.tobytes() for name, array in state.items()}


def test_a_network_does_not_change_with_the_state_it_loaded():
    model, state = mlp(), mlp(generator=1).state_dict()
    model.load_state_dict(state)
    state["layers.0.weight"][...] = 0
    assert bits(model) == bits(mlp(generator=1))


def broken_state() -> dict[str, np.ndarray]:
    """All that can be wrong: two names missing, two unexpected, a shape and a dtype that differ."""
    state = mlp(generator=1).state_dict()
    del state["layers.0.bias"]
    state["layers.7.weight"] = state["extra"] = np.zeros(1, "float32")
    state["layers.0.weight"] = np.zeros((4, 5), "float32")
    state["layers.1.weight"] = np.zeros((4, 3), "float64")
    return state


@pytest.mark.parametrize(
    "complaint",
    [
        r"missing layers\.0\.bias",
        r"unexpected layers\.7\.weight",
        r"unexpected extra",
        r"layers\.0\.weight has shape \(4, 5\), the module wants \(5, 4\)",
        r"layers\.1\.weight is float64, the module is float32; convert it first with \.to\('float64'\)",
        r"nothing was loaded",
    ],
)
def test_a_state_that_does_not_fit_is_refused_with_everything_that_is_wrong(complaint):
    with pytest.raises(StateDictError, match=complaint):
        mlp().load_state_dict(broken_state())


def test_a_state_that_does_not_fit_changes_nothing():
    model = mlp()
    with pytest.raises(KeyError):
        model.load_state_dict(broken_state())
    assert bits(model) == bits(mlp())


def test_a_scalar_does_not_broadcast_into_a_parameter():
    state = {name: np.float32(0) for name in mlp().state_dict()}
    with pytest.raises(StateDictError, match=r"layers\.1\.bias has shape \(\), the module wants \(3,\)"):
        mlp().load_state_dict(state)


def test_a_state_survives_the_round_trip_through_both_dtypes():
    assert bits(mlp().to("float64").to("float32")) == bits(mlp())


@pytest.mark.parametrize("target", ["float16", "int32", "flaot32", "cuda:99", "", None])
def test_a_module_does_not_convert_to(target):
    with pytest.raises(OptionError, match=f"takes float32, float64 or a device .* got {target!r}"):
        mlp().to(target)


@pytest.mark.parametrize("device", EVERY)
def test_a_module_on_another_backend_computes_the_same(device):
    x = np.ones((3, 5), "float32")
    moved = mlp().to(device)
    np.testing.assert_allclose(moved(Tensor(x, device=device)).numpy(), mlp()(x).numpy(), rtol=1e-6)


def test_converting_forgets_gradients():
    model = mlp()
    model(np.ones((2, 5), "float32")).sum().backward()
    model.to("float64")
    assert [p.grad for p in model.parameters()] == [None] * 4


# First weights


@pytest.mark.parametrize(
    ("init", "expected"),
    [("he", (2 / 64) ** 0.5), ("lecun", (1 / 64) ** 0.5), ("xavier", (2 / 464) ** 0.5), (1e-4, 1e-4), (2, 2.0)],
)
def test_first_weights_have_the_standard_deviation_of(init, expected):
    weight = Affine(64, 400, init=init, generator=0, dtype="float64").weight.data
    # The sample deviation of n normal numbers has a standard error of sigma / sqrt(2 n).
    assert weight.std() == pytest.approx(expected, rel=6 / (2 * weight.size) ** 0.5)


def test_first_weights_have_mean_zero():
    weight = Affine(64, 400, init=1.0, generator=0).weight.data
    assert abs(weight.mean()) < 6 / weight.size**0.5


@pytest.mark.parametrize("init", ["zeros", 0, 0.0])
def test_first_weights_may_be_zero(init):
    assert not Affine(3, 2, init=init).weight.data.any()


@pytest.mark.parametrize("init", ["he", "zeros", 0.5])
def test_biases_start_at_zero(init):
    model = MLP([3, 4, 2], init=init)
    assert not any(p.data.any() for name, p in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("init", [-1, float("nan"), float("inf"), None, True])
def test_no_standard_deviation_is(init):
    with pytest.raises(OptionError, match="init must be a finite number >= 0"):
        standard_deviation(init, 3, 2)


@pytest.mark.parametrize(
    ("given", "nearest"), [("hee", "he"), ("xaver", "xavier"), ("Lecun", "lecun"), ("zero", "zeros")]
)
def test_an_unknown_init_is_answered_with_the_nearest(given, nearest):
    with pytest.raises(OptionError, match=f"unknown init '{given}': did you mean '{nearest}'"):
        mlp(init=given)


def test_an_init_unlike_any_other_is_answered_with_the_list():
    with pytest.raises(OptionError, match="unknown init 'qqq': Known: he, lecun, xavier, zeros"):
        mlp(init="qqq")


@settings(max_examples=20)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_the_same_seed_makes_the_same_network(seed, sizes):
    assert bits(MLP(sizes, generator=seed)) == bits(MLP(sizes, generator=seed))


@pytest.mark.parametrize("other", [1, 2**32, 2**62])
def test_another_seed_makes_another_network(other):
    first, second = mlp(generator=0).state_dict(), mlp(generator=other).state_dict()
    assert all((first[name] != second[name]).all() for name in first if name.endswith("weight"))


def test_a_network_without_a_seed_is_a_new_one_each_time():
    assert bits(mlp(generator=None)) != bits(mlp(generator=None))


def test_layers_of_one_network_start_with_different_weights():
    model = MLP([4, 4, 4, 4], generator=0)
    weights = {p.data.tobytes() for name, p in model.named_parameters() if name.endswith("weight")}
    assert len(weights) == 3


def test_a_generator_continues_where_the_first_network_left_it():
    generator = Generator(0)
    assert bits(mlp(generator=generator)) != bits(mlp(generator=generator))


def test_float32_and_float64_networks_start_from_the_same_numbers():
    assert bits(mlp(dtype="float64").to("float32")) == bits(mlp())


# MLP


def test_a_network_without_hidden_layers_is_an_affine_map():
    model, x = MLP([3, 2], dropout=0.5, generator=0), np.ones((4, 3), "float32")
    layer = model.layers[0]
    np.testing.assert_array_equal(model(x).numpy(), ops.affine(x, layer.weight, layer.bias).numpy())


def test_a_network_is_affine_relu_dropout_layers_and_an_affine_one():
    assert [type(layer) for layer in MLP([5, 4, 4, 3]).layers] == [AffineReLUDropout, AffineReLUDropout, Affine]


def test_the_output_layer_is_not_dropped():
    # With 1 of 65,536 hidden units kept, the logits are the output layer's bias.
    model = MLP([3, 4, 100], dropout=1 - 2**-16, generator=0)
    model.layers[-1].bias.data[...] = 1
    assert (model(np.ones((5, 3), "float32")).data == 1).all()


@pytest.mark.parametrize("mode", ["inverted", "vanilla"])
def test_the_network_equals_its_layers_one_after_another(mode):
    model, x = mlp(dropout=0.5, dropout_mode=mode), Tensor(np.ones((8, 5), "float32"))
    first, last = model.layers
    generator = Generator(**model.generator.state())
    hidden = ops.dropout(
        ops.relu(ops.affine(x, first.weight, first.bias)), 0.5, generator=generator, mode=mode, training=True
    )
    expected = ops.affine(hidden, last.weight, last.bias)
    np.testing.assert_allclose(model(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [[], [3], 3])
def test_a_network_wants_an_input_and_an_output_width(sizes):
    with pytest.raises(OptionError, match="sizes wants at least input and output width"):
        MLP(sizes)


@pytest.mark.parametrize("sizes", [[3, 0], [0, 3], [3, -2, 4], [3, 2.5, 4], [3, "4", 2], [3, True]])
def test_widths_are_positive_integers(sizes):
    with pytest.raises(OptionError, match="must be an integer of at least 1"):
        MLP(sizes)


@pytest.mark.parametrize("layer", [Dropout, lambda p: AffineReLUDropout(2, 2, dropout=p), lambda p: mlp(dropout=p)])
@pytest.mark.parametrize("rate", [1, 1.0, 1.5, -0.1, float("nan"), float("inf"), "0.5", None, True])
def test_a_dropout_rate_is_refused_when_the_layer_is_made(layer, rate):
    with pytest.raises(OptionError, match=r"dropout must be a number in \[0, 1\), got"):
        layer(rate)


@pytest.mark.parametrize("make", [Dropout, lambda **o: AffineReLUDropout(2, 2, **o)])
def test_an_unknown_dropout_mode_is_answered_with_the_nearest(make):
    with pytest.raises(OptionError, match="unknown dropout mode 'invrted': did you mean 'inverted'"):
        make(mode="invrted")


def test_the_configuration_makes_the_same_network_again():
    model = mlp(dropout=0.25, dropout_mode="vanilla", init=1e-2, dtype="float64")
    assert bits(MLP(**model.config(), generator=0)) == bits(model)


@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        "int32",
        "flaot32",
    ],
)
def test_a_network_of_another_dtype_is_refused(dtype):
    with pytest.raises((DTypeError, OptionError)):
        mlp(dtype=dtype)


def test_a_copied_network_trains_apart_from_the_first():
    model = mlp()
    twin = copy.deepcopy(model)
    optimizer = SGD(twin, 0.1)
    ops.cross_entropy(twin(np.ones((2, twin.sizes[0]), "float32")), [0, 1]).backward()
    optimizer.step()
    assert (twin.layers[-1].bias.numpy().any(), model.layers[-1].bias.numpy().any()) == (True, False)


def test_modules_in_nested_lists_and_dicts_are_found():
    class Nest(Module):
        def __init__(self) -> None:
            self.parts = {"a": [Affine(1, 1, generator=0)], "b": (Affine(1, 1, generator=0),)}

    assert [name for name, _ in Nest().named_parameters()][::2] == ["parts.a.0.weight", "parts.b.0.weight"]


def test_a_module_that_leads_back_to_itself_has_each_part_once() -> None:
    model = MLP([4, 5, 3], generator=0)
    model.layers[0].owner = model
    model.itself = model
    assert list(model.state_dict()) == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    assert list(model.modules()) == [model, *model.layers]
    assert not model.eval().layers[1].training
