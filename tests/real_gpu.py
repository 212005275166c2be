"""A real GPU in the place of the simulated one, for tests that run on either."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest


class RealGpu:
    """What `simulated_gpu.State` is for a simulated one. What a real GPU cannot count or be told skips the test."""

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        """Inside, waiting for the GPU is an error, as far as CuPy notices."""
        import cupyx

        with ExitStack() as stack:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # It warns that it does not notice everything.
                stack.enter_context(cupyx.allow_synchronize(False))
            yield

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks for such, too
            raise AttributeError(name)
        pytest.skip(f"a real GPU has no {name!r} to look at")

    def __setattr__(self, name: str, value: Any) -> None:
        pytest.skip(f"a real GPU has no {name!r} to be set")
