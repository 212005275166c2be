"""Shuffles: the order of keys that Philox makes, whoever sorts them and how many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import call
from tinygrad_cr import set_num_threads
from tinygrad_cr.kernels import num_threads, permutations
from tinygrad_cr.random import SEED_LIMIT, STREAM_LIMIT, Generator, Generators


def by_sorting(seed: int, draw: int, stream: int, n: int) -> Any:
    """The definition: sort 64-bit keys whose lowest bits are the index."""
    counters = np.zeros(((n + 1) // 2, 4), np.uint32)
    counters[:, 0] = np.arange(len(counters))
    counters[:, 1:] = np.array([draw % 2**32, draw >> 32, stream], np.uint32)
    key = np.array([seed % 2**32, seed >> 32], np.uint32)
    words = call("reference", "philox", {"counters": counters, "key": key, "out": counters.copy()})["out"]
    pairs = words.reshape(-1, 2)[:n].astype(np.uint64)
    low = np.uint64((1 << max(1, (n - 1).bit_length())) - 1)
    keys = (pairs[:, 0] << np.uint64(32) | pairs[:, 1]) & ~low | np.arange(n, dtype=np.uint64)
    return np.argsort(keys, kind="stable")


@given(
    n=st.integers(1, 300),
    seed=st.integers(0, SEED_LIMIT - 1),
    draw=st.integers(0, SEED_LIMIT - 1),
    stream=st.integers(0, STREAM_LIMIT - 1),
)
def test_a_shuffle_is_the_order_of_its_keys(n: int, seed: int, draw: int, stream: int) -> None:
    found = Generator(seed, stream, draw).permutation(n)
    np.testing.assert_array_equal(found, by_sorting(seed, draw, stream, n))


def test_of_many_indices_some_share_the_upper_word_of_their_keys() -> None:
    n = 300_000
    np.testing.assert_array_equal(Generator(1).permutation(n), by_sorting(1, 0, 0, n))


@pytest.mark.parametrize("n", [1, 2, 31, 5000])
def test_members_with_any_seeds_are_shuffled_as_each_alone(n: int) -> None:
    states = [(3, 0, 0), (3, 1, 4), (2**40, 5, 2**33)]
    several = Generators([Generator(*state) for state in states])
    found = several.permutations(n)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [Generator(*state).permutation(n) for state in states])
    assert [generator.draw for generator in several.generators] == [1, 5, 2**33 + 1]


def test_the_number_of_threads_changes_no_shuffle() -> None:
    draws, threads = np.array([[1, m, 0] for m in range(40)]), num_threads()
    together = permutations(draws, 2000)
    try:
        set_num_threads(1)
        np.testing.assert_array_equal(permutations(draws, 2000), together)
    finally:
        set_num_threads(threads)


def test_nothing_is_shuffled_to_nothing() -> None:
    generator = Generator(0)
    assert generator.permutation(0).shape == (0,)
    assert generator.draw == 1
