"""What there is to say about devices: where an array lies, the way between them, memory, and TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_cr import kernels
from tinygrad_cr.errors import DeviceError, DeviceMemoryError, OptionError
from tinygrad_cr.kernels import Array, BackendError, Kernels, backend


def find_backend(device: str) -> Kernels:
    """The backend of that name, or a `DeviceError` that says which there are."""
    if not isinstance(device, str):
        raise DeviceError(f"a device is named, like 'cpu' or 'gpu', got {device!r}")
    try:
        return backend(device)
    except BackendError as error:
        raise DeviceError(str(error)) from None


def lies_on_gpu(value: Any) -> bool:
    """Whether this is an array of CuPy, PyTorch or another library, or a tensor, in the memory of a GPU.

    >>> lies_on_gpu(np.ones(3))
    False
    """
    try:
        return hasattr(value, "__cuda_array_interface__")
    except RuntimeError:  # PyTorch's answer for a tensor that requires grad
        return True


def moved(array: Array, source: Kernels, target: Kernels) -> Array:
    """An array of one backend as that of another: the same memory between those of the host, else a copy."""
    if source is target or (source.host and target.host):
        return array
    if target.host:
        return source.to_numpy(array)
    with device_memory():
        return target.xp.asarray(array)


def assign(array: Array, values: Any, target: Kernels) -> None:
    """Copy NumPy's values into an array of a backend; on a GPU without asking for memory, where it lies in one piece.

    >>> array = np.zeros(2)
    >>> assign(array, np.array([1.0, 2.0]), backend("cpu"))
    >>> array
    array([1., 2.])
    """
    if not target.host and array.flags.c_contiguous:
        array.set(values)
    else:
        array[...] = values if target.host else moved(values, backend("cpu"), target)


def host_copy(array: Array, source: Kernels) -> Any:
    """A copy of an array of a backend in NumPy's memory."""
    return np.array(array) if source.host else source.to_numpy(array)


def to_numpy(value: Any) -> Any:
    """Anything as a NumPy array; what lies on the GPU is copied, which waits for it.

    >>> to_numpy([1, 2])
    array([1, 2])
    """
    if lies_on_gpu(value):
        gpu = find_backend("gpu")
        return gpu.to_numpy(gpu.xp.asarray(value))
    return np.asarray(value)


@contextmanager
def device_memory() -> Iterator[None]:
    """Stands around work on the GPU: where its memory does not suffice, the error says what was asked and what is free.

    Raises:
        DeviceMemoryError: work inside asked for memory that there is not.

    >>> with device_memory():
    ...     array = np.zeros(3)
    """
    try:
        yield
    except DeviceMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        found = kernels.out_of_memory(error)
        if found is None:
            raise
        asked, free, total = found
        wanted = "more memory" if asked is None else _size(asked)
        raise DeviceMemoryError(
            f"the GPU was asked for {wanted}, {_size(free)} of its {_size(total)} are free: take smaller batches, "
            "fewer members or float32, or device='cpu'"
        ) from None


def set_tf32(allowed: bool) -> None:
    """Let matrix products of float32 on the GPU round their factors to 10 bits of mantissa (TF32).

    Tensor cores multiply these several times as fast; results then agree with those of the CPU to three digits instead
    of six. It is off at the start.

    Raises:
        OptionError: neither True nor False.
        DeviceError: this machine has no GPU.
    """
    if not isinstance(allowed, bool | np.bool_):
        raise OptionError(f"set_tf32 wants True or False, got {allowed!r}")
    find_backend("gpu")
    kernels.set_tf32(bool(allowed))


def tf32() -> bool:
    """Whether products on the GPU may round as `set_tf32` says.

    Raises:
        DeviceError: this machine has no GPU.
    """
    find_backend("gpu")
    return kernels.tf32()


def _size(size: int) -> str:
    """A number of bytes with a unit.

    >>> _size(3 * 2**30), _size(100)
    ('3.0 GiB', '100 bytes')
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 2**power:
            return f"{size / 2**power:.1f} {unit}"
    return f"{size} bytes"
