"""What the figures were measured on. No names of hosts, no paths."""

from __future__ import annotations

import subprocess
from importlib.metadata import distributions
from typing import Any

from bench.machine import describe

ASKED = {
    "name": "name",
    "driver": "driver_version",
    "memory": "memory.total",
    "memory_used": "memory.used",
    "clock": "clocks.sm",
    "most_clock": "clocks.max.sm",
    "memory_clock": "clocks.mem",
    "power_limit": "power.limit",
    "temperature": "temperature.gpu",
}
BEGINNINGS = ("cuda-", "cupy", "jax", "nvidia-cublas", "nvidia-cuda-", "torch", "triton")


def graphics() -> dict[str, str]:
    """The GPU as nvidia-smi sees it now; empty where there is no such program."""
    fields = ",".join(ASKED.values())
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = done.stdout.strip().splitlines()
    return dict(zip(ASKED, (part.strip() for part in lines[0].split(",")), strict=False)) if lines else {}


def cuda() -> dict[str, str]:
    """CUDA as CuPy sees it."""
    try:
        from cupy.cuda import runtime

        version = {"runtime": runtime.runtimeGetVersion(), "driver": runtime.driverGetVersion()}
    except Exception:  # CuPy raises what it likes where there is no driver
        return {}
    return {name: f"{number // 1000}.{number % 1000 // 10}" for name, number in version.items()}


def machine(device: str) -> dict[str, Any]:
    """Everything."""
    found = describe()
    if device == "gpu":
        found |= {"gpu": graphics(), "cuda": cuda()}
    versions = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    found["versions"] |= {n: v for n, v in sorted(versions.items()) if n.startswith(BEGINNINGS)}
    return found
