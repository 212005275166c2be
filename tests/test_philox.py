"""The random bits: known answers, and one mask for one state whatever computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from calls import EVERY, FAST, Maker, Size, call
from tinygrad_cr.kernels import Kernels
from tinygrad_cr.random import SEED_LIMIT, STREAM_LIMIT, Generator

KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
"""Counter, key and result, from the authors of Philox (Random123, kat_vectors)."""

LIMITS = [
    (0, 0, 0),
    (SEED_LIMIT - 1, 0, 0),
    (0, SEED_LIMIT - 1, 0),
    (0, 0, STREAM_LIMIT - 1),
    (2**32 - 1, 2**32 - 1, 1),
    (2**32, 2**32, 2),
    (SEED_LIMIT - 1, SEED_LIMIT - 1, STREAM_LIMIT - 1),
]
"""Seed, draw and stream where words are full or carry over."""


def words(text: str) -> Any:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


def mask(backend_name: str, n: int, threshold: int, state: tuple[int, int, int]) -> Any:
    """Which of n elements stay."""
    arguments = Maker(np.float64).dropout(Size(n, 0, 1), threshold=threshold, state=state) | {"x": np.ones(n)}
    return call(backend_name, "dropout", arguments)["out"] > 0


def mask_by_hand(n: int, threshold: int, state: tuple[int, int, int]) -> Any:
    """The layout as the contract words it, an element at a time."""
    seed, draw, stream = state
    kept = []
    for i in range(n):
        counter = np.array([[i // 8, draw % 2**32, draw // 2**32, stream]], np.uint32)
        key = np.array([seed % 2**32, seed // 2**32], np.uint32)
        block = call("reference", "philox", {"counters": counter, "key": key, "out": counter.copy()})["out"][0]
        word = int(block[i % 8 // 2])
        lane = word >> 16 if i % 2 else word % 65536
        kept.append(lane < threshold)
    return np.array(kept)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_known_answers(kernels: Kernels, counter: str, key: str, answer: str) -> None:
    arguments = {"counters": words(counter)[None], "key": words(key), "out": np.zeros((1, 4), np.uint32)}
    np.testing.assert_array_equal(call(kernels.name, "philox", arguments)["out"], words(answer)[None])


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("state", LIMITS, ids=str)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 511, 512, 513, 5000])
def test_a_state_gives_the_same_mask_on_every_backend(name: str, state: tuple[int, int, int], n: int) -> None:
    np.testing.assert_array_equal(mask(name, n, 32768, state), mask("reference", n, 32768, state))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("state", [(11, 22, 33), *LIMITS], ids=str)
def test_element_i_takes_lane_i_mod_8_of_block_i_div_8(name: str, state: tuple[int, int, int]) -> None:
    np.testing.assert_array_equal(mask(name, 37, 40000, state), mask_by_hand(37, 40000, state))


@pytest.mark.parametrize("name", EVERY)
@given(shape=st.tuples(st.integers(1, 70), st.integers(1, 70)), state=strategies.states())
def test_the_fused_kernel_takes_its_mask_over_the_flattened_result(
    name: str, shape: tuple[int, int], state: tuple[int, int, int]
) -> None:
    arguments = Maker(np.float64).affine_relu_dropout(Size(shape[0], 1, shape[1]), threshold=30000, state=state)
    arguments |= {"x": np.ones((shape[0], 1)), "w": np.ones((1, shape[1])), "b": np.zeros(shape[1])}
    found = call(name, "affine_relu_dropout", arguments)["out"].reshape(-1) > 0
    np.testing.assert_array_equal(found, mask("reference", shape[0] * shape[1], 30000, state))


@pytest.mark.parametrize("name", EVERY)
@given(state=strategies.states(), threshold=strategies.thresholds())
def test_a_mask_does_not_depend_on_how_many_elements_follow(
    name: str, state: tuple[int, int, int], threshold: int
) -> None:
    np.testing.assert_array_equal(mask(name, 300, threshold, state), mask(name, 1300, threshold, state)[:300])


@pytest.mark.parametrize("changed", range(3), ids=["seed", "draw", "stream"])
@pytest.mark.parametrize("distance", [1, 2**30])
def test_another_seed_draw_or_stream_gives_another_mask(kernels: Kernels, changed: int, distance: int) -> None:
    state = [4, 5, 6]
    state[changed] += distance
    assert (mask(kernels.name, 400, 32768, (4, 5, 6)) != mask(kernels.name, 400, 32768, (*state,))).any()


@pytest.mark.parametrize("changed", range(2), ids=["seed", "draw"])
def test_the_upper_half_of_seed_and_draw_counts(kernels: Kernels, changed: int) -> None:
    state = [4, 5, 6]
    state[changed] += 2**32
    assert (mask(kernels.name, 400, 32768, (4, 5, 6)) != mask(kernels.name, 400, 32768, (*state,))).any()


def test_a_threshold_of_65536_keeps_every_element(kernels: Kernels) -> None:
    assert mask(kernels.name, 200_000, 65536, (0, 0, 0)).all()


def test_a_threshold_of_65535_drops_only_the_highest_lane(kernels: Kernels) -> None:
    # 400,000 lanes: about six are 65535.
    assert 0 < (~mask(kernels.name, 400_000, 65535, (0, 0, 0))).sum() < 30


def test_a_generator_draws_the_blocks_of_its_state() -> None:
    found = Generator(2**40 + 1, stream=3, draw=2**35 + 7).words(2)
    counters = np.array([[0, 7, 8, 3], [1, 7, 8, 3]], np.uint32)
    arguments = {"counters": counters, "key": np.array([1, 256], np.uint32), "out": np.zeros((2, 4), np.uint32)}
    np.testing.assert_array_equal(found, call("reference", "philox", arguments)["out"])
