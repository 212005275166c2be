"""Backends: the same kernels computed by different means.

``backend(name)`` returns an object with one function for each method of `interface.Kernels`, and with `xp`, the array
library whose arrays they take. A backend overrides what is hot and inherits everything else from `reference.py`.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple, cast

import numpy

from .aligned import aligned, on_a_line, owns
from .interface import BACKWARD, KERNELS, Array, BackendError, Kernels

__all__ = [
    "BACKWARD",
    "DEVICES",
    "KERNELS",
    "Array",
    "BackendError",
    "Compilation",
    "Kernels",
    "aligned",
    "available",
    "backend",
    "compilation",
    "fuse",
    "num_threads",
    "on_a_line",
    "out_of_memory",
    "owns",
    "permutations",
    "set_num_threads",
    "set_tf32",
    "tf32",
]

_FUSED = {
    "affine": "affine",
    "affine_backward": "affine",
    "affine_relu_dropout": "affine",
    "affine_relu_dropout_backward": "affine",
    "relu": "dropout",
    "relu_backward": "dropout",
    "dropout": "dropout",
    "softmax_cross_entropy": "softmax",
    "mean_squared_error": "softmax",
    "sgd": "updates",
    "adam": "updates",
    "gather": "batches",
    "philox": "philox",
}
_OF_A_NETWORK = {"feed_forward": "layers", "feed_forward_backward": "layers"}
_FAMILIES: dict[str, dict[str, str]] = {"reference": {}, "cpu": _FUSED | _OF_A_NETWORK, "gpu": _FUSED}
"""For each backend, the module that holds its own version of a kernel."""

DEVICES = tuple(_FAMILIES)
"""The names of all backends, also of those that this machine cannot run."""


class Compilation(NamedTuple):
    """What this process did to have its kernels compiled: a kernel counts once for each signature it was called with.

    Attributes:
        compiled: were compiled here.
        loaded: came from disk instead.
        kept: so many of both are on disk now.
        folders: where those lie.
    """

    compiled: int
    loaded: int
    kept: int
    folders: tuple[str, ...]


class _Backend:
    """Kernels looked up on first use: naming a backend does not import its compiler."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Whether its arrays are NumPy's: reading a number from one waits for nothing.
        self.host = name != "gpu"
        self.xp = numpy if self.host else _gpu_device().xp

    def to_numpy(self, array: Array) -> Any:
        """One of its arrays as NumPy's: the same memory if it is one already, else a copy, which waits for the GPU."""
        return array if self.host else _gpu_device().to_numpy(array)

    def empty(self, shape: Any, dtype: Any) -> Array:
        """One of its arrays, whatever is in it, that begins on a cache line."""
        array = self.xp.empty(shape, dtype)
        return on_a_line(array) if self.host else array

    def __getattr__(self, kernel: str) -> Any:
        if kernel not in KERNELS:
            raise AttributeError(f"backend {self.name!r} has no kernel {kernel!r}")
        family = _FAMILIES[self.name].get(kernel)
        module = f".{self.name}.{family}" if family else ".reference"
        function = getattr(importlib.import_module(module, __name__), kernel)
        setattr(self, kernel, function)
        return function

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return backend, (self.name,)


_backends: dict[str, Kernels] = {}


def backend(name: str) -> Kernels:
    """The backend called `name`: "cpu" (numba), "gpu" (CUDA) or "reference" (plain array code, the specification).

    Raises `BackendError` for a name that nobody knows, and for "gpu" with the reason why this machine cannot.

    >>> backend("cpu").name
    'cpu'
    """
    found = _backends.get(name)
    if found is not None:
        return found
    if name not in _FAMILIES:
        raise BackendError(f"unknown backend {name!r}: this machine has {', '.join(available())}")
    problem = _gpu_problem() if name == "gpu" else None
    if problem:
        raise BackendError(f"{problem}; this machine has {', '.join(available())}")
    return _backends.setdefault(name, cast("Kernels", _Backend(name)))


def fuse(calls: list[Any], name: str = "cpu") -> tuple[list[Any], dict[tuple[int, int], Any]]:
    """A list of (function, arguments, member) with calls of a backend joined, and where their numbers went.

    What was joined stands in the list as one object: see `cpu.program.Tables`, and `gpu.program.Launches`, which takes
    them all.

    >>> fuse([])
    ([], {})
    """
    if name == "gpu":
        launches = importlib.import_module(".gpu.program", __name__).Launches(calls)
        return [launches], launches.moved
    if not any(str(getattr(function, "__module__", "")).startswith(f"{__name__}.cpu") for function, _, _ in calls):
        return list(calls), {}
    joined, moved = importlib.import_module(".cpu.program", __name__).fuse(calls)
    return joined, moved


def permutations(draws: Array, n: int) -> Array:
    """Shuffles of ``arange(n)``, int64 [m, n], on the host for every device: one for each (seed, draw, stream).

    Block i of a draw gives the keys of indices 2 i and 2 i + 1, two words each, the upper one first. The lowest bits of
    a key, as many as an index has, are replaced by its index: no two are equal, and their order is the shuffle.

    Args:
        draws: int64 [m, 3].
        n: at most 2**31.

    >>> permutations(numpy.array([[3, 0, 0]]), 4)
    array([[3, 2, 1, 0]])
    """
    out = numpy.empty((len(draws), n), numpy.int64)
    if out.size:
        bits = max(1, (n - 1).bit_length())
        importlib.import_module(".cpu.shuffles", __name__).permutations(draws, bits, out)
    return out


def compilation() -> Compilation:
    """The kernels of the CPU backend that this process has called so far, compiled or loaded from disk.

    >>> kernels = backend("cpu")
    >>> kernels.relu(numpy.array([-1.0]), numpy.empty(1))
    >>> compilation().compiled + compilation().loaded > 0
    True
    """
    return Compilation(*importlib.import_module(".cpu.compiling", __name__).statistics())


def num_threads() -> int:
    """How many threads the CPU backend computes with, the caller's included.

    Raises:
        BackendError: TINYGRAD_CR_NUM_THREADS holds something else than a number of threads that this machine has.

    >>> num_threads() >= 1
    True
    """
    threads = importlib.import_module(".cpu.threads", __name__)
    return int(threads.pool.board[threads.THREADS])


def set_num_threads(threads: int) -> None:
    """Compute with so many threads from now on.

    Raises:
        BackendError: fewer than 1, or more than the cores this process may use.

    >>> set_num_threads(num_threads())
    """
    module = importlib.import_module(".cpu.threads", __name__)
    module.pool.resize(module.checked(threads, "the number of threads"))


def out_of_memory(error: Exception) -> tuple[int | None, int, int] | None:
    """What an error of the GPU's memory is about: bytes asked for (None if unknown), free, and in all; None if another.

    >>> out_of_memory(MemoryError())
    """
    if "gpu" not in _backends:
        return None
    asked = _gpu_device().memory_asked(error)
    return None if asked is None else (asked or None, *_gpu_device().memory())


def set_tf32(allowed: bool) -> None:
    """Let products of float32 on the GPU be computed in TF32; only where there is a backend "gpu"."""
    importlib.import_module(".gpu.products", __name__).set_tf32(allowed)


def tf32() -> bool:
    """Whether that is allowed."""
    return cast("bool", importlib.import_module(".gpu.products", __name__).tf32())


def available() -> tuple[str, ...]:
    """The names of the backends that this machine can run, the fastest first.

    >>> "cpu" in available()
    True
    """
    return ("cpu", "reference") if _gpu_problem() else ("gpu", "cpu", "reference")


def _gpu_device() -> Any:
    return importlib.import_module(".gpu.device", __name__)


def _gpu_problem() -> str | None:
    """Why there is no backend "gpu" here; None if there is."""
    return cast("str | None", importlib.import_module(".gpu.availability", __name__).problem())
