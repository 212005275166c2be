"""Arrays of any backend in what a captured function is given and returns: found, compared, copied, put back.

Arguments and results are tensors, arrays, plain values, and tuples of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_cr.kernels import Array, backend
from tinygrad_cr.tensor import Tensor, wrap


def is_array(value: Any) -> bool:
    """Whether this is an array of a backend, on the host or on a GPU; no tensor is.

    >>> is_array(np.zeros(1)), is_array(Tensor([1.0])), is_array(1.0)
    (True, False, False)
    """
    return isinstance(value, np.ndarray) or on_gpu(value)


def on_gpu(value: Any) -> bool:
    """Whether this is an array in a GPU's memory; no tensor is."""
    return hasattr(type(value), "__cuda_array_interface__") and type(value) is not Tensor


def library(array: Array) -> Any:
    """The array library that made this array."""
    return np if isinstance(array, np.ndarray) else backend("gpu").xp


def alike(given: Any, captured: Any) -> bool:
    """Whether a program that was captured with one argument can be given the other."""
    if is_array(captured):
        same = isinstance(given, np.ndarray) if isinstance(captured, np.ndarray) else on_gpu(given)
        return same and given.shape == captured.shape and bool(given.dtype == captured.dtype)
    return type(given) is type(captured) and bool(given == captured)


def detached(result: Any) -> Any:
    """Copies that no later repetition writes to; tensors without history."""
    if isinstance(result, Tensor):
        return wrap(result.data.copy("K"), result.backend)
    if isinstance(result, tuple):
        return tuple(detached(part) for part in result)
    return result.copy() if is_array(result) else result


def arrays_of(value: Any) -> list[Array]:
    """The arrays in a result or in arguments, in order."""
    if isinstance(value, tuple):
        return [array for part in value for array in arrays_of(part)]
    if isinstance(value, Tensor):
        return [value.data]
    return [value] if is_array(value) else []


def arrays_are_found(result: Any) -> bool:
    """Whether `arrays_of` finds every array in a result: no list, dictionary or object of another kind is in it.

    >>> arrays_are_found((Tensor([1.0]), None, 0.5)), arrays_are_found([np.zeros(1)])
    (True, False)
    """
    if isinstance(result, tuple):
        return all(map(arrays_are_found, result))
    return result is None or isinstance(result, Tensor | bool | int | float | str) or is_array(result)


def rebuilt(result: Any, arrays: Iterator[Array]) -> Any:
    """A result of that structure, made of these arrays."""
    if isinstance(result, tuple):
        return tuple(rebuilt(part, arrays) for part in result)
    if isinstance(result, Tensor):
        return wrap(next(arrays), result.backend)
    return next(arrays) if is_array(result) else result


def lengthened(result: Any) -> Any:
    """A result with a leading axis of one step."""
    return rebuilt(result, iter([array[None] for array in arrays_of(result)]))


def joined(results: list[Any]) -> Any:
    """Results one after another, along their leading axis."""
    if len(results) == 1:
        return results[0]
    parts = zip(*map(arrays_of, results), strict=True)
    return rebuilt(results[0], iter([library(part[0]).concatenate(part) for part in parts]))


def owner(array: Array) -> Array:
    """The array whose memory this one is, or is a view of."""
    while is_array(array.base):
        array = array.base
    return array


def is_view(result: Array, args: Any) -> bool:
    """Whether the result lies in the memory of an argument, or has no elements."""
    return result.size == 0 or any(
        is_view(result, value) if isinstance(value, list | tuple) else _share_memory(result, value)
        for value in args
        if isinstance(value, list | tuple) or is_array(value)
    )


def holds_array(value: Any) -> bool:
    """Whether there is an array in this argument of a call."""
    return is_array(value) or (isinstance(value, list | tuple) and any(map(holds_array, value)))


def _share_memory(a: Array, b: Array) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(np.may_share_memory(a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return False
    (begin, end), (other_begin, other_end) = _bounds(a), _bounds(b)
    return begin < other_end and other_begin < end


def _bounds(array: Array) -> tuple[int, int]:
    """The addresses between which an array of the GPU lies; asked of the array, as `xp` may be watched."""
    if not array.size:
        return 0, 0
    reach = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    begin = array.data.ptr + sum(r for r in reach if r < 0)
    return begin, array.data.ptr + sum(r for r in reach if r > 0) + array.itemsize
