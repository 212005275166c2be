"""Standardisation is learned from the training part; minibatches show every row once an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cr.data import Batches, Dataset, Standardizer, load
from tinygrad_cr.errors import DataError, OptionError, ShapeError, StateDictError
from tinygrad_cr.random import Generator

PIXELS = np.random.default_rng(0).integers(0, 256, (500, 12), np.uint8)
TABLE = np.random.default_rng(1).normal(5, [1e-3, 1, 1e4], (400, 3))


@pytest.mark.parametrize("x", [PIXELS, TABLE, TABLE.astype(np.float32)], ids=["uint8", "float64", "float32"])
def test_the_mean_image_is_subtracted_and_nothing_scaled(x: Any) -> None:
    found = Standardizer("mean-image").fit(x).transform(x, dtype="float64")
    np.testing.assert_allclose(found, x - x.mean(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("x", [PIXELS, TABLE], ids=["uint8", "float64"])
def test_features_get_mean_zero_and_deviation_one(x: Any) -> None:
    found = Standardizer("per-feature").fit(x).transform(x, dtype="float64")
    np.testing.assert_allclose([found.mean(axis=0), found.std(axis=0)], [[0] * x.shape[1], [1] * x.shape[1]], atol=1e-9)


def test_none_changes_only_the_dtype() -> None:
    np.testing.assert_array_equal(Standardizer("none").fit(PIXELS).transform(PIXELS), PIXELS.astype(np.float32))


def test_statistics_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Standardizer("per-feature").fit(TABLE)
    monkeypatch.setattr("tinygrad_cr.data.standardize._CHUNK_BYTES", 100)
    np.testing.assert_allclose(Standardizer("per-feature").fit(TABLE).scale_, whole.scale_, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_column_gets_scale_one(value: float) -> None:
    x = np.column_stack([TABLE, np.full(len(TABLE), value)]).astype(np.float32)
    assert Standardizer("per-feature").fit(x).scale_[-1] == 1


def test_a_column_in_a_tiny_unit_is_not_taken_for_a_constant() -> None:
    found = Standardizer("per-feature").fit(TABLE * [1e-9, 1, 1]).transform(TABLE * [1e-9, 1, 1], dtype="float64")
    np.testing.assert_allclose(found.std(axis=0), 1)


def test_a_pixel_that_is_almost_always_dark_does_not_explode() -> None:
    train = PIXELS.copy()
    train[:, 0] = 0
    train[3, 0] = 1
    lit = np.full((1, 12), 255, np.uint8)
    # Uniform pixels deviate by about 74, so a tenth of the pooled deviation divides 255 to about 36.
    assert abs(Standardizer("per-feature").fit(train).transform(lit)[0, 0]) < 50


def test_a_large_offset_goes_before_float32_rounds() -> None:
    seconds = 1.7e9 + np.arange(100.0)[:, None]
    found = Standardizer("per-feature").fit(seconds).transform(seconds)
    np.testing.assert_allclose(np.diff(found[:, 0]), found[1, 0] - found[0, 0], rtol=1e-4)


def test_a_state_dict_restores_the_standardizer() -> None:
    fitted = Standardizer("per-feature").fit(PIXELS)
    restored = Standardizer.from_state(fitted.state_dict(), "per-feature")
    np.testing.assert_array_equal(restored.transform(PIXELS), fitted.transform(PIXELS))


def test_another_number_of_features_is_refused_with_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\(400, 3\).*\(n, 12\)"):
        Standardizer().fit(PIXELS).transform(TABLE)


def test_a_standardizer_that_was_not_fitted_says_so() -> None:
    with pytest.raises(DataError, match=r"call fit\(x\)"):
        Standardizer().transform(PIXELS)


def test_an_unknown_mode_is_named_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'mean-image'"):
        Standardizer("mean_image")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(OptionError, match="float16"):
        Standardizer().fit(PIXELS).transform(PIXELS, dtype="float16")


def test_values_whose_variance_overflows_are_refused() -> None:
    with pytest.raises(DataError, match="column 1 holds values too large"):
        Standardizer("per-feature").fit([[1.0, 1e300], [2.0, -1e300]])


@pytest.mark.parametrize("state", [{}, {"mean": [1.0]}, {"mean": [1.0], "scale": [1.0, 2.0]}])
def test_a_state_that_does_not_fit_is_refused(state: Any) -> None:
    with pytest.raises(StateDictError):
        Standardizer.from_state(state)


def numbered(n: int) -> Dataset:
    return Dataset(np.arange(n, dtype=np.float32)[:, None], np.arange(n))


def epoch(batches: Batches) -> list[tuple[Any, Any]]:
    return [(x.copy(), y.copy()) for x, y in batches]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.booleans())
def test_an_epoch_shows_every_row_once_with_its_label(n: int, size: int, shuffle: bool) -> None:
    steps = epoch(Batches(numbered(n), size, shuffle=shuffle))
    x, y = (np.concatenate(arrays) for arrays in zip(*steps, strict=True))
    np.testing.assert_array_equal(x[:, 0], y)
    np.testing.assert_array_equal(np.sort(y), np.arange(n))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50))
def test_the_length_is_the_number_of_steps(n: int, size: int) -> None:
    batches = Batches(numbered(n), size)
    assert len(batches) == len(epoch(batches))


def test_each_epoch_has_an_order_of_its_own() -> None:
    batches = Batches(numbered(50), 50)
    assert epoch(batches)[0][1].tolist() != epoch(batches)[0][1].tolist()


def test_the_same_generator_state_gives_the_same_order() -> None:
    first, second = (epoch(Batches(numbered(50), 7, generator=Generator(3))) for _ in range(2))
    assert [y.tolist() for _, y in first] == [y.tolist() for _, y in second]


def test_rows_in_order_draw_nothing() -> None:
    generator = Generator(3)
    epoch(Batches(numbered(5), 2, generator=generator, shuffle=False))
    assert generator.draw == 0


def test_steps_reuse_their_buffers() -> None:
    first, second = [x for x, _ in Batches(numbered(4), 2)]
    assert np.shares_memory(first, second)


@pytest.mark.parametrize("x", [PIXELS, TABLE, TABLE.astype(np.float32)], ids=["uint8", "float64", "float32"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_minibatches_are_standardised_as_the_whole_is(x: Any, dtype: str) -> None:
    standardizer = Standardizer("per-feature").fit(x)
    data = Dataset(x, np.zeros(len(x), int))
    found = np.concatenate(
        [each for each, _ in epoch(Batches(data, 64, standardizer=standardizer, shuffle=False, dtype=dtype))]
    )
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, standardizer.transform(x, dtype))


@pytest.mark.parametrize("size", [0, -1, 1.5, "8", True, None])
def test_a_batch_size_that_is_no_count_is_refused(size: Any) -> None:
    with pytest.raises(OptionError, match="batch_size must be"):
        Batches(numbered(4), size)


def test_rows_without_labels_make_no_minibatches() -> None:
    with pytest.raises(DataError, match="labels"):
        Batches(Dataset(PIXELS), 4)


def test_a_standardizer_of_other_features_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1797, 64\)"):
        Batches(load("digits"), 32, standardizer=Standardizer().fit(PIXELS))
