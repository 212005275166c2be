"""Schedules give PyTorch's learning rates, wherever both have the schedule."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cr import schedules

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
lr_scheduler = pytest.importorskip("torch.optim.lr_scheduler")

STEPS = 400


def rates_of(make: Any, lr: float, steps: int = STEPS) -> list[float]:
    """The learning rates of the first so many steps of a scheduler of PyTorch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    with warnings.catch_warnings():
        # It wants to see an optimizer that steps too.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        scheduler = make(optimizer)
        found = []
        for step in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            if step < steps - 1:
                scheduler.step()
    return found


def assert_same(schedule: schedules.Schedule, make: Any, lr: float, steps: int = STEPS) -> None:
    """To 1e-12 of the highest rate: at the foot of a slope PyTorch has the rounding of what it subtracts."""
    mine = [schedule(step) for step in range(steps)]
    np.testing.assert_allclose(mine, rates_of(make, lr, steps), rtol=1e-12, atol=1e-12 * lr)


def rates() -> st.SearchStrategy[float]:
    return st.floats(1e-5, 10)


def lengths(least: int = 1) -> st.SearchStrategy[int]:
    return st.integers(least, 150)


fractions = st.floats(0, 1)
parity = settings(max_examples=40)


@parity
@given(rates(), st.floats(0.05, 1), lengths())
def test_step_decay_is_steplr(lr, decay, every):
    assert_same(
        schedules.step_decay(lr, decay, every), lambda o: lr_scheduler.StepLR(o, step_size=every, gamma=decay), lr
    )


@parity
@given(rates(), st.floats(0.05, 1), st.sets(st.integers(1, STEPS), max_size=6).map(sorted))
def test_milestones_are_multisteplr(lr, decay, at):
    assert_same(
        schedules.milestones(lr, decay, at), lambda o: lr_scheduler.MultiStepLR(o, milestones=at, gamma=decay), lr
    )


@parity
@given(rates(), st.floats(0.05, 1))
def test_an_exponential_is_exponentiallr_stepped_once_an_epoch(lr, decay):
    mine = schedules.exponential(lr, decay, steps_per_epoch=7)
    theirs = rates_of(lambda o: lr_scheduler.ExponentialLR(o, gamma=decay), lr, steps=100)
    np.testing.assert_allclose([mine(7 * epoch + 3) for epoch in range(100)], theirs, rtol=1e-12)


@parity
@given(rates(), st.floats(0.05, 1), lengths())
def test_a_smooth_exponential_is_exponentiallr_stepped_at_each_step(lr, decay, steps_per_epoch):
    gamma = decay ** (1 / steps_per_epoch)
    mine = schedules.exponential(lr, decay, steps_per_epoch, smooth=True)
    assert_same(mine, lambda o: lr_scheduler.ExponentialLR(o, gamma=gamma), lr)


@parity
@given(rates(), lengths(), st.floats(0.001, 1))
def test_a_warm_up_of_a_constant_is_linearlr(lr, steps, start):
    mine = schedules.warm_up(schedules.constant(lr), steps, start)
    assert_same(mine, lambda o: lr_scheduler.LinearLR(o, start_factor=start, total_iters=steps), lr)


@parity
@given(rates(), lengths(), st.floats(0.001, 1), lengths(10), fractions)
def test_a_warm_up_before_restarts_is_sequentiallr(lr, steps, start, t_0, low):
    def make(o: Any) -> Any:
        first = lr_scheduler.LinearLR(o, start_factor=start, total_iters=steps)
        then = lr_scheduler.CosineAnnealingWarmRestarts(o, t_0, 2, eta_min=low * lr)
        return lr_scheduler.SequentialLR(o, [first, then], milestones=[steps])

    assert_same(schedules.warm_up(schedules.cosine_restarts(lr, t_0, 2, low=low * lr), steps, start), make, lr)


@parity
@given(rates(), lengths(), st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_a_cosine_is_cosineannealinglr_on_its_way_down(lr, steps, low):
    # Behind its end PyTorch's climbs again.
    mine = schedules.cosine(lr, steps, low=low * lr)
    assert_same(mine, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=steps, eta_min=low * lr), lr, steps + 1)


@parity
@given(rates(), lengths(), st.integers(1, 4), fractions)
def test_restarts_are_cosineannealingwarmrestarts(lr, t_0, t_mult, low):
    assert_same(
        schedules.cosine_restarts(lr, t_0, t_mult, low=low * lr),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, t_0, t_mult, eta_min=low * lr),
        lr,
    )


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@parity
@given(rates(), lengths(), st.none() | lengths(), fractions, st.floats(0.9, 1))
def test_triangles_are_cycliclr(mode, lr, up, down, low, gamma):
    gamma = gamma if mode == "exp_range" else 1.0
    assert_same(
        schedules.cyclic(lr, up, down, low=low * lr, mode=mode, gamma=gamma),
        lambda o: lr_scheduler.CyclicLR(o, low * lr, lr, up, down, mode=mode, gamma=gamma, cycle_momentum=False),
        lr,
    )


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@parity
@given(rates(), st.integers(1, STEPS), st.floats(0, 0.5), st.floats(1, 100), st.floats(1, 1e5))
def test_one_cycle_is_onecyclelr(anneal, three_phase, lr, steps, rise, div, final_div):
    if rise * steps == 1:
        rise = 0.0  # PyTorch divides by zero there.
    assert_same(
        schedules.one_cycle(lr, steps, rise, div, final_div, anneal, three_phase),
        lambda o: lr_scheduler.OneCycleLR(
            o,
            lr,
            steps,
            pct_start=rise,
            div_factor=div,
            final_div_factor=final_div,
            anneal_strategy=anneal,
            three_phase=three_phase,
            cycle_momentum=False,
        ),
        lr,
        steps,
    )


@pytest.mark.parametrize("rise", [0.6, 0.9, 1.0])
def test_one_cycle_may_rise_for_longer_than_it_falls(rise):
    assert_same(
        schedules.one_cycle(0.1, 200, rise),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, 200, pct_start=rise, cycle_momentum=False),
        0.1,
        200,
    )


def test_a_rate_that_is_a_little_off_would_be_seen():
    with pytest.raises(AssertionError, match="Mismatched elements: "):
        assert_same(schedules.cosine(0.1, 100, low=1e-11), lambda o: lr_scheduler.CosineAnnealingLR(o, 100), 0.1, 101)
