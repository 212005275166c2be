"""Splits partition the rows, keep the classes in proportion, and depend on the seed alone."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinygrad_cr.data import Dataset, Split, load, split
from tinygrad_cr.errors import DataError, OptionError

SIZES = st.lists(st.integers(2, 30), min_size=1, max_size=12)
PERCENT = st.integers(0, 60)


def make(sizes: list[int], order: int = 0) -> Dataset:
    """Rows whose only feature is their number, of classes with these sizes, in some order."""
    y = np.random.default_rng(order).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return Dataset(np.arange(len(y), dtype=np.float64)[:, None], y, class_names=[str(i) for i in range(len(sizes))])


def parts(found: Split) -> list[Dataset]:
    return [part for part in found if part is not None]


def cut(sizes: list[int], validation: int, test: int, **options: Any) -> Split:
    """A split in percent; hypothesis drops the examples whose parts would be empty."""
    assume(validation + test < 100)
    try:
        return split(make(sizes), validation=validation / 100, test=test / 100, **options)
    except DataError:
        assume(False)
        raise


@settings(deadline=None)
@given(SIZES, PERCENT, PERCENT, st.integers(0, 2**31), st.booleans())
def test_the_parts_hold_every_row_once(sizes: list[int], v: int, t: int, seed: int, stratify: bool) -> None:
    found = np.concatenate([part.x[:, 0] for part in parts(cut(sizes, v, t, seed=seed, stratify=stratify))])
    np.testing.assert_array_equal(np.sort(found), np.arange(sum(sizes)))


@settings(deadline=None)
@given(SIZES, PERCENT, PERCENT)
def test_a_row_keeps_its_label(sizes: list[int], v: int, t: int) -> None:
    whole = make(sizes)
    assert whole.y is not None
    for part in parts(cut(sizes, v, t)):
        np.testing.assert_array_equal(part.y, whole.y[part.x[:, 0].astype(int)])


@settings(deadline=None)
@given(SIZES, PERCENT, PERCENT, st.integers(0, 2**31))
def test_each_class_is_in_proportion_to_within_a_row(sizes: list[int], v: int, t: int, seed: int) -> None:
    found = cut(sizes, v, t, seed=seed)
    for part, percent in zip(found, (100 - v - t, v, t), strict=True):
        counts = [0] * len(sizes) if part is None else np.bincount(part.y, minlength=len(sizes)).tolist()  # type: ignore[arg-type]
        for count, size in zip(counts, sizes, strict=True):
            assert abs(count - size * Fraction(percent, 100)) < 1


@settings(deadline=None)
@given(SIZES, PERCENT, PERCENT, st.booleans())
def test_the_sizes_are_the_fractions_by_largest_remainder(sizes: list[int], v: int, t: int, stratify: bool) -> None:
    found = [0 if part is None else len(part) for part in cut(sizes, v, t, stratify=stratify)]
    exact = [sum(sizes) * Fraction(percent, 100) for percent in (100 - v - t, v, t)]
    remainders = [(share - int(share), size - int(share)) for share, size in zip(exact, found, strict=True)]
    rounded_up = [r for r, up in remainders if up == 1]
    rounded_down = [r for r, up in remainders if up == 0]
    assert len(rounded_up) + len(rounded_down) == 3
    assert min(rounded_up, default=1) >= max(rounded_down, default=0)


@settings(deadline=None)
@given(SIZES, st.integers(0, 2**62))
def test_the_same_seed_gives_the_same_parts(sizes: list[int], seed: int) -> None:
    first, second = (cut(sizes, 30, 20, seed=seed) for _ in range(2))
    for one, two in zip(parts(first), parts(second), strict=True):
        np.testing.assert_array_equal(one.x, two.x)


def test_another_seed_gives_other_parts() -> None:
    first, second = (split(make([50, 50]), seed=seed).train.x for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_many_rows_of_a_class_are_drawn_alike() -> None:
    chosen = np.zeros(10)
    for seed in range(400):
        test = split(make([10]), validation=0, test=0.3, seed=seed).test
        assert test is not None
        chosen[test.x[:, 0].astype(int)] += 1
    # 400 draws of 0.3: 120 +- 9.2; six standard deviations.
    assert np.all(np.abs(chosen - 120) < 55)


def test_a_part_of_fraction_zero_is_none() -> None:
    assert split(make([5, 5]), validation=0, test=0.5).validation is None


def test_a_class_with_one_row_is_learned() -> None:
    found = split(make([20, 1, 1, 1]))
    assert found.train.y is not None
    assert {1, 2, 3} <= set(found.train.y.tolist())


def test_an_official_test_part_is_kept() -> None:
    test = make([3, 3])
    whole = make([50, 50])
    found = split(Dataset(whole.x, whole.y, test=test), validation=0.1, test=0.9)
    assert [len(part) for part in parts(found)] == [90, 10, 6]


def test_the_digits_are_split_by_class() -> None:
    found = split(load("digits"))
    assert [len(part) for part in parts(found)] == [1078, 360, 359]


def test_unlabelled_rows_are_split_without_classes() -> None:
    found = split(Dataset(np.eye(10)), stratify=False)
    assert [len(part) for part in parts(found)] == [6, 2, 2]


def test_unlabelled_rows_cannot_be_stratified() -> None:
    with pytest.raises(DataError, match="stratify=False"):
        split(Dataset(np.eye(10)))


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_a_fraction_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(OptionError, match=f"validation={value}"):
        split(make([10]), validation=value)


def test_fractions_that_leave_no_training_rows_are_refused() -> None:
    with pytest.raises(OptionError, match=r"validation=0.5 \+ test=0.5"):
        split(make([10]), validation=0.5, test=0.5)


@pytest.mark.parametrize("value", [0.01, 1e-9])
def test_a_part_that_would_be_empty_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="validation part empty"):
        split(make([3]), validation=value, test=0.3)


def test_classes_make_room_for_each_other() -> None:
    # Class 0 first takes training and validation, all that class 1 could take, and has to move to test.
    found = split(make([3, 4]), validation=0.2, test=0.5)
    assert [len(part) for part in parts(found)] == [2, 1, 4]
