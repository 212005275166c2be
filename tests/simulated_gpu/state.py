"""What the simulated GPU has done so far, and what it refuses to do at the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class WaitError(AssertionError):
    """The host waited for the GPU where it must not."""


class CaptureRefusedError(RuntimeError):
    """Something that a CUDA graph cannot hold; CUDA calls it cudaErrorStreamCaptureUnsupported."""


class OutOfMemoryError(MemoryError):
    """As `cupy.cuda.memory.OutOfMemoryError`, with the same words."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")
        self._size, self._total, self._limit = size, total, limit


OutOfMemoryError.__module__ = "cupy.cuda.memory"


class State:
    """Counters, and the work that is being captured.

    Attributes:
        waits: how often something was copied to the host, or the host waited for the GPU otherwise.
        uploads: how often something was copied from the host.
        launches: kernels and products, not counting array operations.
        captured: the work since a capture began; None while work is done at once.
        memory: bytes that there are; an array that asks for more than half of it finds no room.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As at the start."""
        self.waits = self.uploads = self.launches = 0
        self.captured: list[Callable[[], Any]] | None = None
        self.memory = 2**34
        self._no_waits = False

    def wait(self, what: str) -> None:
        """The host stands still until the GPU has done everything it was told."""
        self.waits += 1
        if self.captured is not None:
            raise CaptureRefusedError(f"{what} waits for the GPU inside a capture")
        if self._no_waits:
            raise WaitError(f"{what} waits for the GPU")

    def upload(self, what: str) -> None:
        """Memory of the host is copied to the GPU: the host does not wait, but a graph would copy it again."""
        self.uploads += 1
        if self.captured is not None:
            raise CaptureRefusedError(f"{what} copies memory of the host inside a capture")

    def allocate(self, size: int) -> None:
        """Somebody asks for memory."""
        if size > self.memory // 2:
            raise OutOfMemoryError(size, self.memory // 2)

    def submit(self, work: Callable[[], Any]) -> None:
        """Do it, or remember it for the graph: what is captured is not done."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        """Inside, waiting for the GPU is a `WaitError`."""
        before, self._no_waits = self._no_waits, True
        try:
            yield
        finally:
            self._no_waits = before

    @contextmanager
    def capturing(self) -> Iterator[list[Callable[[], Any]]]:
        """Inside, work is collected instead of done."""
        if self.captured is not None:
            raise CaptureRefusedError("a capture inside a capture")
        self.captured = work = []
        try:
            yield work
        finally:
            self.captured = None


state = State()
