"""Optimisers: what a step changes, the penalty on weights, and a state that carries on where it was saved."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cr import ops
from tinygrad_cr.errors import GraphError, OptionError, ShapeError, StateDictError
from tinygrad_cr.nn import MLP, Affine, Module, Sequential
from tinygrad_cr.optim import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, make_optimizer
from tinygrad_cr.options import PerMember
from tinygrad_cr.tensor import Tensor

MAKERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda model, **o: SGD(model, **{"lr": 0.1} | o),
    "momentum": lambda model, **o: SGD(model, **{"lr": 0.1, "momentum": 0.9} | o),
    "nesterov": lambda model, **o: SGD(model, **{"lr": 0.1, "momentum": 0.9, "nesterov": True} | o),
    "adam": lambda model, **o: Adam(model, **{"lr": 0.1} | o),
    "adamw": lambda model, **o: AdamW(model, **{"lr": 0.1} | o),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
# AdamW decays weights outside the gradient, so its weight_decay is no penalty in the cost.
every_penalty = pytest.mark.parametrize("make", [v for k, v in MAKERS.items() if k != "adamw"], ids=list(MAKERS)[:-1])


def network(seed: int = 0, dtype: str = "float64") -> MLP:
    return MLP([5, 4, 3], generator=seed, dtype=dtype)


def batch(seed: int = 0, dtype: str = "float64") -> tuple[Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    return Tensor(rng.standard_normal((8, 5)).astype(dtype)), rng.integers(0, 3, 8)


def cost(model: Module, seed: int = 0) -> Tensor:
    x, y = batch(seed, str(model.dtype))
    return ops.cross_entropy(model(x), y)


def train(model: Module, optimizer: Optimizer, steps: int = 5, *, first: int = 0, **options: Any) -> Module:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        cost(model, step).backward()
        optimizer.step(**options)
    return model


def values(model: Module) -> np.ndarray:
    return np.concatenate([p.data.ravel() for p in model.parameters()])


# What a step does


def test_plain_sgd_goes_down_the_gradient():
    model = network()
    before = values(model)
    optimizer = SGD(model, lr=0.5)
    cost(model).backward()
    optimizer.step()
    gradient = np.concatenate([p.grad.ravel() for p in model.parameters()])
    np.testing.assert_allclose(values(model), before - 0.5 * gradient, rtol=1e-12, atol=1e-15)


def quadratic(make: Callable[..., Optimizer], steps: int, **options: Any) -> float:
    """Where minimising 0.5 p^2 from p = 1 leads."""
    model = Affine(1, 1, init=0.0, dtype="float64")
    model.weight.data[...] = 1
    optimizer = make(model, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        (model.weight * model.weight * 0.5).sum().backward()
        optimizer.step()
    return model.weight.data.item()


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        # By hand, from the formulas in the docstrings: v1 = 1, p1 = 0.9, v2 = 0.9 v1 + p1 = 1.8, p2 = p1 - 0.1 v2.
        (SGD, {"lr": 0.1}, 0.81),
        (SGD, {"lr": 0.1, "momentum": 0.9}, 0.72),
        # d1 = 1 + 0.9, p1 = 0.81; v2 = 0.9 + 0.81, d2 = 0.81 + 0.9 v2 = 2.349.
        (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, 0.81 - 0.2349),
        (SGD, {"lr": 0.1, "weight_decay": 1.0}, 0.64),
    ],
)
def test_two_steps_of_sgd_are_those_computed_by_hand(make, options, expected):
    assert quadratic(make, 2, **options) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("make", [Adam, lambda model, **o: AdamW(model, weight_decay=0.0, **o)], ids=["adam", "adamw"])
def test_the_first_step_of_adam_has_the_length_of_the_learning_rate(make):
    # Bias correction makes both hats the gradient and its square: g / (|g| + eps).
    assert quadratic(make, 1, lr=0.25) == pytest.approx(0.75, rel=1e-7)


def test_the_second_step_of_adam_is_the_one_computed_by_hand():
    # p1 = 1 - 0.1 / (1 + 1e-8); m = 0.09 + 0.1 p1, s = 0.999e-3 + 1e-3 p1^2, corrected by 0.19 and 0.001999.
    p1 = 1 - 0.1 / (1 + 1e-8)
    mean, square = (0.09 + 0.1 * p1) / 0.19, (0.000999 + 0.001 * p1**2) / 0.001999
    assert quadratic(Adam, 2, lr=0.1) == pytest.approx(p1 - 0.1 * mean / (square**0.5 + 1e-8), rel=1e-12)


def test_adamw_shrinks_weights_by_the_learning_rate_times_the_decay():
    difference = quadratic(Adam, 1, lr=0.1) - quadratic(AdamW, 1, lr=0.1, weight_decay=0.3)
    assert difference == pytest.approx(0.1 * 0.3, rel=1e-12)


@every_optimizer
def test_every_optimizer_lowers_the_cost_of_a_batch(make):
    model = network()
    optimizer, before = make(model, lr=0.01), cost(model).item()
    for _ in range(20):
        optimizer.zero_grad()
        cost(model).backward()
        optimizer.step()
    assert cost(model).item() < before


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_steps_give_the_same_bits(make, dtype):
    runs = []
    for _ in range(2):
        model = network(dtype=dtype)
        runs.append(train(model, make(model)).flat().values.tobytes())
    assert runs[0] == runs[1]


@every_optimizer
def test_the_gaps_between_tensors_stay_zero(make):
    model = network()
    train(model, make(model, weight_decay=0.1))
    flat = model.flat()
    gaps = [flat.values[stop:start] for (_, stop), (start, _) in pairwise(flat.spans.tolist())]
    assert not np.concatenate(gaps).any()


@every_optimizer
def test_a_learning_rate_of_zero_changes_nothing(make):
    model = network()
    train(model, make(model, lr=0))
    np.testing.assert_array_equal(values(model), values(network()))


@every_optimizer
def test_an_assigned_learning_rate_counts_from_the_next_step(make):
    model = network()
    optimizer = make(model)
    optimizer.lr = 0.0
    train(model, optimizer)
    np.testing.assert_array_equal(values(model), values(network()))


# Which parameters a step changes


@every_optimizer
def test_a_frozen_parameter_is_left_alone_and_the_others_are_not(make):
    model = network()
    model.layers[0].weight.requires_grad = False
    optimizer = make(model, weight_decay=0.1)
    before = model.state_dict()
    train(model, optimizer)
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == set(before) - {"layers.0.weight"}


@every_optimizer
def test_a_parameter_frozen_after_its_gradient_was_computed_is_left_alone(make):
    model = network()
    optimizer, before = make(model, weight_decay=0.1), model.state_dict()
    cost(model).backward()
    model.layers[0].weight.requires_grad = False
    optimizer.step()
    np.testing.assert_array_equal(model.layers[0].weight.data, before["layers.0.weight"])


@every_optimizer
def test_a_parameter_without_a_gradient_is_left_alone_even_by_the_penalty(make):
    model = network()
    optimizer, before = make(model, weight_decay=0.1), model.state_dict()
    model.layers[1].weight.sum().backward()
    optimizer.step(reg=0.5)
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == {"layers.1.weight"}


@every_optimizer
def test_a_step_without_any_gradient_changes_nothing(make):
    model = network()
    make(model, weight_decay=0.1).step(reg=0.5)
    np.testing.assert_array_equal(values(model), values(network()))


@every_optimizer
def test_a_frozen_layer_leaves_the_others_as_if_it_had_been_a_constant(make):
    model, twin = network(), network()
    model.layers[0].weight.requires_grad = model.layers[0].bias.requires_grad = False
    train(model, make(model))
    hidden = Sequential(twin.layers[1])
    optimizer = make(hidden)
    for step in range(5):
        x, y = batch(step)
        optimizer.zero_grad()
        ops.cross_entropy(twin.layers[1](Tensor(twin.layers[0](x).numpy())), y).backward()
        optimizer.step()
    np.testing.assert_allclose(model.layers[1].weight.data, twin.layers[1].weight.data, rtol=1e-12)


@pytest.mark.parametrize("first", ["a model", "an optimizer"])
def test_zero_grad_forgets_every_gradient(first):
    model = network()
    optimizer = SGD(model, 0.1)
    cost(model).backward()
    (model if first == "a model" else optimizer).zero_grad()
    assert [p.grad for p in model.parameters()] == [None] * 4


# Norms


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms_are_the_squares_of_each_parameter_before_and_of_its_update(make, dtype):
    model = network(dtype=dtype)
    optimizer = make(model, weight_decay=0.1)
    train(model, optimizer, 3)
    before = [p.data.astype("float64") for p in model.parameters()]
    optimizer.zero_grad()
    cost(model).backward()
    norms = optimizer.step(norms=True)
    expected = [[(b**2).sum(), ((p.data - b) ** 2).sum()] for p, b in zip(model.parameters(), before, strict=True)]
    np.testing.assert_allclose(norms, expected, rtol=1e-5 if dtype == "float32" else 1e-10)


@every_optimizer
@pytest.mark.parametrize("norms", [True, "parameters"])
def test_measuring_norms_changes_no_bit_of_the_update(make, norms):
    plain, measured = network(), network()
    train(plain, make(plain))
    train(measured, make(measured), norms=norms)
    assert plain.flat().values.tobytes() == measured.flat().values.tobytes()


@every_optimizer
@pytest.mark.parametrize("members", [None, 3])
def test_norms_of_the_parameters_alone_have_the_same_bits(make, members):
    found = []
    for norms in (True, "parameters"):
        model = MLP([5, 40, 3], generator=0, dtype="float64", members=members)
        cost(model).backward(None if members is None else np.ones(members))
        found.append(make(model).step(norms=norms))
    assert found[1].shape == (*found[0].shape[:-1], 1)
    assert found[0][..., :1].tobytes() == found[1].tobytes()


def test_norms_of_something_else_are_an_error():
    model = network()
    cost(model).backward()
    before = model.flat().values.copy()
    with pytest.raises(OptionError, match="norms wants True, False or 'parameters', got 'weights'"):
        SGD(model, 0.1).step(norms="weights")
    assert np.array_equal(model.flat().values, before)


def test_without_asking_there_are_no_norms():
    model = network()
    cost(model).backward()
    assert SGD(model, 0.1).step() is None


def test_norms_keep_a_row_of_zeros_for_a_parameter_that_took_no_part():
    model = network()
    model.layers[0].bias.requires_grad = False
    cost(model).backward()
    norms = SGD(model, 0.1).step(norms=True)
    assert (norms.any(axis=1)).tolist() == [True, False, True, True]


# Penalty on weights


def explicit(model: Module, optimizer: Optimizer, reg: float, steps: int = 5) -> Module:
    """Training on the cost with the penalty written into the graph."""
    for step in range(steps):
        optimizer.zero_grad()
        weights = [p for p in model.parameters() if p.regularized]
        (
            cost(model, step) + sum(((w * w).sum() for w in weights[1:]), (weights[0] ** 2).sum()) * (0.5 * reg)
        ).backward()
        optimizer.step()
    return model


@every_optimizer
@settings(max_examples=10)
@given(reg=st.floats(0, 10))
def test_reg_is_the_gradient_of_half_reg_times_the_sum_of_squared_weights(make, reg):
    model, twin = network(), network()
    options = {"weight_decay": 0.0}
    train(model, make(model, **options), reg=reg)
    explicit(twin, make(twin, **options), reg)
    np.testing.assert_allclose(values(model), values(twin), rtol=1e-7, atol=1e-9)


@every_penalty
def test_weight_decay_is_the_same_penalty_bit_for_bit(make):
    model, twin = network(), network()
    train(model, make(model), reg=0.3)
    train(twin, make(twin, weight_decay=0.3))
    assert model.flat().values.tobytes() == twin.flat().values.tobytes()


@every_penalty
def test_reg_and_weight_decay_add_up(make):
    model, twin = network(), network()
    train(model, make(model, weight_decay=0.25), reg=0.5)
    train(twin, make(twin), reg=0.75)
    assert model.flat().values.tobytes() == twin.flat().values.tobytes()


@every_optimizer
def test_the_penalty_leaves_biases_alone(make):
    model = network()
    for layer in model.layers:
        layer.bias.data[...] = 1
    optimizer = make(model, weight_decay=0.5)
    for p in model.parameters():
        (p * 0.0).sum().backward()
    optimizer.step(reg=0.5)
    assert all((layer.bias.data == 1).all() for layer in model.layers)


def test_the_penalty_shrinks_weights():
    model = network()
    before = model.layers[0].weight.data.copy()
    optimizer = SGD(model, lr=0.1, weight_decay=0.5)
    for p in model.parameters():
        (p * 0.0).sum().backward()
    optimizer.step(reg=0.5)
    np.testing.assert_allclose(model.layers[0].weight.data, 0.9 * before, rtol=1e-12)


# State


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_state_carries_on_bit_for_bit(make, dtype):
    whole = network(dtype=dtype)
    train(whole, make(whole), 10)

    half = network(dtype=dtype)
    optimizer = make(half)
    train(half, optimizer, 5)
    resumed = network(seed=1, dtype=dtype)
    resumed.load_state_dict(half.state_dict())
    again = make(resumed)
    again.load_state_dict(optimizer.state_dict())
    train(resumed, again, 5, first=5)
    assert resumed.flat().values.tobytes() == whole.flat().values.tobytes()


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adamw"])
def test_without_the_saved_state_the_continuation_is_another_one(name):
    whole = network()
    train(whole, MAKERS[name](whole), 10)
    half = network()
    train(half, MAKERS[name](half), 5)
    train(half, MAKERS[name](half), 5, first=5)
    assert half.flat().values.tobytes() != whole.flat().values.tobytes()


@every_optimizer
def test_a_saved_state_does_not_change_with_the_optimizer(make):
    model = network()
    optimizer = make(model)
    train(model, optimizer, 2)
    state = optimizer.state_dict()
    kept = {key: value.copy() for key, value in state.items()}
    train(model, optimizer, 2)
    np.testing.assert_equal(state, kept)


def test_a_state_names_all_that_a_later_step_depends_on():
    assert set(Adam(network()).state_dict()) == {"steps", "mean", "square"}


def broken_state(optimizer: Adam) -> dict[str, Any]:
    state = optimizer.state_dict()
    del state["steps"]
    state["velocity"] = state["mean"]
    state["mean"] = state["mean"].astype("float32")
    state["square"] = state["square"][1:]
    return state


@pytest.mark.parametrize("complaint", ["missing steps", "unexpected velocity", "mean is float32", "square is float64"])
def test_an_optimizer_state_that_does_not_fit_is_refused_with_everything_that_is_wrong(complaint):
    optimizer = Adam(network())
    with pytest.raises(StateDictError, match=complaint):
        optimizer.load_state_dict(broken_state(optimizer))


def test_an_optimizer_state_that_does_not_fit_changes_nothing():
    model = network()
    optimizer = Adam(model)
    train(model, optimizer, 2)
    before = optimizer.state_dict()
    with pytest.raises(StateDictError):
        optimizer.load_state_dict(broken_state(optimizer))
    np.testing.assert_equal(optimizer.state_dict(), before)


@pytest.mark.parametrize("steps", ["three", np.array([1, 2]), -1, 2.5, None])
def test_a_number_of_steps_that_is_none_is_refused(steps):
    optimizer = Adam(network())
    with pytest.raises(StateDictError, match="steps"):
        optimizer.load_state_dict(optimizer.state_dict() | {"steps": steps})


# Errors


@every_optimizer
@pytest.mark.parametrize(
    "move",
    [lambda m: m.to("float32"), lambda m: m.to("reference"), lambda m: Sequential(m, Affine(3, 3, dtype="float64"))],
    ids=["to another dtype", "to another backend", "into another network"],
)
def test_an_optimizer_whose_parameters_moved_refuses_to_step(make, move):
    model = network()
    optimizer = make(model)
    move(model)
    with pytest.raises(GraphError, match="make the optimizer afterwards"):
        optimizer.step()


def test_loading_a_state_moves_nothing():
    model = network()
    optimizer = SGD(model, 0.1)
    model.load_state_dict(network(1).state_dict())
    train(model, optimizer)
    assert model.flat() is optimizer.flat


BAD = [-1, -1e-9, float("nan"), float("inf"), "0.1", None, True]


@every_optimizer
@pytest.mark.parametrize("option", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", BAD)
def test_a_number_out_of_range_is_refused_by_name_and_value(make, option, value):
    with pytest.raises(OptionError, match=f"{option} must be a finite number >= 0, got {value!r}"):
        make(network(), **{option: value})


@pytest.mark.parametrize("value", [*BAD, 1, 1.5])
def test_momentum_is_a_number_from_0_to_below_1(value):
    with pytest.raises(OptionError, match=r"momentum must be a number in \[0, 1\), got"):
        SGD(network(), 0.1, value)


@pytest.mark.parametrize("make", [Adam, AdamW])
@pytest.mark.parametrize(("betas", "named"), [((1.0, 0.9), r"betas\[0\]"), ((0.9, -0.1), r"betas\[1\]")])
def test_betas_are_numbers_from_0_to_below_1(make, betas, named):
    with pytest.raises(OptionError, match=named):
        make(network(), betas=betas)


def test_eps_is_not_negative():
    with pytest.raises(OptionError, match="eps must be a finite number >= 0, got -1"):
        Adam(network(), eps=-1)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(OptionError, match="nesterov wants a momentum above 0"):
        SGD(network(), 0.1, nesterov=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_made_by_its_name(name):
    assert type(make_optimizer(name, network(), 0.1, 0.9)) is OPTIMIZERS[name]


@pytest.mark.parametrize(("given_name", "nearest"), [("sdg", "sgd"), ("adm", "adam"), ("damw", "adamw")])
def test_an_unknown_optimizer_is_answered_with_the_nearest(given_name, nearest):
    with pytest.raises(OptionError, match=f"unknown optimizer '{given_name}': did you mean '{nearest}'"):
        make_optimizer(given_name, network(), 0.1, 0.9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_negative_learning_rate_is_refused_by_every_name(name):
    with pytest.raises(OptionError, match=r"lr must be a finite number >= 0, got -0\.1"):
        make_optimizer(name, network(), -0.1, 0.9)


def test_a_gradient_that_was_assigned_is_the_one_used():
    model = network()
    cost(model).backward()
    before = model.state_dict()
    for parameter in model.parameters():
        parameter.grad = np.zeros_like(parameter.data)
    SGD(model, 1.0).step()
    assert all((model.state_dict()[name] == before[name]).all() for name in before)


def test_an_assigned_gradient_of_another_shape_is_refused():
    model = network()
    model.parameters()[0].grad = np.zeros(1, "float32")
    with pytest.raises(ShapeError, match="a gradient of a parameter is a float64 array"):
        SGD(model, 1.0).step()


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_network_copied_with_its_optimizer_trains_with_it(again):
    model = network()
    twin, optimizer = again((model, SGD(model, 0.1, 0.9)))
    train(twin, optimizer)
    train(model, SGD(model, 0.1, 0.9))
    assert twin.flat().values.tobytes() == model.flat().values.tobytes()


def test_a_learning_rate_assigned_later_is_checked_too():
    optimizer = SGD(network(), 0.1)
    with pytest.raises(OptionError, match="lr must be a finite number >= 0, got -1"):
        optimizer.lr = -1


def test_a_step_on_moved_memory_is_refused_though_its_gradients_are_there() -> None:
    model = network()
    optimizer = SGD(model, lr=0.1)
    model(batch()[0]).sum().backward()
    model.layers[1].weight.data = model.layers[1].weight.data.copy()
    with pytest.raises(GraphError, match="moved to other memory"):
        optimizer.step()


@pytest.mark.parametrize("reg", ["much", None])
def test_a_step_that_fails_is_not_counted(reg: Any) -> None:
    model = network()
    optimizer = Adam(model, lr=0.1)
    model(batch()[0]).sum().backward()
    with pytest.raises((TypeError, ValueError)):
        optimizer.step(reg=reg)
    assert optimizer.steps == 0


def test_rates_of_members_are_looked_at_again_where_they_may_have_changed() -> None:
    optimizer = SGD(Affine(1, 1, members=2), lr=0.5)
    rates = [0.1, 0.2]
    optimizer.lr = rates
    rates[0] = 0.3
    optimizer.lr = rates
    assert optimizer.lr == (0.3, 0.2)
    optimizer.lr = known = PerMember([0.4, 0.5])
    optimizer.lr = known
    assert optimizer.lr == known
    with pytest.raises(OptionError):
        optimizer.lr = None
