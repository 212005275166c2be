"""What the figures were measured on: processor, caches, memory and versions. No names of hosts, no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.workers import ROOT, python

PACKAGES = ("tinygrad_cr", "numpy", "scipy", "numba", "torch", "jax", "jaxlib", "scikit-learn", "matplotlib")
DEFAULT_L2 = 1 << 20
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def caches() -> dict[str, int]:
    """Bytes of each cache of the first core, such as {"L1d": 49152, "L2": 2097152}; empty where nothing tells."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size[:-1]) * _UNITS[size[-1]]
    return found


def l2_total() -> int:
    """Bytes of second-level cache over all cores, each having its own."""
    return caches().get("L2", DEFAULT_L2) * cores()


def describe() -> dict[str, Any]:
    """The machine and everything installed that the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "caches": caches(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "engine": _engine(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = (line.partition(":") for line in info.read_text().splitlines())
        fields: dict[str, str] = {}
        for key, _, value in pairs:
            fields.setdefault(key.strip(), value.strip())
        if "model name" in fields:
            wide = "AVX-512" if "avx512f" in fields.get("flags", "") else "AVX2"
            return f"{fields['model name']} ({wide}, family {fields.get('cpu family')}, model {fields.get('model')})"
    return platform.processor() or platform.machine()


def _engine() -> str:
    """Whether the engine that workers import is compiled, see setup.py."""
    program = python("from tinygrad_cr import tape; print(tape.__file__)")
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return "plain Python" if done.stdout.strip().endswith(".py") else "compiled by Cython"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the tree, with a plus sign if it was changed since."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
