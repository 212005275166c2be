"""Memory that begins on a cache line: of minibatches, and of everything that a replay uses again and again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_cr
from tinygrad_cr import Tensor, data, nn, ops, optim
from tinygrad_cr.kernels import aligned, backend, on_a_line, owns
from tinygrad_cr.kernels.aligned import LINE_BYTES, Memory
from tinygrad_cr.train import Trainer
from tinygrad_cr.train.evaluate import Evaluation
from tinygrad_cr.train.updates import Updates


def begins_on_a_line(array: Any) -> bool:
    """Not by luck."""
    return bool(array.ctypes.data % LINE_BYTES == 0) and type(array.base) is Memory


SHAPES = [(), 0, 5, (3, 7), [2, 9], (0, 4), np.int64(9), np.int8(60), (np.uint8(20),) * 2, np.array([20, 20], np.uint8)]


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "uint8", "int64", bool, "U", [("a", "f4"), ("b", "i8")]], ids=str
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_aligned_array_is_an_array_like_any_other(shape: Any, dtype: Any) -> None:
    array, plain = aligned(shape, dtype), np.empty(shape, dtype)
    assert (array.shape, array.dtype, type(array)) == (plain.shape, plain.dtype, np.ndarray)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert begins_on_a_line(array)
    assert owns(array)
    array[...] = np.zeros((), dtype)
    assert not array.astype(bool).any() if array.dtype.names is None else (array["a"] == 0).all()


def test_objects_are_left_to_numpy() -> None:
    array = aligned(3, object)
    array[:] = ["a", None, 3]
    assert array.tolist() == ["a", None, 3]
    assert array.base is None


@pytest.mark.parametrize("shape", [-1, (2, -1), (-1, -2), 1.5, "x"])
def test_what_is_no_shape_is_refused_as_numpy_refuses_it(shape: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as wanted:
        np.empty(shape)
    with pytest.raises(wanted.type):
        aligned(shape)


def test_what_shows_the_memory_of_another_does_not_own_it() -> None:
    array = aligned((4, 6))
    assert not any(owns(view) for view in (array[:], array[1:], array.reshape(-1), array.T, array[:].reshape(6, 4)))
    assert owns(array + 1)
    assert on_a_line(array) is array


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_backend_of_the_host_has_them(name: str) -> None:
    assert begins_on_a_line(backend(name).empty((3, 5), np.float32))


def arrays_in(compiled: Any) -> list[Any]:
    """The floating arrays that its kernels are given."""
    return [
        array
        for program in compiled.programs
        for tables in program.replay.captured
        for rows in tables.kept[0].values()
        for call, _ in rows
        for array in call[1]
        if isinstance(array, np.ndarray) and array.dtype == np.float32
    ]


def test_a_replay_uses_lines_of_its_own() -> None:
    """Odd sizes, so that luck alone would have to put ten arrays there. NumPy multiplies the gradient of the logits."""
    model = nn.MLP([37, 41, 43, 3], dropout=0.5, generator=0)
    optimizer = optim.SGD(model, 0.1, 0.9)

    def step(x: Any, y: Any) -> Tensor:
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(Tensor(x)), y)
        loss.backward()
        optimizer.step()
        return loss

    compiled = tinygrad_cr.compile(step)
    compiled(np.ones((5, 37), np.float32), np.zeros(5, np.int64))
    arrays = arrays_in(compiled)
    assert len({array.ctypes.data for array in arrays}) > 10
    astray = [array.shape for array in arrays if array.ctypes.data % LINE_BYTES and array.shape != (5, 3)]
    assert astray == []
    assert all(program.in_one_table for program in compiled.programs)


def test_minibatches_begin_on_lines() -> None:
    rows = data.Dataset(np.zeros((9, 37), np.float32), np.zeros(9, np.int64))
    assert begins_on_a_line(data.Batches(rows, 4)._x)
    trainer = Trainer(nn.MLP([37, 2], generator=0), epochs=1, reporter=False)
    trainer.fit(rows, rows)
    assert begins_on_a_line(Updates(trainer, data.Batches(rows, 4)).x)
    assert all(begins_on_a_line(room.base) for room, _ in Evaluation(trainer.model, rows).parts.values())


def test_other_allocations_are_captured_as_they_are_asked_for() -> None:
    """In Fortran's order, like a transpose or a list, of another dtype, by keyword or not."""
    asked: list[Any] = [
        lambda xp, x: xp.empty(x.shape, np.float32, "F"),
        lambda xp, x: xp.empty(x.shape, order="F"),
        lambda xp, x: xp.empty(shape=x.shape, dtype="float64"),
        lambda xp, x: xp.empty_like(x.T).T,
        lambda xp, x: xp.empty_like(x.T),
        lambda xp, x: xp.empty_like(x, np.float64),
        lambda xp, x: xp.empty_like(x, dtype="float64", order="F"),
        lambda xp, x: xp.empty_like([[1.0, 2.0, 3.0]] * 2),
        lambda xp, x: xp.empty((np.uint8(20),) * 2, np.float32),
        lambda xp, x: backend("cpu").empty(x.shape, x.dtype),
    ]
    seen: list[Any] = []

    def fill(x: Any) -> Tensor:
        xp = backend("cpu").xp
        total = xp.zeros(x.shape, x.dtype)
        for make in asked:
            room = make(xp, x)
            seen.append(room)
            if room.shape == x.shape:
                xp.copyto(room, x)
                xp.add(total, room, out=total, casting="same_kind")
        return Tensor(total)

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    compiled = tinygrad_cr.compile(fill)
    for factor in (1, 2, 3):
        np.testing.assert_array_equal(compiled(factor * x).numpy(), 8 * factor * x)
    for make, room in zip(asked[:-1], seen, strict=False):
        plain = make(np, x)
        assert (room.shape, room.dtype, room.strides) == (plain.shape, plain.dtype, plain.strides)


def test_arguments_of_every_kind_are_copied() -> None:
    """Names among them, which no kernel takes, and arrays that are more than arrays."""
    kinds: list[str] = []

    def double(x: Any, names: Any, masked: Any) -> Tensor:
        kinds.append(type(masked).__name__)
        assert names.tolist() == ["a", "b", None]
        return Tensor(x) * 2.0

    compiled = tinygrad_cr.compile(double)
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    for k in range(3):
        found = compiled(np.full(3, k, np.float32), np.array(["a", "b", None], object), masked)
        np.testing.assert_array_equal(found.numpy(), 2 * k)
    assert set(kinds) == {"MaskedArray"}


def test_a_gradient_that_nobody_else_holds_is_taken_over_in_a_capture_too() -> None:
    """No call is captured that would copy it."""
    x = Tensor(np.ones((3, 4), np.float32), requires_grad=True)

    def backward(scale: Any) -> Tensor:
        x.grad = None
        loss = (ops.relu(x) * Tensor(scale)).sum()
        loss.backward()
        return loss

    compiled = tinygrad_cr.compile(backward)
    for scale in (1.0, 2.0, 3.0):
        compiled(np.full((3, 4), scale, np.float32))
        np.testing.assert_array_equal(x.grad, scale)
        assert type(x.grad.base) is Memory
