"""Hypothesis strategies that several test files share."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_cr.random import SEED_LIMIT, STREAM_LIMIT

LIMIT = 65536
"""A threshold of this keeps every element; thresholds begin at 1."""


def dtypes() -> st.SearchStrategy[Any]:
    """float32 and float64."""
    return st.sampled_from([np.float32, np.float64])


def sizes(largest: int = 40) -> st.SearchStrategy[tuple[int, int, int]]:
    """Rows, inner length and columns of a matrix product, zero included."""
    lengths = st.integers(0, largest)
    return st.tuples(lengths, lengths, lengths)


def thresholds() -> st.SearchStrategy[int]:
    """Dropout thresholds, the limits more often than chance would have it."""
    return st.sampled_from([1, LIMIT // 2, LIMIT - 1, LIMIT]) | st.integers(1, LIMIT)


def states() -> st.SearchStrategy[tuple[int, int, int]]:
    """Seed, draw and stream of a mask."""
    wide = st.sampled_from([0, 2**32 - 1, 2**32, SEED_LIMIT - 1]) | st.integers(0, SEED_LIMIT - 1)
    return st.tuples(wide, wide, st.sampled_from([0, STREAM_LIMIT - 1]) | st.integers(0, STREAM_LIMIT - 1))


def numbers() -> st.SearchStrategy[int]:
    """Seeds of NumPy's generator, for tests whose numbers do not matter."""
    return st.integers(0, 2**32 - 1)


@st.composite
def classifications(draw: Any) -> tuple[Any, Any]:
    """Float64 logits [n, c] and int64 labels [n] of a small batch."""
    n, classes = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    logits = draw(hnp.arrays(np.float64, (n, classes), elements=st.floats(-30, 30)))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    return logits, labels


def counts(n: int) -> st.SearchStrategy[Any]:
    """How often each of n rows occurs: int64 [n], at least one of them above 0."""
    return hnp.arrays(np.int64, n, elements=st.integers(0, 4)).filter(np.any)


def seeds() -> st.SearchStrategy[int]:
    """Everything a `Generator` takes as its seed: both 32-bit halves of Philox's key matter."""
    return st.integers(0, 2**63 - 1)


def dropout_rates() -> st.SearchStrategy[float]:
    """Probabilities of dropping that draw a mask, out to one lane value of either end."""
    return st.floats(2**-16, 1 - 2**-16) | st.sampled_from([2**-16, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - 2**-16])
