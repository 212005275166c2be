"""Shuffles: a permutation for each of many draws, side by side."""

from __future__ import annotations

import numpy as np

from ..interface import Array
from .board import bind
from .compiling import helper, kernel
from .philox import random_lanes
from .threads import ELEMENTS_WORTH_SHARING, launch

MOST_BUCKETS = 1 << 24
"""Their places take eight bytes each."""


@helper
def _shuffle_chunk(draws: Array, out: Array, bits: int, chunk: int) -> None:
    """One permutation: indices fall into buckets by the first bits of their keys, where few are left to be sorted."""
    order, n = out[chunk], out.shape[1]
    counters = np.empty((n + 1) // 2, np.uint32)
    for k in range(counters.size):
        counters[k] = np.uint32(k)
    words = np.empty(4 * counters.size, np.uint32)
    random_lanes(counters, draws[chunk, 0], draws[chunk, 1], draws[chunk, 2], words)
    kept = ~np.uint32((1 << bits) - 1)
    while 1 << bits > MOST_BUCKETS:
        bits -= 1
    shift, ends = np.uint32(32 - bits), np.zeros((1 << bits) + 1, np.int64)
    for i in range(n):
        ends[np.int64(words[2 * i] >> shift) + 1] += 1
    for k in range(1, ends.size):
        ends[k] += ends[k - 1]
    for i in range(n):
        bucket = np.int64(words[2 * i] >> shift)
        order[ends[bucket]] = i
        ends[bucket] += 1
    # Insertion, which leaves equal keys in their order: none moves farther than its bucket is long.
    for j in range(1, n):
        i = order[j]
        first, second = words[2 * i], words[2 * i + 1] & kept
        k = j - 1
        while k >= 0:
            other = order[k]
            above = words[2 * other]
            if above < first or (above == first and words[2 * other + 1] & kept <= second):
                break
            order[k + 1] = other
            k -= 1
        order[k + 1] = i


@kernel
def permutations(draws: Array, bits: int, out: Array) -> None:
    """See `kernels.permutations`."""
    launch(bind(_shuffle_chunk, (draws, out, bits)), len(out), out.size >= ELEMENTS_WORTH_SHARING)
