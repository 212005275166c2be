"""A compiled function makes the eager numbers, bit for bit, and notices when it must capture again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tinygrad_cr
from tinygrad_cr import Generator, Tensor, nn, no_grad, ops, optim
from tinygrad_cr.errors import CaptureError
from tinygrad_cr.kernels.cpu.threads import usable_cores
from tinygrad_cr.op_table import CASES, Case
from tinygrad_cr.structure import arrays_of
from tinygrad_cr.tensor import record

X = np.linspace(-1, 1, 12 * 6, dtype="float32").reshape(12, 6)
Y = np.arange(12) % 3


def bits(values: Any) -> tuple[Any, ...]:
    array = np.asarray(values)
    return array.shape, array.dtype, array.tobytes()


class Training:
    """A network with everything a step needs."""

    def __init__(self, optimizer: Any = None, **options: Any) -> None:
        self.model = nn.MLP([6, 8, 3], generator=0, **({"dropout": 0.5} | options))
        self.optimizer = (optimizer or (lambda model: optim.SGD(model, 0.1, 0.9)))(self.model)

    def step(self, x: Tensor, y: Any) -> Tensor:
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def values(self) -> bytes:
        return self.model.flat().values.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [case for case in CASES if str(case) != "getitem-mask"], ids=str)
def test_a_replay_of_an_operation_and_its_gradient_equals_the_eager_bits(case: Case, dtype: str) -> None:
    leaves = [Tensor(a, requires_grad=True) for a in case.inputs(0, dtype)]

    def step() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        y = case.fn(*leaves)
        (y * y).sum().backward()
        return y

    compiled = tinygrad_cr.compile(step)
    compiled()
    compiled()
    captures = len(compiled.programs)
    for seed in (1, 2):
        for leaf, values in zip(leaves, case.inputs(seed, dtype), strict=True):
            leaf.data[...] = values
        replayed = [bits(compiled()), *[bits(leaf.grad) for leaf in leaves]]
        grads = [leaf.grad for leaf in leaves]
        assert replayed == [bits(step()), *[bits(leaf.grad) for leaf in leaves]]
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad
    assert len(compiled.programs) == captures


OPTIMIZERS = {
    "sgd": lambda model: optim.SGD(model, 0.1),
    "momentum": lambda model: optim.SGD(model, 0.1, 0.9, weight_decay=0.01),
    "nesterov": lambda model: optim.SGD(model, 0.1, 0.9, nesterov=True),
    "adam": lambda model: optim.Adam(model, 0.01),
    "adamw": lambda model: optim.AdamW(model, 0.01),
}


@pytest.mark.parametrize("mode", ["inverted", "vanilla"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_ends_with_the_eager_bits(make: Any, mode: str) -> None:
    eager, compiled = Training(make, dropout_mode=mode), Training(make, dropout_mode=mode)
    step = tinygrad_cr.compile(compiled.step)
    for i in range(12):
        eager.optimizer.lr = compiled.optimizer.lr = 0.1 / (i + 1)
        assert bits(eager.step(Tensor(X * i), Y)) == bits(step(Tensor(X * i), Y))
    assert eager.values() == compiled.values()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [[784, 256, 10], [300, 257, 33, 7], [40, 300, 600, 10]], ids=str)
def test_a_large_network_trains_to_the_eager_bits(sizes: list[int], dtype: str) -> None:
    x = Generator(3).normal((130, sizes[0])).astype(dtype)
    y = np.arange(130) % sizes[-1]
    found = []
    for wrap in (tinygrad_cr.compile, lambda step: step):
        training = Training()
        training.model = nn.MLP(sizes, dropout=0.3, generator=0, dtype=dtype)
        training.optimizer = optim.SGD(training.model, 0.01, 0.9, nesterov=True)
        step = wrap(training.step)
        for rows in (slice(0, 130), slice(0, 65), slice(65, 130), slice(0, 130)):
            step(Tensor(x[rows]), y[rows])
        found.append(training.values())
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norms", [True, "parameters"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [[6, 8, 3], [784, 256, 10], [40, 300, 600, 10]], ids=str)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_norms_of_every_step_have_the_eager_bits(
    make: Any, sizes: list[int], threads: int, norms: Any, dtype: str
) -> None:
    x = Generator(3).normal((6, 70, sizes[0])).astype(dtype)
    y = np.arange(70) % sizes[-1]
    before, found = tinygrad_cr.get_num_threads(), []
    tinygrad_cr.set_num_threads(min(threads, usable_cores()))
    try:
        for compiled in (True, False):
            model = nn.MLP(sizes, dropout=0.3, generator=0, dtype=dtype)
            optimizer = make(model)

            def step(x: Any, model: Any = model, optimizer: Any = optimizer) -> tuple[Tensor, Any]:
                optimizer.zero_grad()
                loss = ops.cross_entropy(model(Tensor(x)), y)
                loss.backward()
                return loss, optimizer.step(reg=0.01, norms=norms)

            if compiled:
                replayed = tinygrad_cr.compile(step)
                measured = [replayed(rows)[1].copy() for rows in x[:3]] + list(replayed.scan(x[3:])[1])
            else:
                measured = [step(rows)[1] for rows in x]
            found.append(
                (np.stack(measured).tobytes(), model.flat().values.tobytes(), model.flat().gradients.tobytes())
            )
    finally:
        tinygrad_cr.set_num_threads(before)
    assert found[0] == found[1]


def of_scan_and_eager(threads: int, x: Any, y: Any, make: Any, factor: float = 1.0, **options: Any) -> list[bytes]:
    """The weights and velocities after some steps, eager on one thread, and those of a scan on so many."""
    before, found = tinygrad_cr.get_num_threads(), []
    try:
        for number in (1, threads):
            tinygrad_cr.set_num_threads(min(number, usable_cores()))
            model = nn.MLP(generator=0, **options)
            optimizer = make(model)

            def step(x: Any, model: Any = model, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss = ops.cross_entropy(model(Tensor(x)), y)
                (loss * factor).backward()
                optimizer.step()
                return loss

            if found:
                tinygrad_cr.compile(step).scan(x)
            else:
                for part in x:
                    step(part)
            state = optimizer.state_dict()
            found.append(model.flat().values.tobytes() + b"".join(np.asarray(state[name]).tobytes() for name in state))
    finally:
        tinygrad_cr.set_num_threads(before)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("sizes", "rows"), [([1025, 333, 7], 130), ([600, 300, 5], 230), ([784, 50, 10], 100)], ids=str
)
def test_a_scan_of_dense_layers_has_the_eager_bits(sizes: list[int], rows: int, threads: int, dtype: str) -> None:
    """Gradients that no step but the last one keeps, of factors that are packed, or with columns left over."""
    x = Generator(3).normal((4, rows, sizes[0])).astype(dtype)
    eager, scanned = of_scan_and_eager(
        threads, x, np.arange(rows) % sizes[-1], lambda model: optim.SGD(model, 0.01, 0.9), sizes=sizes, dtype=dtype
    )
    assert scanned == eager


UPDATES: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "penalty": {"momentum": 0.9, "weight_decay": 0.01},
    "nesterov, penalty": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("factor", [1.0, 1e-30], ids=["", "negligible"])
@pytest.mark.parametrize("options", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize(
    ("sizes", "rows"), [([785, 107, 10], 130), ([528, 256, 10], 128), ([100, 300, 600, 9], 70)], ids=str
)
def test_a_scan_of_layers_with_dropout_has_the_eager_bits(
    sizes: list[int], rows: int, options: dict[str, Any], factor: float, threads: int, dtype: str
) -> None:
    """Gradients whose zeros are skipped, and which update weights before they are anywhere in memory.

    With a small factor and no penalty, velocities are negligible but for the last step, and count as nothing there.
    """
    x = Generator(3).normal((4, rows, sizes[0])).astype(dtype)
    x[-1] *= 1 if factor == 1 else 1000
    y = np.arange(rows) % sizes[-1]
    eager, scanned = of_scan_and_eager(
        threads, x, y, lambda model: optim.SGD(model, 0.1, **options), factor, sizes=sizes, dropout=0.5, dtype=dtype
    )
    assert scanned == eager


def test_optimizer_and_generator_are_left_where_eager_steps_leave_them() -> None:
    eager, compiled = Training(OPTIMIZERS["adam"]), Training(OPTIMIZERS["adam"])
    step = tinygrad_cr.compile(compiled.step)
    for _ in range(5):
        eager.step(Tensor(X), Y)
        step(Tensor(X), Y)
    assert (eager.optimizer.steps, eager.model.generator.state()) == (
        compiled.optimizer.steps,
        compiled.model.generator.state(),
    )


def test_a_step_is_captured_once_or_twice_and_then_replayed() -> None:
    training = Training()
    calls = []

    @tinygrad_cr.compile
    def step(x: Tensor, y: Any) -> Tensor:
        calls.append(1)
        return training.step(x, y)

    for _ in range(10):
        step(Tensor(X), Y)
    assert len(calls) <= 2


@pytest.mark.parametrize(
    ("change", "arguments"),
    [
        (lambda t: None, (Tensor(X[:5]), Y[:5])),
        (lambda t: t.model.eval(), (Tensor(X), Y)),
        (lambda t: setattr(t.model.layers[0], "dropout", 0.1), (Tensor(X), Y)),
        (lambda t: setattr(t.model.layers[0], "generator", Generator(9)), (Tensor(X), Y)),
        (lambda t: setattr(t.optimizer, "momentum", 0.5), (Tensor(X), Y)),
    ],
    ids=["shape", "evaluation", "dropout", "generator", "momentum"],
)
def test_what_changes_after_the_capture_is_seen(change: Any, arguments: Any) -> None:
    eager, compiled = Training(), Training()
    step = tinygrad_cr.compile(compiled.step)
    for _ in range(3):
        eager.step(Tensor(X), Y)
        step(Tensor(X), Y)
    change(eager)
    change(compiled)
    eager.step(*arguments)
    step(*arguments)
    assert eager.values() == compiled.values()


def test_a_network_that_moved_to_other_memory_is_captured_again() -> None:
    model = nn.MLP([6, 3], generator=0)
    forward = tinygrad_cr.compile(lambda x: model(x))
    forward(Tensor(X))
    model.to("float64")
    x = Tensor(X.astype("float64"))
    assert bits(forward(x)) == bits(model(x))


def test_gradients_accumulate_over_replays_as_they_do_over_eager_steps() -> None:
    model = nn.MLP([6, 3], generator=0)

    @tinygrad_cr.compile
    def add_gradient(x: Tensor, y: Any) -> None:
        ops.cross_entropy(model(x), y).backward()

    for _ in range(4):
        add_gradient(Tensor(X), Y)
    total = model.layers[0].weight.grad.copy()
    model.zero_grad()
    add_gradient(Tensor(X), Y)
    np.testing.assert_allclose(total, 4 * model.layers[0].weight.grad, rtol=1e-5)


def test_an_argument_is_not_written_to_by_later_calls() -> None:
    double = tinygrad_cr.compile(lambda x: x * 2.0)
    first = Tensor(X.copy())
    double(first)
    double(Tensor(0 * X))
    assert bits(first) == bits(X)


def test_a_result_is_not_written_to_by_later_calls() -> None:
    double = tinygrad_cr.compile(lambda x: x * 2.0)
    first = double(Tensor(X))
    double(Tensor(0 * X))
    assert bits(first) == bits(2 * X)


def test_arguments_in_place_are_read_where_they_are() -> None:
    x = X.copy()
    double = tinygrad_cr.compile(lambda x: x * 2.0, in_place=True)
    double(Tensor(x))
    x[...] = 1
    assert bits(double(Tensor(x))) == bits(2 * np.ones_like(X))


def test_an_index_array_argument_picks_anew_in_each_replay() -> None:
    x = Tensor(X)
    pick = tinygrad_cr.compile(lambda rows: x[rows])
    pick(np.array([0, 1]))
    assert bits(pick(np.array([5, 3]))) == bits(X[[5, 3]])


def test_an_index_by_a_mask_is_refused() -> None:
    with pytest.raises(CaptureError, match="indexing by a mask, whose result has another shape"):
        tinygrad_cr.compile(lambda mask: Tensor(X)[mask])(np.arange(12) < 3)


@pytest.mark.parametrize(
    ("what", "leave"),
    [
        ("item", lambda t: t.sum().item()),
        ("numpy", lambda t: t.numpy()),
        ("array", np.asarray),
        ("decision", lambda t: bool(t.sum())),
    ],
)
def test_a_value_that_leaves_the_engine_is_refused_by_name(what: str, leave: Any) -> None:
    with pytest.raises(CaptureError, match=f"{what}.* cannot be captured"):
        tinygrad_cr.compile(lambda x: leave(x * 2.0))(Tensor(X))


def cube(x: Tensor, where: Any) -> Tensor:
    y = x.data**3 if where == "result" else x.backend.xp.power(x.data, 3)
    return record(y, (x,), lambda g: (3 * g * x.data**2 if where == "gradient" else g,))


@pytest.mark.parametrize("where", ["result", "gradient"])
def test_an_operation_computed_outside_the_array_library_is_refused(where: str) -> None:
    x = Tensor(X.copy(), requires_grad=True)
    with pytest.raises(CaptureError, match=f"{where} of cube computed outside"):
        tinygrad_cr.compile(lambda: cube(x, where).sum().backward())()


@pytest.mark.parametrize("captured_before", [False, True])
def test_a_compiled_function_within_another_is_a_part_of_its_capture(captured_before: bool) -> None:
    inner = tinygrad_cr.compile(lambda x: x * 2.0)
    outer = tinygrad_cr.compile(lambda x: inner(x) + 1.0)
    if captured_before:
        inner(Tensor(X))
    for x in (X, 3 * X, X[::-1].copy()):
        assert bits(outer(Tensor(x))) == bits(2 * x + 1)
    assert bits(inner(Tensor(5 * X))) == bits(2 * (5 * X))
    # As from a replay, what it returns has no history.
    x = Tensor(X, requires_grad=True)
    assert not tinygrad_cr.compile(lambda: tinygrad_cr.compile(lambda: x * 2.0)())().requires_grad


def test_a_compiled_function_within_another_takes_and_gives_what_it_does_elsewhere() -> None:
    x = Tensor(X.copy(), requires_grad=True)
    inner = tinygrad_cr.compile(lambda x: x * 2.0)
    with pytest.raises(CaptureError, match="an argument that requires grad"):
        tinygrad_cr.compile(lambda: inner(x * 1.0))()

    # A copy: what becomes of the parameters later does not show in it.
    training = Training()
    weight = training.model.parameters()[0]
    now = tinygrad_cr.compile(lambda: weight)

    def change(x: Tensor, y: Any) -> Tensor:
        before = now()
        training.step(x, y)
        return weight - before

    compiled = tinygrad_cr.compile(change)
    for _ in range(3):
        before = weight.data.copy()
        found = compiled(Tensor(X), Y)
        assert bits(found) == bits(weight.data - before)
        assert np.abs(found.data).max() > 0


def test_a_compiled_step_within_another_trains_as_the_eager_one() -> None:
    eager, nested = Training(), Training()
    step = tinygrad_cr.compile(nested.step)
    both = tinygrad_cr.compile(lambda x, y: (step(x, y), step(x, y)))
    for _ in range(3):
        expected = [eager.step(Tensor(X), Y).item() for _ in range(2)]
        assert [loss.item() for loss in both(Tensor(X), Y)] == expected
    assert nested.values() == eager.values()


def test_a_scan_within_a_capture_is_refused() -> None:
    inner = tinygrad_cr.compile(lambda x: x * 2.0)
    with pytest.raises(CaptureError, match="scan of a compiled function cannot be captured"):
        tinygrad_cr.compile(lambda x: inner.scan(X))(Tensor(X))


def test_a_refused_capture_leaves_the_engine_eager() -> None:
    with pytest.raises(CaptureError):
        tinygrad_cr.compile(lambda x: (x * 2.0).sum().item())(Tensor(X))
    assert Tensor(X).sum().item() == pytest.approx(0, abs=1e-5)


def test_another_thread_computes_unseen_while_one_captures() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait()
        (Tensor(X) * 3.0).sum().item()
        go_on.set()

    def fn(x: Tensor) -> Tensor:
        inside.set()
        go_on.wait()
        return x * 2.0

    thread = threading.Thread(target=other)
    thread.start()
    compiled = tinygrad_cr.compile(fn)
    compiled(Tensor(X))
    thread.join()
    assert len(compiled.programs[0].replay.calls) == 1


def test_recording_or_not_is_part_of_the_capture() -> None:
    model = nn.MLP([6, 3], generator=0)
    forward = tinygrad_cr.compile(lambda x: model(x))
    forward(Tensor(X))
    with no_grad():
        forward(Tensor(X))
    assert len(forward.programs) == 2


@pytest.mark.parametrize("factor", [np.array(3), np.float32(3)], ids=["integers", "a scalar"])
def test_products_that_no_kernel_table_takes_are_replayed_too(factor: Any) -> None:
    x = Tensor(np.arange(4, dtype=factor.dtype))

    def fn() -> Tensor:
        multiply = x.backend.xp.multiply
        return record(multiply(factor, multiply(factor, x.data)), (x,), lambda g: (g,))

    compiled = tinygrad_cr.compile(fn)
    compiled()
    assert compiled().numpy().tolist() == [0, 9, 18, 27]


def twice(optimizer: optim.SGD) -> None:
    optimizer.step()
    optimizer.step()


def halved(optimizer: optim.SGD) -> None:
    gradients, xp = optimizer.flat.gradients, optimizer.flat.backend.xp
    xp.multiply(xp.asarray(0.5, gradients.dtype), gradients, out=gradients)
    optimizer.step()


def copied_afterwards(optimizer: optim.SGD) -> None:
    gradients, xp = optimizer.flat.gradients, optimizer.flat.backend.xp
    optimizer.step()
    xp.multiply(xp.asarray(1.0, gradients.dtype), gradients, out=optimizer.velocity)


def nothing(optimizer: optim.SGD) -> None: ...


def steps_with(
    finish: Callable[[optim.SGD], Any], way: str, begin: Callable[[optim.SGD], Any] = nothing
) -> tuple[NDArray[Any], ...]:
    """Parameters, velocity, gradients that can be seen and results after five steps that begin and end like this."""
    model = nn.MLP([6, 5, 4, 3], generator=0)
    optimizer = optim.SGD(model, lr=0.1, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        seen = begin(optimizer)
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(Tensor(x)), y)
        loss.backward()
        return loss, *(found for found in (seen, finish(optimizer)) if found is not None)

    x = np.random.default_rng(0).normal(size=(5, 8, 6)).astype("float32")
    y = np.arange(40).reshape(5, 8) % 3
    compiled = tinygrad_cr.compile(step)
    if way == "scan":
        results = arrays_of(compiled.scan(x, y))
    else:
        run = compiled if way == "call" else step
        each = [[np.array(a) for a in arrays_of(run(*arguments))] for arguments in zip(x, y, strict=True)]
        results = [np.stack(parts) for parts in zip(*each, strict=True)]
    gradients = [np.array(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    return np.array(model.flat().values), np.array(optimizer.velocity), *gradients, *results


@pytest.mark.parametrize("way", ["call", "scan"])
@pytest.mark.parametrize("finish", [optim.SGD.step, twice, halved, copied_afterwards])
def test_a_replay_updates_weights_early_only_where_nothing_else_touches_them(finish: Any, way: str) -> None:
    """One call that covers the whole flat buffer stands between a layer's gradient and its update, or after them."""
    for replayed, eager in zip(steps_with(finish, way), steps_with(finish, "eager"), strict=True):
        np.testing.assert_array_equal(replayed, eager)


@pytest.mark.parametrize("way", ["call", "scan"])
def test_a_step_may_begin_with_the_gradients_of_the_last_one(way: str) -> None:
    def copied(optimizer: optim.SGD) -> NDArray[Any]:
        gradients, xp = optimizer.flat.gradients, optimizer.flat.backend.xp
        copy: NDArray[Any] = xp.empty(gradients.shape, gradients.dtype)
        xp.multiply(xp.asarray(1.0, gradients.dtype), gradients, out=copy)
        return copy

    ways = (steps_with(optim.SGD.step, each, copied) for each in (way, "eager"))
    for replayed, eager in zip(*ways, strict=True):
        np.testing.assert_array_equal(replayed, eager)


def forgotten(optimizer: optim.SGD) -> None:
    optimizer.step()
    optimizer.zero_grad()


def shown_and_forgotten(optimizer: optim.SGD) -> Tensor:
    """A result that is a part of other memory: `scan` makes these steps one by one."""
    optimizer.step()
    shown = Tensor(optimizer.flat.gradients)
    optimizer.zero_grad()
    return shown


@pytest.mark.parametrize("way", ["call", "scan"])
@pytest.mark.parametrize("finish", [forgotten, shown_and_forgotten])
def test_a_step_may_forget_its_gradients_at_the_end(finish: Any, way: str) -> None:
    for replayed, eager in zip(steps_with(finish, way), steps_with(finish, "eager"), strict=True):
        np.testing.assert_array_equal(replayed, eager)


def test_gradients_in_a_list_are_there_though_the_step_forgets_them() -> None:
    found = []
    for wrap in (tinygrad_cr.compile, lambda fn: fn):
        training = Training(dropout=0.0)

        def step(x: Any, y: Any, training: Training = training) -> tuple[Tensor, list[Any]]:
            loss = training.step(Tensor(x), y)
            gradients = [parameter.grad for parameter in training.model.parameters()]
            training.optimizer.zero_grad()
            return loss, gradients

        run = wrap(step)
        run(X, Y)
        found.append([np.array(gradient) for gradient in run(X, Y)[1]])
    for replayed, eager in zip(*found, strict=True):
        np.testing.assert_array_equal(replayed, eager)


def test_gradients_that_are_forgotten_are_not_written() -> None:
    training = Training()

    def step(x: Any, y: Any) -> None:
        training.step(Tensor(x), y)
        training.optimizer.zero_grad()

    compiled = tinygrad_cr.compile(step)
    compiled(X, Y)
    training.optimizer.flat.gradients.fill(7)
    compiled(X, Y)
    assert all(parameter.grad is None for parameter in training.model.parameters())
    weights = [parameter.grad_view for parameter in training.model.parameters() if parameter.ndim == 2]
    assert [float(view.min()) for view in weights] == [float(view.max()) for view in weights] == [7, 7]
