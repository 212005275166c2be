"""How long a user waits: import, first step with nothing compiled, first step with a warm cache.

Each figure is a whole process, median of several, in turns. Caches of compiled code lie in a temporary folder that is
new for every cold start, but in a quick run; JAX, which keeps none by default, is given one too. Bytecode and the
operating system's file cache are warm in all of them.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from typing import Any

from bench.workers import python

_OURS = """
import numpy as np
import tinygrad_cr
from tinygrad_cr import Tensor, nn, ops, optim
model = nn.MLP([784, 256, 10], dropout=0.5, generator=0)
optimizer = optim.SGD(model, lr=0.1, momentum=0.9)
def step(x, y):
    optimizer.zero_grad()
    loss = ops.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss
{wrap}
for _ in range({calls}):
    step(Tensor(np.zeros((128, 784), "float32")), np.zeros(128, int)).item()
"""
_TORCH = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
def loss_of(x, y):
    return nn.functional.cross_entropy(model(x), y)
{wrap}
loss = loss_of(torch.zeros(128, 784), torch.zeros(128, dtype=torch.int64))
loss.backward()
optimizer.step()
loss.item()
"""
_JAX = """
import numpy as np
from bench.contestants.jax import Training
from bench.inputs import Inputs
from bench.workloads import Task
task = Task("first", "start", "train", (784, 256, 10), 128, 128)
Training(task, Inputs(np.zeros((128, 784), "float32"), np.zeros(128, int)), "unsafe_rbg", False).epoch()
"""
_SKLEARN = """
import numpy as np
from sklearn.neural_network import MLPClassifier
model = MLPClassifier((256,), solver="sgd", batch_size=128)
model.partial_fit(np.zeros((128, 784), "float32"), np.arange(128) % 10, classes=np.arange(10))
"""

PROGRAMS = {
    "eager": ("import tinygrad_cr", _OURS.format(wrap="", calls=1)),
    # The first call captures; the first replay, whose code is compiled apart, is the second.
    "compiled": ("import tinygrad_cr", _OURS.format(wrap="step = tinygrad_cr.compile(step)", calls=2)),
    "pytorch": ("import torch", _TORCH.format(wrap="")),
    "torch-compile": ("import torch", _TORCH.format(wrap="loss_of = torch.compile(loss_of)")),
    "jax": ("import jax", _JAX),
    "sklearn": ("from sklearn.neural_network import MLPClassifier", _SKLEARN),
    "numpy": ("import numpy", ""),
}
"""For each contestant: a program that imports it, and one that takes its first training step on network C; where that
is not yet what later steps are, the second too."""


def seconds(program: str, folder: str) -> float:
    """Wall time of a Python process that runs the program in a folder, where it also keeps its caches.

    Raises:
        CalledProcessError: the program failed; the exception holds what it printed.
    """
    caches = ("TINYGRAD_CR_CACHE", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR")
    places = dict.fromkeys(caches, folder)
    places |= {"XDG_CACHE_HOME": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    begin = time.perf_counter()
    subprocess.run(python(program), check=True, env=os.environ | places, cwd=folder, capture_output=True, text=True)
    return time.perf_counter() - begin


def begin(
    names: Sequence[str], rounds: int, say: Callable[[str], None], pool: Executor, caches: str | None = None
) -> Callable[[], dict[str, Any]]:
    """Let a pool measure, one process after the other; what is returned waits for the result.

    That is seconds of "import", "cold" and "warm" for each contestant, one a round; "python" is an empty program.
    caches: a folder for the caches of all of them, which spares a quick run most of the compilation.
    """
    found: dict[str, Any] = {"python": {"import": []}}
    found |= {name: {"import": [], "cold": [], "warm": []} for name in names if name in PROGRAMS}

    def turn(name: str) -> None:
        times = found[name]
        first, step = PROGRAMS.get(name, ("", ""))
        with nullcontext(caches) if caches else tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                times["import"].append(seconds(first, folder))
                if step:
                    times["cold"].append(seconds(step, folder))
                    times["warm"].append(seconds(step, folder))
            except subprocess.CalledProcessError as problem:
                times["failed"] = (problem.stderr.strip().splitlines() or ["it printed nothing"])[-1]
                say(f"  start of {name} failed: {times['failed']}")

    turns = [pool.submit(turn, name) for _ in range(rounds) for name in found]

    def result() -> dict[str, Any]:
        for one in turns:
            one.result()
        return found

    return result
