"""The walk back: what arrives in `grad`, who owns it, how deep it may go, and when a graph is gone."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from calls import small_network
from tinygrad_cr import Tensor, nn, no_grad, ops
from tinygrad_cr.errors import DTypeError, GraphError, ShapeError
from tinygrad_cr.op_table import CASES, Case
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import record


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float64), requires_grad=True)


def ones() -> Tensor:
    return Tensor(np.ones((2, 2)), requires_grad=True)


def in_a_thread(function: Callable[[], Any]) -> Any:
    """What the function returns when another thread calls it: what it does to its thread stays there."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.fixture(scope="module")
def compiled() -> None:
    # The compiler leaves cycles behind that hold the arguments of a first call.
    graph_and_what_it_holds(ones())[0].backward()
    gc.collect()


@pytest.fixture
def without_cycle_collector(compiled: None) -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


# What arrives


def test_gradients_of_every_use_add_up() -> None:
    x = leaf(3.0)
    (x * x + x.exp() * 0 + 2 * x).backward()
    np.testing.assert_array_equal(x.grad, [8.0])


def test_gradients_accumulate_over_calls() -> None:
    x = leaf(3.0)
    (2 * x).backward()
    (5 * x).backward()
    np.testing.assert_array_equal(x.grad, [7.0])


def test_a_retained_graph_walked_twice_doubles_the_gradient() -> None:
    x = leaf(3.0, 4.0)
    loss = (x * x.exp().log()).sum()
    loss.backward(retain_graph=True)
    once = x.grad.copy()
    loss.backward()
    np.testing.assert_array_equal(x.grad, 2 * once)


def test_a_part_shared_by_two_results_can_be_walked_from_both() -> None:
    x = leaf(3.0)
    shared = x * x
    shared.backward(retain_graph=True)
    (2 * shared).backward()
    np.testing.assert_array_equal(x.grad, [18.0])


def test_backward_starts_from_the_gradient_given() -> None:
    x = leaf(1.0, 2.0)
    (x * 3).backward(Tensor(np.array([1.0, 10.0])))
    np.testing.assert_array_equal(x.grad, [3, 30])


def test_a_leaf_is_its_own_result() -> None:
    x = leaf(3.0)
    x.backward()
    np.testing.assert_array_equal(x.grad, [1.0])


def test_a_tensor_that_does_not_require_grad_gets_none() -> None:
    x, constant = leaf(3.0), Tensor(np.ones(1))
    (x * constant).backward()
    assert constant.grad is None


def test_a_gradient_has_the_dtype_of_its_tensor() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x.mean() * 3.0).backward()
    assert x.grad.dtype == np.float32


def test_an_intermediate_result_keeps_no_gradient() -> None:
    y = leaf(3.0) * 2
    (y * y).backward()
    assert y.grad is None


# Errors: nothing is changed


def test_backward_needs_a_graph() -> None:
    with pytest.raises(GraphError, match="no input had requires_grad=True, or it was computed under no_grad"):
        (Tensor([1.0]) * 2).backward()


def test_backward_from_more_than_a_scalar_needs_a_gradient() -> None:
    with pytest.raises(ShapeError, match=r"shape \(2,\); reduce it with \.sum\(\) or \.mean\(\), or pass a gradient"):
        (leaf(1.0, 2.0) * 2).backward()


def test_a_gradient_of_another_shape_is_refused_with_both() -> None:
    with pytest.raises(ShapeError, match=r"gradient of shape \(3,\) for a tensor of shape \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(np.ones(3))


def test_a_graph_is_freed_by_backward() -> None:
    loss = (leaf(1.0) * 2).sum()
    loss.backward()
    with pytest.raises(GraphError, match=r"already walked back and freed; call backward\(retain_graph=True\)"):
        loss.backward()


def freed() -> tuple[Tensor, Callable[[], Any]]:
    x = leaf(3.0)
    shared = x * x
    (shared * 1).backward()
    return x, (x * 5 + shared).backward


def not_scalar() -> tuple[Tensor, Callable[[], Any]]:
    x = leaf(3.0, 4.0)
    (x * x).sum().backward()
    return x, (x * 2).backward


def misshapen() -> tuple[Tensor, Callable[[], Any]]:
    x = leaf(3.0, 4.0)
    (x * x).sum().backward()
    return x, lambda: (x * 2).backward(np.ones((2, 1)))


@pytest.mark.parametrize("make", [freed, not_scalar, misshapen], ids=lambda f: f.__name__)
def test_an_error_changes_no_gradient(make: Callable[[], tuple[Tensor, Callable[[], Any]]]) -> None:
    x, backward = make()
    before = x.grad.copy()
    with pytest.raises((GraphError, ShapeError)):
        backward()
    np.testing.assert_array_equal(x.grad, before)


# Who owns a gradient


LINEAR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, y: x + y,
    "add through views": lambda x, y: x.reshape(1, 2) + y.reshape(1, 2),
    "add to a sum": lambda x, y: (x + y) + (x + y),
    "concatenate": lambda x, y: ops.concatenate([x, y]),
    "stack": lambda x, y: ops.stack([x, y]),
    "sum": lambda x, y: x.sum() + y.sum(),
    "where": lambda x, y: ops.where(np.array([True, False]), x, y),
    "transpose": lambda x, y: x.T + y.T,
}


@pytest.mark.parametrize("name", LINEAR)
def test_two_tensors_never_share_one_gradient(name: str) -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    result = LINEAR[name](x, y)
    result.backward(np.ones(result.shape))
    assert not np.shares_memory(x.grad, y.grad)


@pytest.mark.parametrize("name", LINEAR)
def test_a_gradient_does_not_share_memory_with_the_one_given(name: str) -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    result = LINEAR[name](x, y)
    seed = np.ones(result.shape)
    result.backward(seed)
    assert [np.shares_memory(t.grad, seed) for t in (x, y)] == [False, False]


@pytest.mark.parametrize("name", LINEAR)
def test_the_gradient_given_is_left_as_it_was(name: str) -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    for _ in range(2):
        result = LINEAR[name](x, y)
        seed = np.ones(result.shape)
        result.backward(seed)
        LINEAR[name](x, y).backward(seed)
    np.testing.assert_array_equal(seed, np.ones(result.shape))


def test_a_leaf_that_is_its_own_result_does_not_take_the_gradient_given() -> None:
    x, seed = leaf(1.0, 2.0), np.ones(2)
    x.backward(seed)
    assert not np.shares_memory(x.grad, seed)


def test_accumulating_into_one_tensor_leaves_the_other_alone() -> None:
    x, y = leaf(1.0), leaf(2.0)
    (x + y).backward()
    (x * 5).backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([6.0], [1.0])


def test_a_gradient_can_be_written_to() -> None:
    x = leaf(1.0, 2.0)
    x.sum().backward()
    x.grad[0] = 7
    np.testing.assert_array_equal(x.grad, [7, 1])


def test_a_gradient_that_branches_is_not_changed_on_the_way() -> None:
    x = leaf(2.0)
    y = x * 3
    z = y + y.exp().log() + y
    z.backward()
    np.testing.assert_allclose(x.grad, [9.0])


def test_a_rule_of_the_user_may_hand_back_the_gradient_it_was_given() -> None:
    x, y = leaf(1.0), leaf(2.0)
    record(x.data + y.data, (x, y), lambda g: (g, g)).backward()
    (x * 5).backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([6.0], [1.0])


# Deep and wide graphs


@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_a_deep_graph_is_walked_back(depth: int) -> None:
    x = leaf(1.0)
    y = x
    for _ in range(depth):
        y = y + 1.0
    y.backward()
    np.testing.assert_array_equal(x.grad, [1.0])


@pytest.mark.parametrize("operation", [lambda y: y + 1.0, lambda y: y.relu(), lambda y: y[:]], ids=["+", "relu", "[:]"])
def test_a_deep_graph_is_dropped_without_being_walked(operation: Callable[[Tensor], Tensor]) -> None:
    y = leaf(1.0)
    for _ in range(100_000):
        y = operation(y)
    del y


def test_a_diamond_of_60_levels_takes_one_visit_a_node() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    np.testing.assert_array_equal(x.grad, [2.0**60])


def test_a_diamond_of_long_and_short_arms_waits_for_both() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = (y * 0.5) * 1.0 * 1.0 + y * 0.5
    y.backward()
    np.testing.assert_array_equal(x.grad, [1.0])


def test_a_tensor_used_by_10_000_operations_gets_the_sum() -> None:
    x = leaf(1.0)
    ops.concatenate([x * float(i) for i in range(10_000)]).sum().backward()
    np.testing.assert_array_equal(x.grad, [sum(range(10_000))])


# When a graph is gone


def graph_and_what_it_holds(x: Tensor) -> tuple[Tensor, list[weakref.ref[Any]]]:
    """A result with a long history, and weak references to tensors and arrays of that history."""
    hidden = ops.affine_relu_dropout(x, leaf(*range(4)).reshape(2, 2), leaf(0.5, 0.5), 0.5, generator=Generator(0))
    squares = (hidden * hidden).exp()
    logits = ops.concatenate([squares, ops.softmax(squares)[:, ::-1]], 1)
    loss = ops.cross_entropy(logits, [0, 1]) + ops.mse(squares, hidden) + ops.getitem(logits, [0, 0]).max()
    return loss, [weakref.ref(t) for t in (hidden, squares, logits)] + [weakref.ref(t.data) for t in (hidden, squares)]


@pytest.mark.usefixtures("without_cycle_collector")
def test_a_graph_goes_with_its_last_reference() -> None:
    loss, held = graph_and_what_it_holds(ones())
    del loss
    assert [ref() is None for ref in held] == [True] * 5


@pytest.mark.usefixtures("without_cycle_collector")
def test_backward_frees_the_arrays_of_a_graph_whose_result_lives_on() -> None:
    loss, held = graph_and_what_it_holds(ones())
    loss.backward()
    assert [ref() is None for ref in held] == [True] * 5


@pytest.mark.usefixtures("without_cycle_collector")
def test_a_retained_graph_goes_with_its_last_reference() -> None:
    loss, held = graph_and_what_it_holds(ones())
    loss.backward(retain_graph=True)
    del loss
    assert [ref() is None for ref in held] == [True] * 5


@pytest.mark.usefixtures("without_cycle_collector")
def test_a_graph_keeps_what_its_rules_need_while_its_result_lives() -> None:
    y = leaf(1.0).exp()
    array, loss = weakref.ref(y.data), (y * y).sum()
    del y
    assert array() is not None
    loss.backward()


@pytest.mark.usefixtures("without_cycle_collector")
def test_a_tensor_that_was_not_recorded_holds_nothing() -> None:
    x = leaf(1.0)
    held = weakref.ref(x)
    with no_grad():
        y = x * 2
    del x
    assert (held(), y.requires_grad) == (None, False)


# no_grad


def test_nothing_is_recorded_under_no_grad() -> None:
    with no_grad():
        y = leaf(1.0) * 2
    assert not y.requires_grad


def test_recording_goes_on_behind_no_grad() -> None:
    with no_grad():
        pass
    assert (leaf(1.0) * 2).requires_grad


def test_recording_goes_on_behind_an_error_under_no_grad() -> None:
    with pytest.raises(ShapeError), no_grad():
        leaf(1.0, 2.0) + leaf(1.0, 2.0, 3.0)
    assert (leaf(1.0) * 2).requires_grad


def test_no_grad_nests() -> None:
    with no_grad():
        with no_grad():
            pass
        y = leaf(1.0) * 2
    assert not y.requires_grad


def test_one_no_grad_object_nests_in_itself() -> None:
    def nest() -> bool:
        pause = no_grad()
        with pause, pause:
            pass
        return (leaf(1.0) * 2).requires_grad

    assert in_a_thread(nest)


def test_no_grad_is_a_decorator() -> None:
    @no_grad()
    def double(x: Tensor) -> Tensor:
        return x * 2

    assert (double(leaf(1.0)).requires_grad, (leaf(1.0) * 2).requires_grad) == (False, True)


def test_a_function_under_no_grad_may_call_itself() -> None:
    @no_grad()
    def power(x: Tensor, n: int) -> Tensor:
        return x if n == 0 else power(x, n - 1) * x

    power(leaf(2.0), 3)
    assert (leaf(1.0) * 2).requires_grad


def test_no_grad_concerns_its_own_thread_alone() -> None:
    with no_grad():
        recorded = in_a_thread(lambda: (leaf(1.0) * 2).requires_grad)
    assert recorded


def test_a_function_under_no_grad_may_run_in_two_threads_at_once() -> None:
    first_is_inside, second_is_inside, first_is_back = (threading.Event() for _ in range(3))

    @no_grad()
    def enter(inside: threading.Event, leave: threading.Event) -> None:
        inside.set()
        leave.wait(10)

    def first() -> bool:
        with no_grad():
            enter(first_is_inside, second_is_inside)
            first_is_back.set()
            return (leaf(1.0) * 2).requires_grad

    def second() -> bool:
        first_is_inside.wait(10)
        enter(second_is_inside, first_is_back)
        return (leaf(1.0) * 2).requires_grad

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(first), pool.submit(second)]
        assert [f.result() for f in futures] == [False, True]


def test_threads_walk_back_their_own_graphs() -> None:
    def train(start: int) -> float:
        x = Tensor(np.full((20, 20), float(start)), requires_grad=True)
        for _ in range(30):
            (x @ x).sum().backward()
        return float(x.grad[0, 0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train, range(4))) == [30 * 2 * 20 * i for i in range(4)]


# Parameters of a packed module


def in_buffer(model: nn.Module) -> list[bool]:
    """For each parameter, whether its gradient is its place in the flat buffer."""
    flat = model.flat()
    places = [flat.gradients[start:stop] for start, stop in flat.spans]
    return [p.grad.ctypes.data == place.ctypes.data for p, place in zip(model.parameters(), places, strict=True)]


def test_the_gradient_of_a_parameter_is_its_place_in_the_flat_buffer() -> None:
    model = small_network()
    model(np.ones((2, 4))).sum().backward()
    assert in_buffer(model) == [True] * 4


def test_a_gradient_that_an_elementwise_rule_made_lands_in_the_flat_buffer_too() -> None:
    model = small_network()
    sum((p * p).sum() for p in model.parameters()).backward()
    assert in_buffer(model) == [True] * 4


def test_gradients_of_parameters_accumulate_until_forgotten() -> None:
    model, x = small_network(), np.ones((2, 4))
    model(x).sum().backward()
    once = [p.grad.copy() for p in model.parameters()]
    model(x).sum().backward()
    np.testing.assert_equal([p.grad for p in model.parameters()], [2 * g for g in once])


def test_forgotten_gradients_are_not_added_to() -> None:
    model, x = small_network(), np.ones((2, 4))
    model(x).sum().backward()
    once = [p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    np.testing.assert_equal([p.grad for p in model.parameters()], once)


def test_a_retained_graph_walked_twice_doubles_the_gradients_of_parameters() -> None:
    model = small_network()
    loss = model(np.ones((2, 4))).sum()
    loss.backward(retain_graph=True)
    once = [p.grad.copy() for p in model.parameters()]
    loss.backward()
    np.testing.assert_equal([p.grad for p in model.parameters()], [2 * g for g in once])


TWICE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "in two maps": lambda x, w, b: ops.affine(ops.affine(x, w, b), w, b),
    "in two fused maps": lambda x, w, b: ops.affine_relu_dropout(ops.affine_relu_dropout(x, w, b), w, b),
    "as x and w": lambda x, w, b: ops.affine(w, w, b),
    "as x and w of a fused map": lambda x, w, b: ops.affine_relu_dropout(w, w, b),
    "in a map and a penalty": lambda x, w, b: ops.affine(x, w, b).sum() + (w * w).sum() + (b * b).sum(),
    "in a penalty and a map": lambda x, w, b: (w * w).sum() + (b * b).sum() + ops.affine(x, w, b).sum(),
    "transposed and straight": lambda x, w, b: ops.affine(ops.affine(x, w.T, b), w, b),
    "as a row of x": lambda x, w, b: ops.affine(b.reshape(1, 3), w, b),
}


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("times", [1, 2], ids=["once", "accumulated"])
def test_a_parameter_used_twice_gets_the_gradient_of_a_plain_tensor(name: str, times: int) -> None:
    layer = nn.Affine(3, 3, generator=0, dtype="float64")
    layer.flat()
    plain = [Tensor(p.data.copy(), requires_grad=True) for p in layer.parameters()]
    x = Tensor(np.random.default_rng(0).normal(size=(4, 3)))
    for w, b in (layer.parameters(), plain):
        for _ in range(times):
            TWICE[name](x, w, b).sum().backward()
    np.testing.assert_allclose([*layer.weight.grad, layer.bias.grad], [*plain[0].grad, plain[1].grad], rtol=1e-13)


def test_an_input_that_requires_grad_gets_its_own_beside_the_parameters() -> None:
    model, x = small_network(), Tensor(np.ones((2, 4)), requires_grad=True)
    model(x).sum().backward()
    assert not np.shares_memory(x.grad, model.flat().gradients)


def test_a_frozen_parameter_gets_no_gradient() -> None:
    layer = nn.Affine(3, 3, generator=0, dtype="float64")
    layer.flat()
    layer.weight.requires_grad = False
    layer(np.ones((2, 3))).sum().backward()
    assert (layer.weight.grad, layer.bias.grad.tolist()) == (None, [2.0] * 3)


def test_a_rule_that_returns_too_few_gradients_is_refused_and_changes_nothing() -> None:
    a, b = (Tensor(1.0, requires_grad=True) for _ in range(2))
    y = record(a.data * b.data, (a, b), lambda g: (g,))
    with pytest.raises(GraphError, match="an operation with 2 operands returned 1 gradients"):
        y.backward()
    assert (a.grad, b.grad) == (None, None)


def test_a_rule_that_returns_another_dtype_is_refused() -> None:
    x = Tensor(1.0, requires_grad=True)
    y = record(x.data * 2, (x,), lambda g: (g.astype("float64"),))
    with pytest.raises(DTypeError, match="a gradient of float64 arrived at a tensor of float32"):
        y.backward()


@pytest.mark.usefixtures("without_cycle_collector")
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "no_grad"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_an_operation_holds_goes_with_its_result(case: Case, recorded: bool) -> None:
    inputs = [Tensor(values, requires_grad=True) for values in case.inputs()]
    parts = [x * 1 for x in inputs]
    with nullcontext() if recorded else no_grad():
        y = case.fn(*parts)
    held = [weakref.ref(t) for t in (y, *parts)]
    del y, parts
    assert [ref() for ref in held] == [None] * len(held)


@pytest.mark.usefixtures("without_cycle_collector")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_result_holds_no_operand_but_of_layers(case: Case) -> None:
    """The rules of layers ask whether their operands still want gradients; all others hold arrays, if anything."""
    parts = [Tensor(values, requires_grad=True) * 1 for values in case.inputs()]
    held = [weakref.ref(t) for t in parts]
    y = case.fn(*parts)
    if any(y is part for part in parts):
        return
    del parts
    assert case.operation.startswith("affine") or [ref() for ref in held] == [None] * len(held)
