"""Random words."""

from __future__ import annotations

import numpy as np

from .batch import Batch, Stack, alone
from .device import launch
from .layout import one_each


@alone
def philox(batch: Batch, counters: Stack, key: Stack, out: Stack) -> None:
    n = len(out.array)
    if n:
        arguments = (batch.index, n, *counters, *key, *out)
        launch("philox", "philox", np.float32, *one_each(batch, n), arguments)
