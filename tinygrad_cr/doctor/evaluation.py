"""Does the network answer the same twice when it is not being trained?"""

from __future__ import annotations

import numpy as np

from tinygrad_cr.doctor.case import Case
from tinygrad_cr.doctor.verdict import Check, Status
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.evaluate import evaluation

ROWS = 256
NAME = "evaluation mode"


def check(case: Case) -> Check:
    """Two passes in evaluation mode, bit for bit."""
    model, _, _ = case.copies()
    x, _ = case.sample(ROWS)
    with evaluation(model):
        first, second = (np.array(model(Tensor(x)).data) for _ in range(2))
    same = np.array_equal(first, second, equal_nan=True)
    difference = 0.0 if same else float(np.abs(first - second).max())
    return Check(
        NAME,
        Status.PASS if same else Status.FAIL,
        f"two passes differ by {difference:.3g}",
        "0: evaluation leaves nothing to chance",
        "" if same else "a layer draws random numbers in evaluation: dropout has to ask `self.training`",
        {"difference": difference},
    )
