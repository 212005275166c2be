"""How long a user waits: import, first step with nothing compiled, first step with a warm cache.

Run ``python bench/start.py`` in an environment where tinygrad_cr is installed. Each figure is a whole process, median of
several; the cache of compiled kernels is a temporary folder, so the first run of it is truly cold.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

IMPORT = "import tinygrad_cr"
FIRST_STEP = """
import numpy as np
from tinygrad_cr import Tensor, nn, ops, optim
model = nn.MLP([64, 100, 10], dropout=0.5, generator=0)
optimizer = optim.SGD(model, lr=0.1, momentum=0.9)
ops.cross_entropy(model(Tensor(np.zeros((32, 64), "float32"))), np.zeros(32, int)).backward()
optimizer.step()
"""
RUNS = 7


def seconds(program: str, cache: str) -> float:
    """Wall time of a Python process that runs the program, somewhere outside a source tree."""
    begin = time.perf_counter()
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=cache)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as cache:
        cold = seconds(FIRST_STEP, cache)
        rows = {
            "python alone": statistics.median(seconds("pass", cache) for _ in range(RUNS)),
            "import numpy": statistics.median(seconds("import numpy", cache) for _ in range(RUNS)),
            "import tinygrad_cr": statistics.median(seconds(IMPORT, cache) for _ in range(RUNS)),
            "first step, cold cache": cold,
            "first step, warm cache": statistics.median(seconds(FIRST_STEP, cache) for _ in range(RUNS)),
        }
    for name, value in rows.items():
        print(f"{name:24s}{value:7.2f} s")


if __name__ == "__main__":
    main()
