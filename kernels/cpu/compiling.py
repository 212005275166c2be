"""How kernels are compiled: lazily, kept on disk where that is possible, releasing the GIL.

numba's own cache notices edits of the file that holds a function, not of the files it takes helpers from; it fails
where nothing can be written or a file is damaged; and two processes that write at once can leave it with one
signature's code under another's name, which crashes. Here a compiled signature is a file of its own. It is named by
what it was compiled for and begins with a digest of that, of every source and of its content: a file that is stale,
damaged or another's does not match, and is compiled anew and replaced. Files appear whole, so nobody needs a lock.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy
from numba import njit
from numba.extending import intrinsic

from .parts import AS_PARTS

try:
    # Not public; all of them are where they are since numba 0.61. Without them numba's own cache serves.
    from numba.core.compiler import CompileResult
    from numba.core.serialize import dumps
    from numba.misc.appdirs import AppDirs
except ImportError:
    _KNOWN_NUMBA = False
else:
    _KNOWN_NUMBA = True

# "numpy" divides without asking whether the divisor is 0: the question keeps a loop from being vectorised.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# Without entries for Python and C: each would be compiled as well.
_HELPER_OPTIONS = _OPTIONS | {"inline": "never", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_HERE = Path(__file__).parent
_DIGEST_BYTES = 32
_kernels: list[Any] = []
_preparations: dict[Any, list[Callable[[], None]]] = {}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first call; where no folder is writable, compile anew in each process instead of failing.

    Floating-point operations round where they stand, none is fused or reordered: a kernel gives the same bits alone,
    for other arguments, and as a part of a larger function (`program.run`), whatever the compiler makes of it there.
    """
    dispatcher = njit(**_OPTIONS)(function)
    # The digest covers the sources of this folder: a function from elsewhere is left to numba.
    ours = _SOURCES and function.__module__.rpartition(".")[0] == __package__
    if ours and _KNOWN_NUMBA and hasattr(dispatcher, "_cache"):
        dispatcher._cache = _Cache(function)
    else:
        with suppress(RuntimeError, AttributeError):
            dispatcher.enable_caching()
    _kernels.append(dispatcher)
    return dispatcher


def calling_kernel(function: Callable[..., Any]) -> Any:
    """A kernel that calls others by address (`addresses.py`), for the dtype of its first argument."""
    dispatcher = kernel(function)
    cache = getattr(dispatcher, "_cache", None)
    if isinstance(cache, _Cache):
        cache.calls_others = True
    else:
        # numba's own cache tells nobody what it loads.
        for dtype in tuple(_preparations):
            prepare_kernels(dtype)
    return dispatcher


def helper(function: Callable[..., Any]) -> Any:
    """A function that only kernels call, compiled into each of them."""
    return njit(**_HELPER_OPTIONS, **AS_PARTS)(function)


def reordering_helper(function: Callable[..., Any]) -> Any:
    """A helper whose sums may be reordered, and so vectorised; NaN and inf stay visible."""
    return njit(fastmath={"reassoc", "contract"}, **_HELPER_OPTIONS, **AS_PARTS)(function)


def separate_helper(function: Callable[..., Any]) -> Any:
    """A helper that is optimised by itself before it becomes a part of a kernel: that takes longer to compile."""
    return njit(**_HELPER_OPTIONS)(function)


def primitive(function: Callable[..., Any]) -> Any:
    """What numba cannot say, written as LLVM instructions: the function types its arguments and returns the writer."""
    return intrinsic(function)


def before_kernels(dtype: Any, prepare: Callable[[], None]) -> None:
    """Call a function before the first `calling_kernel` for this dtype is compiled or loaded."""
    _preparations.setdefault(dtype, []).append(prepare)


def prepare_kernels(dtype: Any) -> None:
    """Do what `before_kernels` was told, once. Compiling and loading come here under numba's lock."""
    for prepare in _preparations.get(dtype, ()):
        prepare()
    # Only now: if one was interrupted, the next kernel tries again.
    _preparations.pop(dtype, None)


def statistics() -> tuple[int, int, int, tuple[str, ...]]:
    """Signatures that this process compiled, those it loaded, how many of both are on disk, and in which folders."""
    found = [kernel.stats for kernel in _kernels if hasattr(kernel, "stats")]
    compiled = [sum(stats.cache_misses.values()) for stats in found]
    loaded = [sum(stats.cache_hits.values()) for stats in found]
    used = [(a + b, stats.cache_path) for a, b, stats in zip(compiled, loaded, found, strict=True) if a + b]
    kept = sum(count for count, folder in used if folder)
    return sum(compiled), sum(loaded), kept, tuple(sorted({folder for _, folder in used if folder}))


def _digest_of_sources() -> bytes:
    """Of every file that a kernel's code may come from: this folder, and the constants above it; empty if unknown."""
    digest = hashlib.sha256()
    files = [*_HERE.glob("*.py"), *_HERE.parent.glob("*.py")]
    try:
        for path in sorted(files):
            digest.update(path.read_bytes())
    except OSError:
        return b""
    return digest.digest() if files else b""


def _folders() -> list[Path]:
    """Where compiled code is looked for and, in the first that can be written, kept."""
    chosen = os.environ.get("TINYGRAD_CR_CACHE") or getattr(numba.config, "CACHE_DIR", "")
    # Installations that share a folder must not replace each other's files.
    name = f"kernels-{hashlib.sha256(str(_HERE).encode()).hexdigest()[:12]}"
    if chosen:
        return [Path(chosen).absolute() / name]
    folders = [_HERE / "__pycache__"]
    if _KNOWN_NUMBA:
        users = Path(AppDirs("tinygrad_cr", appauthor=False).user_cache_dir)
        # Relative, and so a stray folder wherever the program runs, where the system knows of no home.
        folders += [users / name] if users.is_absolute() else []
    return folders


_SOURCES = _digest_of_sources()
_FOLDERS = _folders()
_VERSIONS = (numba.__version__, llvmlite.__version__, numpy.__version__, sys.version)


class _Cache:
    """The compiled signatures of one function, in the form that numba asks its dispatcher's `_cache` for.

    `cache_path` is the folder that served the last signature, None if it could be kept nowhere.
    """

    calls_others = False

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.cache_path: str | None = None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function, or None, in whatever way its file fails to give it."""
        target_context.refresh()
        if self.calls_others:
            prepare_kernels(getattr(getattr(sig, "args", sig)[0], "dtype", None))
        for folder in _FOLDERS:
            # Whatever is wrong here, compiling helps; and it replaces the file.
            with suppress(Exception):
                key = self._key(sig, target_context.codegen())
                content = (folder / self._name(key)).read_bytes()
                payload = memoryview(content)[_DIGEST_BYTES:]
                if content[:_DIGEST_BYTES] == _digest(key, payload):
                    result = CompileResult._rebuild(target_context, *pickle.loads(payload))
                    self.cache_path = str(folder)
                    return result
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled function if it can be kept: code that holds addresses of this process cannot."""
        self.cache_path = None
        # A disk that is full or read-only, an object that does not pickle: the code at hand is as good without a copy.
        with suppress(Exception):
            if data.lifted or data.library.has_dynamic_globals:
                return
            key = self._key(sig, data.codegen)
            payload = dumps(data._reduce())
            for folder in _FOLDERS:
                with suppress(OSError):
                    _write(folder / self._name(key), _digest(key, payload) + payload)
                    self.cache_path = str(folder)
                    return

    def flush(self) -> None:
        """Forget every signature; numba asks for it before it compiles a function anew."""
        for folder in _FOLDERS:
            for path in folder.glob(f"{self._function.__name__}-*.nbc"):
                with suppress(OSError):
                    path.unlink()

    def _key(self, sig: Any, codegen: Any) -> str:
        """All that tells this code from other code but the sources: a file with old sources is replaced, not kept."""
        function = self._function
        values = tuple(cell.cell_contents for cell in function.__closure__ or ())
        closure = hashlib.sha256(dumps(values)).hexdigest() if values else ""
        return repr((_VERSIONS, function.__module__, function.__qualname__, closure, sig, codegen.magic_tuple()))

    def _name(self, key: str) -> str:
        return f"{self._function.__name__}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"


def _digest(key: str, payload: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(_SOURCES + key.encode())
    digest.update(payload)
    return digest.digest()


def _write(path: Path, content: bytes) -> None:
    """Put a file in place whole: no reader meets half of it, and of two writers either wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
