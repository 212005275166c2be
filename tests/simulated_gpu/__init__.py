"""A GPU that is simulated on the host, so that everything above it is tested where there is none.

`install` makes ``backend("gpu")`` use it. It is strict where a real one is: see `arrays`.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

from tinygrad_cr import kernels

from . import arrays
from .state import CaptureRefusedError, State, WaitError, state

__all__ = ["CaptureRefusedError", "State", "WaitError", "install", "state"]

_GPU = f"{kernels.__name__}.gpu"
_KEPT = ("availability", "batch", "cublas", "sources")


@contextmanager
def install() -> Iterator[State]:
    """Inside, this machine has a GPU. What holds kernels of it must be made inside, too.

    Raises:
        RuntimeError: there is a real one.
    """
    availability = importlib.import_module(f"{_GPU}.availability")
    if availability.problem() is None:
        raise RuntimeError("this machine has a GPU: nothing is to be simulated")
    package = importlib.import_module(_GPU)
    before = dict(sys.modules)
    names = dict(vars(package))
    problem = availability.problem
    stand_in = importlib.import_module(f"{__name__}.device")
    scipy = types.ModuleType("cupyx.scipy.special")
    scipy.erf = _erf  # type: ignore[attr-defined]
    _forget_families()
    sys.modules[f"{_GPU}.device"] = stand_in
    package.device = stand_in
    sys.modules[arrays.LIBRARY] = arrays.xp
    sys.modules["cupyx.scipy.special"] = scipy
    for name in ("cupyx", "cupyx.scipy"):
        sys.modules[name] = types.ModuleType(name)
    availability.problem = lambda: None
    state.reset()
    try:
        yield state
    finally:
        availability.problem = problem
        _forget_families()
        for name in (f"{_GPU}.device", arrays.LIBRARY, "cupyx", "cupyx.scipy", "cupyx.scipy.special"):
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]
        vars(package).clear()
        vars(package).update(names)


def _forget_families() -> None:
    """Modules that hold functions of the device by name are imported anew, and looked up anew."""
    kernels._backends.pop("gpu", None)
    for name in list(sys.modules):
        if name.startswith(f"{_GPU}.") and name.rpartition(".")[2] not in _KEPT:
            del sys.modules[name]


def _erf(x: arrays.ndarray) -> arrays.ndarray:
    """What `cupyx.scipy.special` has."""
    from scipy.special import erf

    return arrays.computed(lambda: erf(arrays.host(x)))
