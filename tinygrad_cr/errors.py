"""Typed errors: each says what was given, what was wanted and how to get there.

Every error is a `TinygradError` and also the built-in exception a caller would expect
(`ValueError`, `TypeError`, ...), so both ``except TinygradError`` and ``except ValueError`` work.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class TinygradError(Exception):
    """Base class of every error this package raises on purpose."""


class ShapeError(TinygradError, ValueError):
    """Shapes that do not fit together; the message holds all of them."""


class DTypeError(TinygradError, TypeError):
    """A data type the operation does not take, or two that may not be mixed."""


class DeviceError(TinygradError, RuntimeError):
    """A backend this machine does not have, or tensors that live on different ones."""


class DeviceMemoryError(TinygradError, MemoryError):
    """The memory of a GPU does not suffice; the message says how much was asked for, and how much is free."""


class IndexingError(TinygradError, IndexError):
    """An index outside its axis, or of a kind that does not index."""


class GraphError(TinygradError, RuntimeError):
    """A backward pass that cannot run: the graph was freed, or was never recorded."""


class CaptureError(TinygradError, RuntimeError):
    """Something inside a compiled function that a replay could not do again."""


class GradientError(TinygradError, AssertionError):
    """An analytic gradient that disagrees with finite differences."""


class DataError(TinygradError, ValueError):
    """Data that cannot be learned from: empty, NaN, inf, labels out of range, a broken file."""


class OptionError(TinygradError, ValueError):
    """An option outside its range, or a name nobody knows."""


class StateDictError(TinygradError, KeyError):
    """A state dict with missing, unexpected or misshapen entries. Nothing was loaded."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; these messages are meant to be read.
        return str(self.args[0]) if self.args else ""


class RunError(TinygradError, OSError):
    """A run folder that already holds a run, or does not hold a whole one."""


class RunTakenError(RunError):
    """A run folder that another run, or somebody's files, came to first. Nothing was written."""


class CacheError(TinygradError, OSError):
    """Compiled kernels that could be kept nowhere. They work, but every process compiles them anew."""


class DownloadError(TinygradError, OSError):
    """A data set that could not be fetched, or whose bytes are not the expected ones."""


class DivergenceError(TinygradError, ArithmeticError):
    """Training reached an infinite or undefined cost."""


class ExecutorError(TinygradError, RuntimeError):
    """An executor that ended, or could not run a task. What had finished was handed over before."""


class TaskError(ExecutorError):
    """A task that was lost with its worker again and again."""


class ExtraError(TinygradError, ImportError):
    """An optional library that cannot be imported; the message names the extra that brings it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Stands around the imports of an optional library, and says how to get it where they fail.

    Raises:
        ExtraError: an import inside failed.

    >>> with extra("plot"):
    ...     import no_such_library
    Traceback (most recent call last):
    tinygrad_cr.errors.ExtraError: No module named 'no_such_library': install it with pip install 'tinygrad_cr[plot]'
    """
    try:
        yield
    except ImportError as error:
        raise ExtraError(
            f"{error}: install it with pip install 'tinygrad_cr[{name}]'", name=error.name, path=error.path
        ) from error


def unknown_name(kind: str, given: object, known: Iterable[str]) -> OptionError:
    """The error for a name nobody knows, with the nearest match and the whole list.

    >>> unknown_name("optimizer", "sdg", ["sgd", "adam"]).args[0]
    "unknown optimizer 'sdg': did you mean 'sgd'? Known: adam, sgd"
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return OptionError(f"unknown {kind} {given!r}: {hint}Known: {', '.join(names)}")
