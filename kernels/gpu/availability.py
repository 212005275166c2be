"""Whether there is a GPU that this installation can compute on, and if not, what is missing."""

from __future__ import annotations

from functools import cache

INSTALL = "pip install 'tinygrad_cr[gpu]'"
INSUFFICIENT_DRIVER = 35
"""cudaErrorInsufficientDriver: the driver is too old for CuPy's CUDA, or there is none."""


@cache
def problem() -> str | None:
    """None if the GPU can be used, else the reason and the remedy."""
    try:
        import cupy
        from cupy.cuda import runtime
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "cupy":
            return f"device 'gpu' computes with CuPy, which is not installed: {INSTALL}"
        return f"CuPy is installed, and cannot be imported ({error}): {INSTALL}"
    except ImportError as error:
        return f"CuPy is installed, and cannot be imported ({error}): {INSTALL}"
    try:
        devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == INSUFFICIENT_DRIVER:
            return _driver_problem(cupy.__version__, runtime)
        return f"no CUDA device: {error}"
    return None if devices else "no CUDA device: the driver sees no GPU"


def _driver_problem(version: str, runtime: object) -> str:
    built, driver = runtime.runtimeGetVersion(), runtime.driverGetVersion()  # type: ignore[attr-defined]
    if not driver:
        return f"no CUDA device: there is no NVIDIA driver (CuPy {version} is installed): install the driver"
    return (
        f"CuPy {version} is built for CUDA {_dotted(built)}, the driver supports CUDA {_dotted(driver)} at most: "
        f"update the driver, or install the CuPy for it (cupy-cuda{driver // 1000}x)"
    )


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
