"""The data set of a case: the same for everybody, from a seed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from bench.gpu_suite.workloads import CLASSES, Case


def arrays(case: Case) -> tuple[Any, Any]:
    """Rows [rows, features] float32 and labels [rows] int64, on the host; not to be written to."""
    return _arrays(case.rows, case.sizes[0])


@lru_cache
def _arrays(rows: int, features: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, features), dtype=np.float32), rng.integers(0, CLASSES, rows)
