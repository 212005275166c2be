"""The best of many scores is too good to be true, by the amount that is stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from tinygrad_cr.errors import OptionError
from tinygrad_cr.search import expected_optimism, optimism_bound
from tinygrad_cr.search.optimism import expected_maximum, standard_error

ROWS = 1000


def measured(truth: np.ndarray, seed: int = 0, times: int = 400) -> tuple[float, float, float]:
    """Mean excess of the best of some scores over its truth, and what the two formulas say of the same scores."""
    rng = np.random.default_rng(seed)
    scores = rng.binomial(ROWS, truth, (times, len(truth))) / ROWS
    best = scores.argmax(axis=1)
    excess = float((scores.max(axis=1) - truth[best]).mean())
    expected = float(np.mean([expected_optimism(each, ROWS) for each in scores[:30]]))
    bound = float(np.mean([optimism_bound(each.max(), len(truth), ROWS) for each in scores[:30]]))
    return excess, expected, bound


@pytest.mark.parametrize("n", [1, 2, 10, 100, 1000])
def test_the_largest_of_n_normal_numbers_is_that_of_the_integral(n):
    def integrand(x: float) -> float:
        return float(x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1))

    assert expected_maximum(n) == pytest.approx(integrate.quad(integrand, -10, 10, limit=200)[0], abs=1e-6)


@pytest.mark.parametrize("n", [2, 10, 100])
def test_the_bound_is_the_optimism_of_equally_good_trials(n):
    excess, _, bound = measured(np.full(n, 0.88))
    assert bound == pytest.approx(excess, rel=0.12)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.03, 0.1])
def test_what_is_expected_is_a_little_less_than_what_happens_and_the_bound_more(spread):
    truth = 0.88 - spread * np.abs(np.random.default_rng(1).standard_normal(50))
    excess, expected, bound = measured(truth)
    assert 0.6 * excess < expected < 1.05 * excess < 1.15 * bound


def test_trials_that_cannot_win_do_not_count():
    scores = [0.9, 0.88, 0.87]
    assert expected_optimism([*scores, *[0.1] * 500], ROWS) == pytest.approx(expected_optimism(scores, ROWS))


def test_the_order_of_the_scores_does_not_matter():
    scores = np.linspace(0.8, 0.9, 20)
    assert expected_optimism(scores[::-1], ROWS) == pytest.approx(expected_optimism(scores, ROWS))


def test_more_rows_are_deceived_less():
    few, many = (expected_optimism([0.9] * 10, rows) for rows in (ROWS, 100 * ROWS))
    assert many == pytest.approx(few / 10, rel=1e-3)


def test_perfect_scores_are_not_beyond_doubt():
    assert 0 < expected_optimism([1.0] * 5, 100) < 0.02
    assert 0 < optimism_bound(1.0, 5, 100) < 0.02


def test_one_trial_chooses_nothing():
    assert (expected_optimism([0.7], ROWS), optimism_bound(0.7, 1, ROWS)) == (0.0, 0.0)


def test_no_scores_have_no_best_one():
    with pytest.raises(OptionError, match="at least one"):
        expected_optimism([], ROWS)


def test_the_standard_error_is_that_of_a_binomial():
    assert standard_error(0.3, 50) == pytest.approx(stats.binom.std(50, 0.3) / 50)
