"""Memory that begins on a cache line: of minibatches, and of everything that a replay uses again and again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_cr
from tinygrad_cr import Tensor, data, nn, ops, optim
from tinygrad_cr.kernels import aligned, backend, owns
from tinygrad_cr.kernels.aligned import LINE_BYTES, Memory


def begins_on_a_line(array: Any) -> bool:
    return bool(array.ctypes.data % LINE_BYTES == 0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64", bool])
@pytest.mark.parametrize("shape", [(), 0, 5, (3, 7), (0, 4), (2, 3, 5), np.int64(9)], ids=str)
def test_an_aligned_array_is_an_array_like_any_other(shape: Any, dtype: Any) -> None:
    array, plain = aligned(shape, dtype), np.empty(shape, dtype)
    assert (array.shape, array.dtype, type(array)) == (plain.shape, plain.dtype, np.ndarray)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert begins_on_a_line(array)
    assert owns(array)
    array[...] = 1
    assert array.sum(dtype=np.int64) == array.size


def test_what_shows_the_memory_of_another_does_not_own_it() -> None:
    array = aligned((4, 6))
    assert not any(owns(view) for view in (array[:], array[1:], array.reshape(-1), array.T, array[:].reshape(6, 4)))
    assert owns(array + 1)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_backend_of_the_host_has_them(name: str) -> None:
    assert begins_on_a_line(backend(name).empty((3, 5), np.float32))


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
    arrays = [
        array
        for program in compiled.programs
        for tables in program.replay.captured
        for call, _ in tables.kept[0][None]
        for array in call[1]
        if isinstance(array, np.ndarray) and array.dtype == np.float32
    ]
    assert len({array.ctypes.data for array in arrays}) > 10
    assert [array.shape for array in arrays if not begins_on_a_line(array) and array.shape != (5, 3)] == []


def test_minibatches_begin_on_lines() -> None:
    batches = data.Batches(data.Dataset(np.zeros((9, 37), np.float32), np.zeros(9, np.int64)), 4)
    assert all(begins_on_a_line(x) for x, _ in batches)


def test_other_allocations_are_captured_as_they_are_asked_for() -> None:
    """In Fortran's order, like a transpose, or of another dtype."""

    def fill(x: Any) -> Tensor:
        xp = backend("cpu").xp
        total = xp.zeros(x.shape, x.dtype)
        for room in (
            xp.empty(x.shape, order="F"),
            xp.empty_like(x.T).T,
            xp.empty_like(x, dtype="float64"),
            xp.empty(6),
        ):
            shown = room.reshape(x.shape)
            xp.copyto(shown, x)
            xp.add(total, shown, out=total, casting="same_kind")
        return Tensor(total)

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    compiled = tinygrad_cr.compile(fill)
    for factor in (1, 2, 3):
        np.testing.assert_array_equal(compiled(factor * x).numpy(), 4 * factor * x)


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
