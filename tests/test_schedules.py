"""Schedules are pure functions of the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cr.errors import OptionError
from tinygrad_cr.schedules import constant, exponential

RATES = st.floats(0, 1e6)
STEPS = st.integers(0, 10**9)


@given(RATES, STEPS)
def test_a_constant_schedule_is_the_same_at_every_step(lr, step):
    assert constant(lr)(step) == lr


@given(RATES, st.floats(0.01, 1), st.integers(1, 1000), st.integers(0, 100), st.data())
def test_an_exponential_schedule_decays_once_an_epoch(lr, decay, steps_per_epoch, epoch, data):
    step = epoch * steps_per_epoch + data.draw(st.integers(0, steps_per_epoch - 1))
    assert exponential(lr, decay, steps_per_epoch)(step) == pytest.approx(lr * decay**epoch, rel=1e-12)


@given(RATES, st.integers(1, 1000), STEPS)
def test_a_decay_of_one_is_a_constant_schedule(lr, steps_per_epoch, step):
    assert exponential(lr, 1, steps_per_epoch)(step) == lr


def test_a_schedule_has_no_memory():
    schedule = exponential(1.0, 0.5, 3)
    assert [schedule(step) for step in (9, 0, 3)] == [0.125, 1.0, 0.5]


@pytest.mark.parametrize("make", [constant, lambda lr: exponential(lr, 0.9, 1)])
@pytest.mark.parametrize("lr", [-1, -1e-9, float("nan"), float("inf"), "0.1", None, True])
def test_a_learning_rate_that_is_no_finite_number_from_0_is_refused_by_value(make, lr):
    with pytest.raises(OptionError, match=f"lr must be a finite number >= 0, got {lr!r}"):
        make(lr)


@pytest.mark.parametrize("decay", [0, -0.5, 1.1, float("nan"), float("inf"), "0.9", None])
def test_a_decay_outside_0_to_1_is_refused(decay):
    with pytest.raises(OptionError, match=f"decay .*got {decay!r}"):
        exponential(0.1, decay, 1)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "3", None])
def test_an_epoch_has_a_whole_number_of_steps(steps):
    with pytest.raises(OptionError, match="steps_per_epoch must be an integer of at least 1"):
        exponential(0.1, 0.9, steps)
