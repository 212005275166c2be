"""The `.cu` files compiled for the host, and their grids run there, threads that wait for each other included."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cr.kernels.gpu.sources import source

HEADER = Path(__file__).with_name("cuda_on_host.h")
# No contraction, as in kernels/gpu/sources.py; a fortified longjmp takes a change of stacks for an attack.
COMPILER = ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w"]
TYPES = {
    "whole": np.int64,
    "long long": np.int64,
    "double": np.float64,
    "float": np.float32,
    "unsigned": np.uint32,
    "unsigned char": np.uint8,
}
LARGEST_GRID = (2**31 - 1, 65535, 65535)
LARGEST_BLOCK = (1024, 1024, 64)
THREADS_A_BLOCK = 1024
SHARED_BYTES = 48 * 1024
_running = threading.Lock()


def problem() -> str | None:
    """Why this machine cannot run kernels on the host; None if it can."""
    found = shutil.which(COMPILER[0])
    return None if found else f"a simulated GPU compiles its kernels for the host, and {COMPILER[0]} is not installed"


class Parameter(NamedTuple):
    """Of a kernel: its name, its type without const, and whether it is an array of them."""

    name: str
    type: str
    array: bool


@cache
def signatures(family: str) -> dict[str, tuple[Parameter, ...]]:
    """The kernels of a ``.cu`` file with their parameters, read from its text."""
    found = re.findall(
        r'extern "C" __global__ void(?: __launch_bounds__\([^)]*\))? (\w+)\(([^)]*)\)', source(family), re.DOTALL
    )
    return {name: tuple(_parameter(text) for text in parameters.split(",")) for name, parameters in found}


def _parameter(text: str) -> Parameter:
    words = text.replace("*", " * ").replace("__restrict__", " ").split()
    kind = " ".join(word for word in words[:-1] if word not in ("const", "*"))
    return Parameter(words[-1], kind, "*" in words)


def run(
    family: str,
    kernel: str,
    real: str,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[Any],
    shared: int = 0,
    *,
    backwards: bool = False,
) -> None:
    """Run a kernel of ``family.cu`` over its grid, and come back when it is done.

    Args:
        real: "float" or "double"; what REAL stands for.
        grid, block: how many blocks, and threads in each, in x, y and z.
        arguments: NumPy arrays, which are passed by their address, None, whole numbers and floats, in the kernel's
            order.
        shared: bytes of dynamic shared memory.
        backwards: the last block and the last thread first. Where a barrier is missing, the result changes.

    Raises:
        TypeError: an argument of another kind than the kernel's parameter.
        ValueError: a grid or a block that no GPU runs.
        RuntimeError: threads wait for each other for ever, or exchange with lanes that take no part.
    """
    _check_sizes(grid, block, shared)
    parameters = signatures(family)[kernel]
    if len(arguments) != len(parameters):
        raise TypeError(f"{kernel} of {family}.cu has {len(parameters)} parameters, got {len(arguments)} arguments")
    values = np.array([_bits(kernel, *pair, real) for pair in zip(parameters, arguments, strict=True)], np.uint64)
    function = getattr(_library(family, real), f"run_{kernel}")
    function.restype = ctypes.c_char_p
    addresses = values.ctypes.data + values.itemsize * np.arange(values.size, dtype=np.uint64)
    sizes = [(ctypes.c_uint * 3)(*size) for size in (grid, block)]
    with _running:
        problem = function(ctypes.c_void_p(addresses.ctypes.data), *sizes, ctypes.c_ulong(shared), int(backwards))
    if problem:
        raise RuntimeError(f"{kernel} of {family}.cu: {problem.decode()}")


def _check_sizes(grid: Sequence[int], block: Sequence[int], shared: int) -> None:
    if not all(0 < size <= limit for size, limit in zip(grid, LARGEST_GRID, strict=True)):
        raise ValueError(f"a grid of {tuple(grid)} blocks; each number must be from 1 to {LARGEST_GRID}")
    sizes = zip(block, LARGEST_BLOCK, strict=True)
    if not all(0 < size <= limit for size, limit in sizes) or np.prod(block) > THREADS_A_BLOCK:
        raise ValueError(f"a block of {tuple(block)} threads; a block holds {THREADS_A_BLOCK} at most")
    if not 0 <= shared <= SHARED_BYTES:
        raise ValueError(f"{shared} bytes of shared memory; a block has {SHARED_BYTES}")


def _bits(kernel: str, parameter: Parameter, argument: Any, real: str) -> int:
    """An argument as the 64 bits that are passed."""
    what = f"{kernel}: {parameter.name} is {parameter.type}{' *' if parameter.array else ''}"
    if parameter.array:
        if argument is None:
            return 0
        wanted = np.dtype(TYPES[real if parameter.type == "REAL" else parameter.type])
        if not isinstance(argument, np.ndarray) or argument.dtype != wanted:
            raise TypeError(f"{what}, got {getattr(argument, 'dtype', type(argument))}")
        return argument.ctypes.data
    if parameter.type == "double":
        if not isinstance(argument, float | np.floating):
            raise TypeError(f"{what}, got {argument!r}")
        return int(np.float64(argument).view(np.uint64))
    if parameter.type not in ("whole", "long long") or not isinstance(argument, int | np.integer):
        raise TypeError(f"{what}, got {argument!r}")
    return int(np.int64(argument).view(np.uint64))


@cache
def _library(family: str, real: str) -> ctypes.CDLL:
    text = _host_source(family)
    command = [*COMPILER, f"-DREAL={real}", "-fPIC", "-shared", "-x", "c++"]
    key = hashlib.sha256("\0".join([text, HEADER.read_text(), *command]).encode()).hexdigest()[:32]
    path = _folder() / f"{family}-{real}-{key}.so"
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        done = subprocess.run([*command, "-", "-o", str(made)], input=text, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"g++ does not compile {family}.cu for the host:\n{done.stderr}")
        made.replace(path)
    return ctypes.CDLL(str(path))


def _folder() -> Path:
    """Where compiled libraries are kept: this user's alone, as they are loaded without a question."""
    folder = Path(tempfile.gettempdir()) / f"tinygrad_cr-simulated-gpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to somebody else: remove it, or set TMPDIR")
    return folder


def _host_source(family: str) -> str:
    """The family's text with a function ``run_<kernel>`` for each kernel."""
    text = re.sub(
        r"extern __shared__ (\w+) (\w+)\[\];", r"\1 *const \2 = (\1 *)cuda_on_host::dynamic_memory;", source(family)
    )
    return f'#include "{HEADER}"\n#line 1 "{family}.cu"\n{text}' + "".join(
        _entry(name, parameters) for name, parameters in signatures(family).items()
    )


def _entry(kernel: str, parameters: Sequence[Parameter]) -> str:
    given = ", ".join(f"*({p.type} {'*' if p.array else ''} *)values[{i}]" for i, p in enumerate(parameters))
    return f"""
static void call_{kernel}(void *const *values) {{ {kernel}({given}); }}
extern "C" const char *run_{kernel}(
    void *const *values, const unsigned *grid, const unsigned *block, unsigned long shared, int backwards) {{
    return cuda_on_host::run(call_{kernel}, values, grid, block, shared, backwards);
}}
"""
