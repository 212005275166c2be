"""`SharedData`: a data set that many tasks need and none carries."""

from __future__ import annotations

import glob
import hashlib
import mmap
import os
import pickle
import shutil
import socket
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

V = TypeVar("V")

ALIGNMENT = 64
"""Arrays begin at cache lines, as those that NumPy allocates nearly do."""

KEPT = 4
"""A worker keeps so many values it has read: a cluster's workers outlive the searches they work for."""


class MissingData(Exception):
    """A worker asked for data that it cannot find; who submitted its task sends it along the next time."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


class SharedData(Generic[V]):
    """A value with large arrays in it, small to pickle however often.

    When it is first pickled, the arrays go into a file. A worker maps the file into memory, once, so that
    workers on one machine share its pages; one that cannot see the file gets the arrays with a task, once, and
    keeps them. The file goes when the process that wrote it ends, or drops this object; that of one that was
    killed, when the next one is written there.

    Args:
        value: any picklable object, such as a tuple of data sets; it must not change any more.
        folder: where the file is to lie; a folder that all machines see spares sending the arrays to each worker. Left
            out, the folder for temporary files.

    >>> import numpy as np
    >>> shared = SharedData({"x": np.zeros(100_000)})
    >>> len(pickle.dumps(shared)) < 1000
    True
    """

    def __init__(self, value: V, folder: Path | str | None = None) -> None:
        self._value = value
        self._folder = None if folder is None else Path(folder)
        self._packed: _Packed | None = None
        self._lock = threading.Lock()

    @property
    def value(self) -> V:
        """The value; the same object each time in one process. Who writes into its arrays writes into a copy."""
        return self._value

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        with self._lock:
            if self._packed is None:
                self._packed = _pack(self._value, self._folder)
                _offered[self._packed.digest] = self._packed
        packed = self._packed
        return Reference, (packed.digest, packed.body, packed.sizes, packed.path)


class Reference:
    """What a worker has of a `SharedData`: where to find its value."""

    def __init__(self, digest: str, body: bytes, sizes: Sequence[int], path: str | None) -> None:
        self.digest, self.body, self.sizes, self.path = digest, body, sizes, path

    @property
    def value(self) -> Any:
        """The value, read when it is first asked for.

        Raises:
            MissingData: this process has not got it and cannot read its file.
        """
        with _lock:
            if self.digest in _loaded:
                _loaded.move_to_end(self.digest)
                return _loaded[self.digest]
            memory: Any = _received.pop(self.digest, None)
            if memory is None:
                memory = _mapped(self.path, self.body, self.digest)
            _loaded[self.digest] = pickle.loads(self.body, buffers=_cut(memory, self.sizes))
            while len(_loaded) > KEPT:
                _loaded.popitem(last=False)
            return _loaded[self.digest]

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Reference, (self.digest, self.body, self.sizes, self.path)


# Who has the value


class _Packed:
    """A value in pickled form: a small body, and its arrays one after another."""

    def __init__(self, body: bytes, buffers: Sequence[Any], folder: Path | None) -> None:
        self.body, self.buffers = body, buffers
        self.sizes = tuple(buffer.nbytes for buffer in buffers)
        content = self.content()
        self.digest = _digest(body, content)
        self.path: str | None = None
        try:
            self.path = self._write(content, folder)
        except OSError:
            # Then every worker asks for the data, and gets it with a task.
            return

    def content(self) -> bytes:
        """The arrays, each at its place."""
        pieces: list[Any] = []
        for buffer in self.buffers:
            pieces += [buffer, bytes(_padded(buffer.nbytes) - buffer.nbytes)]
        return b"".join(pieces)

    def _write(self, content: bytes, folder: Path | None) -> str:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        _clear(Path(tempfile.gettempdir()) if folder is None else folder)
        # A folder of its own: nobody else can have put a file of this name there before.
        own = tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=folder)
        weakref.finalize(self, _remove, own, os.getpid())
        path = Path(own) / f"{self.digest}.bin"
        path.write_bytes(content)
        return str(path.absolute())


def _pack(value: object, folder: Path | None) -> _Packed:
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return _Packed(body, [buffer.raw() for buffer in buffers], folder)


def _prefix() -> str:
    return f"tinygrad_cr-{socket.gethostname()}-"


def _clear(folder: Path) -> None:
    """Remove what processes of this machine left behind when they were killed."""
    for path in folder.glob(f"{glob.escape(_prefix())}*-*"):
        # From the right: another machine's name may begin with ours and a number.
        machine, owner, _ = path.name.rsplit("-", 2)
        if f"{machine}-" == _prefix() and owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name != "posix":
        # There, the question is asked by a call that would end the process.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


_offered: weakref.WeakValueDictionary[str, _Packed] = weakref.WeakValueDictionary()


def content(digest: str) -> bytes | None:
    """The arrays of shared data that this process offers, for a worker that asked; None if it does not, or no more."""
    packed = _offered.get(digest)
    return None if packed is None else packed.content()


# Who needs it

_lock = threading.Lock()
_loaded: OrderedDict[str, Any] = OrderedDict()
_received: dict[str, bytearray] = {}


def receive(digest: str, content: bytes) -> None:
    """Keep arrays that came with a task until its `Reference` asks for them."""
    with _lock:
        if digest not in _loaded:
            # Writable memory: kernels are compiled for arrays that are.
            _received[digest] = bytearray(content)


def _mapped(path: str | None, body: bytes, digest: str) -> mmap.mmap | bytes:
    if path is None:
        raise MissingData(digest)
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
    except OSError:
        raise MissingData(digest) from None
    if _digest(body, memory) != digest:
        raise MissingData(digest)
    return memory


def _cut(memory: Any, sizes: Sequence[int]) -> list[memoryview]:
    view, start, pieces = memoryview(memory), 0, []
    for size in sizes:
        pieces.append(view[start : start + size])
        start += _padded(size)
    return pieces


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _digest(body: bytes, content: Any) -> str:
    found = hashlib.blake2b(body, digest_size=16)
    found.update(content)
    return found.hexdigest()
