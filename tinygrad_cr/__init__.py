"""A small, fast deep-learning engine that tells you what is wrong with a training run."""

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_root = Path(__file__).parent
if not (_root / "kernels").exists():
    # A source checkout keeps kernels/ beside the package; installed, it is inside. Either way it is one module.
    _spec = importlib.util.spec_from_file_location("tinygrad_cr.kernels", _root.parent / "kernels" / "__init__.py")
    if _spec is None or _spec.loader is None:
        raise ImportError(f"no kernels beside {_root}")
    kernels = sys.modules["tinygrad_cr.kernels"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(kernels)

from tinygrad_cr import (  # noqa: E402 - they need the kernels above
    data,
    doctor,
    ensemble,
    nn,
    ops,
    optim,
    plots,
    schedules,
    train,
)
from tinygrad_cr.compile import compile  # noqa: E402
from tinygrad_cr.device import set_tf32, tf32  # noqa: E402
from tinygrad_cr.gradcheck import gradcheck  # noqa: E402
from tinygrad_cr.random import Generator  # noqa: E402
from tinygrad_cr.tape import no_grad  # noqa: E402
from tinygrad_cr.tensor import Tensor  # noqa: E402
from tinygrad_cr.threads import get_num_threads, set_num_threads  # noqa: E402

try:
    __version__ = version("tinygrad_cr")
except PackageNotFoundError:
    __version__ = "0+source"

__all__ = [
    "Generator",
    "Tensor",
    "compile",
    "data",
    "doctor",
    "ensemble",
    "get_num_threads",
    "gradcheck",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "plots",
    "schedules",
    "set_num_threads",
    "set_tf32",
    "tf32",
    "train",
]
