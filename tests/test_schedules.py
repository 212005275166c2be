"""Schedules are pure functions of the step, which know their arguments and the minima of their cycles."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cr import schedules
from tinygrad_cr.errors import OptionError
from tinygrad_cr.schedules import (
    chain,
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    from_config,
    milestones,
    one_cycle,
    step_decay,
    warm_up,
)

RATES = st.just(0.0) | st.floats(1e-12, 1e6)
STEPS = st.integers(0, 10**9)

FORMULAS: dict[str, Callable[..., Any]] = {
    "constant": lambda lr, low=0: constant(lr),
    "exponential": lambda lr, low=0: exponential(lr, 0.9, 10),
    "smooth exponential": lambda lr, low=0: exponential(lr, 0.9, 10, smooth=True),
    "step decay": lambda lr, low=0: step_decay(lr, 0.3, every=30),
    "milestones": lambda lr, low=0: milestones(lr, 0.3, at=[20, 50]),
    "cosine": lambda lr, low=0: cosine(lr, 90, low),
    "restarts": lambda lr, low=0: cosine_restarts(lr, 10, low=low),
    "longer restarts": lambda lr, low=0: cosine_restarts(lr, 7, 2, low),
    "triangular": lambda lr, low=0: cyclic(lr, 10, low=low),
    "triangular2": lambda lr, low=0: cyclic(lr, 10, 5, low, "triangular2"),
    "exp_range": lambda lr, low=0: cyclic(lr, 10, 5, low, "exp_range", 0.99),
    "one cycle": lambda lr, low=0: one_cycle(lr, 100),
    "one cycle in three phases": lambda lr, low=0: one_cycle(lr, 100, anneal="linear", three_phase=True),
    "warm-up": lambda lr, low=0: warm_up(cosine_restarts(lr, 7, 2, low), 5),
    "chain": lambda lr, low=0: chain([constant(lr), cosine(lr, 50, low)], [30]),
}
WITH_LOW = ["cosine", "restarts", "longer restarts", "triangular", "triangular2", "exp_range"]
every = pytest.mark.parametrize("name", FORMULAS)


# What holds for every schedule


@every
def test_the_order_of_the_steps_does_not_matter(name):
    schedule = FORMULAS[name](0.1)
    asked = np.random.default_rng(0).permutation(200).tolist()
    shuffled = {step: schedule(step) for step in asked}
    assert [shuffled[step] for step in range(200)] == [FORMULAS[name](0.1)(step) for step in range(200)]


@every
@given(lr=RATES, step=STEPS)
def test_a_rate_is_a_plain_float_from_0_to_lr(name, lr, step):
    rate = FORMULAS[name](lr)(step)
    assert type(rate) is float
    assert 0 <= rate <= lr * (1 + 1e-15)


@pytest.mark.parametrize("name", WITH_LOW)
@given(lr=RATES, part=st.floats(1e-3, 1), step=STEPS)
def test_no_rate_is_below_low(name, lr, part, step):
    assert FORMULAS[name](lr, part * lr)(step) >= part * lr * (1 - 1e-15)


@every
def test_a_member_of_a_vector_gets_the_bits_of_its_own_rate(name):
    rng = np.random.default_rng(1)
    lr = rng.uniform(0.01, 1, 9)
    low = lr * rng.random(9)
    together = FORMULAS[name](lr, low)
    rates = np.array([together(step) for step in range(150)])
    assert (rates.shape, rates.dtype) == ((150, 9), np.float64)
    for m in range(9):
        alone = FORMULAS[name](lr[m], low[m])
        assert rates[:, m].tolist() == [alone(step) for step in range(150)]


@pytest.mark.parametrize("make", [lambda d: exponential(0.3, d, 2), lambda d: step_decay(0.3, d, 2)])
def test_members_may_decay_each_at_their_own_pace(make):
    decay = np.random.default_rng(2).uniform(0.5, 1, 50)
    together = make(decay)
    for step in (0, 1, 2, 7, 301):
        assert together(step).tolist() == [make(d)(step) for d in decay]


def test_vector_and_number_may_be_mixed():
    assert cosine(0.1, 10, low=np.array([0.0, 0.1]))(10).tolist() == [0.0, 0.1]
    assert exponential(np.array([1.0, 2.0]), 0.5, 1)(1).tolist() == [0.5, 1.0]


@every
def test_a_vector_cannot_be_changed_behind_the_schedule(name):
    lr = np.array([0.1, 0.2])
    schedule = FORMULAS[name](lr, lr / 2)
    before = schedule(3).tolist()
    lr[:] = 99
    again = pickle.loads(pickle.dumps(schedule))
    for each in (schedule, again):
        rates = each(3)
        if rates.flags.writeable:
            rates[:] = -1
        assert each(3).tolist() == before


@every
@pytest.mark.parametrize("lr", [0.1, np.array([0.1, 0.2, 1 / 3])], ids=["number", "vector"])
def test_a_schedule_comes_back_from_its_config_as_json(name, lr):
    schedule = FORMULAS[name](lr, lr / 7)
    again = from_config(json.loads(json.dumps(schedule.config())))
    assert (again, type(again)) == (schedule, type(schedule))
    assert all(np.array_equal(again(step), schedule(step)) for step in range(100))


@every
def test_a_schedule_is_a_value(name):
    schedule, same, other = FORMULAS[name](0.1), FORMULAS[name](0.1), FORMULAS[name](0.2)
    assert (schedule == same, hash(schedule) == hash(same), schedule == other) == (True, True, False)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    with pytest.raises(AttributeError, match="cannot assign"):
        schedule.lr = 1.0


@every
def test_the_repr_is_the_call_that_makes_it(name):
    schedule = FORMULAS[name](0.1, 0.01)
    assert eval(repr(schedule), vars(schedules).copy()) == schedule


def test_the_repr_leaves_out_what_is_as_usual():
    assert repr(cosine_restarts(1, 10, low=0)) == "cosine_restarts(lr=1.0, t_0=10)"
    assert cosine(1, 10, low=0) == cosine(1.0, 10)
    assert hash(cosine(1, 10, low=0)) == hash(cosine(1.0, 10))


def test_schedules_of_other_members_or_another_kind_are_not_equal():
    assert constant(np.array([0.1, 0.2])) != constant(np.array([0.1, 0.3]))
    assert constant(np.array([0.1])) != constant(0.1)
    assert step_decay(0.1, 0.5, 10) != exponential(0.1, 0.5, 10)
    assert (constant(0.1) == "constant") is False


def test_every_schedule_can_be_written_down_and_has_an_example():
    own = {name: getattr(schedules, name) for name in schedules.__all__}
    formulas = {
        name: kind
        for name, kind in own.items()
        if isinstance(kind, type) and issubclass(kind, schedules.Formula) and kind is not schedules.Formula
    }
    assert formulas == schedules.SCHEDULES
    assert [name for name, kind in formulas.items() if ">>>" not in (kind.__doc__ or "")] == []


# What each computes


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


def test_a_smooth_exponential_meets_the_other_where_epochs_begin():
    smooth, stairs = exponential(1.0, 0.5, 4, smooth=True), exponential(1.0, 0.5, 4)
    assert [smooth(step) for step in (0, 4, 8)] == [stairs(step) for step in (0, 4, 8)] == [1.0, 0.5, 0.25]
    assert smooth(2) == pytest.approx(math.sqrt(0.5), rel=1e-15)


def test_a_drop_comes_at_the_step_that_is_named():
    assert [step_decay(1.0, 0.5, every=2)(step) for step in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert [milestones(1.0, 0.5, at=[1, 3])(step) for step in range(5)] == [1, 0.5, 0.5, 0.25, 0.25]


def test_a_cosine_is_level_at_both_ends_and_stays_down():
    schedule = cosine(3.0, 60, low=1.0)
    wanted = [3.0, 2 + math.sqrt(3) / 2, 2.5, 2.0, 1.5, 1.0, 1.0, 1.0]
    assert [schedule(step) for step in (0, 10, 20, 30, 40, 60, 61, 10**6)] == pytest.approx(wanted, rel=1e-15)
    assert (schedule(0), schedule(60), schedule(10**6)) == (3.0, 1.0, 1.0)


@given(st.floats(1e-9, 1e6), st.integers(1, 50), st.integers(1, 4), st.integers(0, 8), st.data())
def test_each_restart_is_a_cosine_of_its_own_length(lr, t_0, t_mult, cycle, data):
    begin, length = sum(t_0 * t_mult**i for i in range(cycle)), t_0 * t_mult**cycle
    step = data.draw(st.integers(0, length - 1))
    assert cosine_restarts(lr, t_0, t_mult)(begin + step) == cosine(lr, length)(step)


@pytest.mark.parametrize("t_0", [1, 7, 10])
@pytest.mark.parametrize("t_mult", [2, 3])
def test_the_restarts_of_a_long_run_are_found_to_the_step(t_0, t_mult):
    # A logarithm, by which PyTorch finds the cycle of a step, is a cycle early at some of these.
    schedule = cosine_restarts(1.0, t_0, t_mult)
    restarts = [t_0 * (t_mult**n - 1) // (t_mult - 1) for n in range(31)]
    assert [schedule(step) for step in restarts] == [1.0] * 31
    assert [schedule(step - 1) < 1 for step in restarts[2:]] == [True] * 29


def test_triangles_touch_low_and_their_peaks():
    assert [cyclic(1.0, 2, 4)(step) for step in range(8)] == [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0.5]
    peaks = range(2, 40, 6)
    assert [cyclic(1.0, 2, 4, 0.5)(step) for step in peaks] == [1.0] * 7
    halved = cyclic(1.5, 2, 4, 0.5, "triangular2")
    assert [halved(step) for step in peaks] == [0.5 + 0.5**i for i in range(7)]
    shrinking = cyclic(1.5, 2, 4, 0.5, "exp_range", 0.9)
    assert [shrinking(step) for step in peaks] == pytest.approx([0.5 + 0.9**step for step in peaks], rel=1e-15)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_one_cycle_goes_from_its_start_over_its_peak_to_its_end(anneal):
    schedule = one_cycle(1.0, 101, 30 / 101, div=10, final_div=100, anneal=anneal)
    assert [schedule(step) for step in (0, 29, 100, 101, 10**6)] == pytest.approx([0.1, 1, 1e-3, 1e-3, 1e-3], rel=1e-9)
    rates = [schedule(step) for step in range(101)]
    assert sorted(rates[:30]) == rates[:30]
    assert sorted(rates[29:], reverse=True) == rates[29:]


def test_in_three_phases_the_way_down_to_the_start_is_as_long_as_the_way_up():
    schedule = one_cycle(1.0, 100, 0.41, div=10, final_div=100, anneal="linear", three_phase=True)
    assert [schedule(step) for step in (0, 20, 40, 60, 80, 99)] == pytest.approx([0.1, 0.55, 1, 0.55, 0.1, 1e-3])


@pytest.mark.parametrize(
    ("steps", "rise", "rates"), [(1, 0.3, [4e-6]), (2, 0.5, [1.0, 4e-6]), (10, 0.1, [1.0]), (3, 1, [0.04, 0.52, 1.0])]
)
def test_a_way_of_no_length_is_left_out(steps, rise, rates):
    schedule = one_cycle(1.0, steps, rise, anneal="linear")
    assert [schedule(step) for step in range(len(rates))] == pytest.approx(rates)


@given(st.integers(1, 100), st.floats(0, 1), STEPS)
def test_a_warm_up_rises_in_a_line_and_then_lets_the_schedule_begin(steps, start, step):
    follows = cosine_restarts(1.0, 10, 2)
    schedule = warm_up(follows, steps, start)
    wanted = [start + (1 - start) * step / steps for step in range(steps)]
    assert [schedule(step) for step in range(steps)] == pytest.approx(wanted)
    assert schedule(steps + step) == follows(step)


def test_a_warm_up_begins_above_zero_unless_told_otherwise():
    assert [warm_up(constant(1.0), 3)(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert warm_up(constant(1.0), 3, start=0)(0) == 0


def test_links_of_a_chain_count_from_their_own_beginning():
    schedule = chain([constant(9.0), float, step_decay(0.5, 0.5, 1)], [2, 4])
    assert [schedule(step) for step in range(7)] == [9, 9, 0, 1, 0.5, 0.25, 0.125]
    assert chain([constant(9.0)], [])(5) == 9


# Minima


CYCLES = {
    "restarts": cosine_restarts(1.0, 10),
    "longer restarts": cosine_restarts(1.0, 10, 2, 0.1),
    "triangles": cyclic(1.0, 6, 4),
    "halved triangles": cyclic(1.0, 6, 4, 0.1, "triangular2"),
    "after a warm-up": warm_up(cosine_restarts(1.0, 10), 7),
    "in a chain": chain([cosine_restarts(1.0, 10), cosine_restarts(0.5, 7, 3)], [40]),
}


@pytest.mark.parametrize("name", CYCLES)
@pytest.mark.parametrize("steps", [0, 1, 9, 10, 11, 40, 41, 57, 70, 150])
def test_minima_are_where_the_rate_stops_falling(name, steps):
    schedule = CYCLES[name]
    rates = [schedule(step) for step in range(steps)]
    lowest = [s for s in range(1, steps - 1) if rates[s - 1] > rates[s] < rates[s + 1]]
    assert [step for step in schedule.minima(steps) if step != steps - 1] == lowest


def test_a_run_of_whole_cycles_has_one_minimum_each():
    assert cosine_restarts(1.0, 20).minima(100) == [19, 39, 59, 79, 99]
    assert cosine_restarts(1.0, 10, 2).minima(150) == [9, 29, 69, 149]
    assert cyclic(1.0, 10).minima(100) == [20, 40, 60, 80, 99]
    assert warm_up(cosine_restarts(1.0, 10), 5).minima(25) == [14, 24]
    assert chain([cosine_restarts(1.0, 10), cosine_restarts(0.1, 20)], [20]).minima(60) == [9, 19, 39, 59]


def test_a_cycle_that_is_cut_short_has_none():
    assert cosine_restarts(1.0, 20).minima(99) == [19, 39, 59, 79]
    assert cyclic(1.0, 10).minima(99) == [20, 40, 60, 80]
    assert chain([cosine_restarts(1.0, 10), constant(1.0)], [15]).minima(100) == [9]
    assert warm_up(cosine_restarts(1.0, 10), 50).minima(20) == []


def test_what_has_no_cycles_has_no_minima():
    names = ["constant", "exponential", "step decay", "milestones", "cosine", "one cycle"]
    assert [FORMULAS[name](0.1).minima(1000) for name in names] == [[]] * 6
    assert warm_up(lambda step: 0.1, 5).minima(100) == []


@pytest.mark.parametrize("schedule", CYCLES.values(), ids=CYCLES)
@pytest.mark.parametrize("steps", [-1, 2.5, None])
def test_minima_want_the_number_of_steps(schedule, steps):
    with pytest.raises(OptionError, match=f"steps must be an integer of at least 0, got {steps}"):
        schedule.minima(steps)


# What is refused


@every
@pytest.mark.parametrize("lr", [-1, -1e-9, float("nan"), float("inf"), "0.1", None, True])
def test_a_learning_rate_that_is_no_finite_number_from_0_is_refused_by_value(name, lr):
    with pytest.raises(OptionError, match=f"lr must be a finite number >= 0, got {lr!r}"):
        FORMULAS[name](lr)


@every
@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_of_a_vector_the_wrong_member_is_named(name, wrong):
    with pytest.raises(OptionError, match=f"lr must be finite numbers >= 0, got {wrong!r} for member 2"):
        FORMULAS[name](np.array([0.1, 0.2, wrong]))


@every
@pytest.mark.parametrize(
    "lr", [np.ones((2, 2)), np.array(0.1), [], ["a"], [None], [True], [[1.0], [1.0, 2.0]]], ids=str
)
def test_what_is_no_vector_of_numbers_is_refused(name, lr):
    with pytest.raises(OptionError, match=r"lr must be a finite number >= 0, or a vector \[M\]"):
        FORMULAS[name](lr)


@pytest.mark.parametrize("make", [lambda d: exponential(0.1, d, 1), lambda d: step_decay(0.1, d, 1)])
@pytest.mark.parametrize("decay", [0, -0.5, 1.1, float("nan"), float("inf"), "0.9", None, [0.5, 0.0], [1.5]])
def test_a_decay_outside_0_to_1_is_refused(make, decay):
    with pytest.raises(OptionError, match="decay "):
        make(decay)
    with pytest.raises(OptionError, match="decay "):
        milestones(0.1, decay, [1])


@pytest.mark.parametrize("steps", [0, -1, 2.5, "3", None])
def test_lengths_are_whole_numbers_from_1(steps):
    for name, make in {
        "steps_per_epoch": lambda n: exponential(0.1, 0.9, n),
        "every": lambda n: step_decay(0.1, 0.9, n),
        "steps": lambda n: cosine(0.1, n),
        "t_0": lambda n: cosine_restarts(0.1, n),
        "t_mult": lambda n: cosine_restarts(0.1, 10, n),
        "up": lambda n: cyclic(0.1, n),
    }.items():
        with pytest.raises(OptionError, match=f"{name} must be an integer of at least 1, got {steps!r}"):
            make(steps)
    for make in (lambda n: one_cycle(0.1, n), lambda n: warm_up(constant(0.1), n)):
        with pytest.raises(OptionError, match=f"steps must be an integer of at least 1, got {steps!r}"):
            make(steps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cosine(0.1, 10, 0.2), r"low is the lowest rate and must be at most lr, got low 0\.2 and lr 0\.1$"),
        (lambda: cosine_restarts([0.1, 0.3], 10, low=0.2), r"got low 0\.2 and lr 0\.1 for member 0"),
        (lambda: cyclic(0.1, 10, low=[0.0, 0.1, 0.2]), r"got low 0\.2 and lr 0\.1 for member 2"),
        (lambda: cosine(0.1, 10, -0.1), "low must be a finite number >= 0"),
        (lambda: cosine([0.1, 0.1], 10, [0.0] * 3), "vectors .* as long as each other, got lr for 2, low for 3"),
        (lambda: exponential([0.1, 0.1], [0.9] * 3, 1), "vectors .* as long as each other, got lr for 2, decay for 3"),
        (lambda: cyclic(0.1, 10, 0), "down must be an integer of at least 1, got 0"),
        (lambda: cyclic(0.1, 10, mode="triangle"), "unknown mode 'triangle': did you mean 'triangular'"),
        (
            lambda: cyclic(0.1, 10, gamma=0.9),
            "gamma belongs to mode \"exp_range\", got gamma 0.9 with mode 'triangular'",
        ),
        (lambda: cyclic(0.1, 10, mode="exp_range", gamma=1.1), r"gamma is a factor and must be in \(0, 1\], got 1\.1"),
        (lambda: cyclic(0.1, 10, mode="exp_range", gamma=[0.9]), r"gamma must be a finite number >= 0, got \[0\.9\]"),
        (lambda: one_cycle(0.1, 10, 1.5), r"rise is a fraction of the steps and must be in \[0, 1\]; got 1\.5"),
        (lambda: one_cycle(0.1, 10, 0.6, three_phase=True), r"must be in \[0, 0\.5\] in three phases.*; got 0\.6"),
        (lambda: one_cycle(0.1, 10, div=0.5), r"div divides a rate .* at least 1, got 0\.5"),
        (lambda: one_cycle(0.1, 10, final_div=0), r"final_div divides a rate .* at least 1, got 0\.0"),
        (lambda: one_cycle(0.1, 10, anneal="cosine"), "unknown anneal 'cosine': did you mean 'cos'"),
        (lambda: milestones(0.1, 0.5, 3), "at must be a list of steps, got 3"),
        (lambda: milestones(0.1, 0.5, [3, 3]), r"at must ascend, got \[3, 3\]"),
        (lambda: milestones(0.1, 0.5, [5, 0]), r"at\[1\] must be an integer of at least 1, got 0"),
        (lambda: warm_up(0.1, 10), r"schedule must be a schedule, a function of the step, got 0\.1"),
        (lambda: warm_up(constant(0.1), 10, 1.5), r"start is a fraction .* in \[0, 1\], got 1\.5"),
        (lambda: chain([], []), r"schedules must be a list of schedules, got \[\]"),
        (lambda: chain(constant(0.1), []), r"schedules must be a list of schedules, got constant"),
        (lambda: chain([constant(0.1), 3], [5]), r"schedules\[1\] must be a schedule"),
        (lambda: chain([constant(0.1), constant(0.2)], []), r"1 for 2 schedules, got \[\]"),
        (lambda: from_config("cosine"), "a schedule is a dict with its name and its arguments, got 'cosine'"),
        (lambda: from_config({"lr": 0.1}), "a schedule is a dict with its name"),
        (lambda: from_config({"name": "cosin", "lr": 0.1}), "unknown schedule 'cosin': did you mean 'cosine'"),
        (lambda: from_config({"name": ["cosine"]}), "unknown schedule"),
        (lambda: from_config({"name": "cosine", "lr": 0.1}), "cosine wants steps too"),
        (
            lambda: from_config({"name": "cosine", "lr": 0.1, "step": 3}),
            "unknown argument of cosine 'step': did you mean 'steps'",
        ),
        (lambda: from_config({"name": "cosine", "lr": 0.1, "steps": 0}), "steps must be an integer of at least 1"),
        (lambda: warm_up(float, 3).config(), "only the schedules of tinygrad_cr.schedules can be written down"),
    ],
)
def test_what_makes_no_schedule_is_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()
