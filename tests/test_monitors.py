"""Live monitors: each trouble is told by the right one and by no other, once; healthy runs hear nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_cr import ops
from tinygrad_cr.data import Dataset, Split, Standardizer, load, split
from tinygrad_cr.errors import DataError
from tinygrad_cr.nn import MLP, Affine, Dropout, Module, ReLU, Sequential
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train import Callback, Event, History, Setup, Steps, Trainer
from tinygrad_cr.train.callbacks import STEPS_BETWEEN_OBSERVATIONS
from tinygrad_cr.train.monitors import (
    Capacity,
    DeadUnits,
    Divergence,
    LossSpike,
    Overfitting,
    Pace,
    default_monitors,
)
from tinygrad_cr.train.monitors.curve import Curve

IMAGES = Path(__file__).parent / "data" / "cifar10-20.npz"
LN10 = math.log(10)


# Simulated runs


def rows_of(n: int = 40, features: int = 6) -> Dataset:
    return Dataset(np.random.default_rng(0).standard_normal((n, features)), np.arange(n) % 10)


def setup(model: Module | None = None, *, epochs: int = 10, steps_per_epoch: int = 100, rows: int = 40) -> Setup:
    model = MLP([6, 20, 10], generator=0) if model is None else model
    sample = rows_of(rows)
    named = dict(model.named_parameters())
    return Setup(
        model=model,
        standardizer=Standardizer("none").fit(sample.x),
        sample=sample,
        validation=rows_of(400),
        names=tuple(named),
        regularized=tuple(p.regularized for p in named.values()),
        classes=10,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
    )


def norms(*ratios: float) -> Any:
    """For weight, bias, weight, bias, ...: each weight with its ratio, each bias with an outrageous one."""
    return np.array([row for ratio in ratios for row in ([4.0, 4.0 * ratio**2], [1.0, 1.0])])


def blocks(costs: Sequence[float], steps_per_epoch: int) -> Iterable[tuple[int, int, list[float]]]:
    """Epoch, last step and costs of each block, cut as the trainer cuts them."""
    for begin in range(0, len(costs), steps_per_epoch):
        end = min(begin + steps_per_epoch, len(costs))
        for first in range(begin, end, STEPS_BETWEEN_OBSERVATIONS):
            last = min(first + STEPS_BETWEEN_OBSERVATIONS, end)
            yield begin // steps_per_epoch + 1, last, list(costs[first:last])


def watch(
    monitor: Callback,
    costs: Sequence[float],
    given: Setup | None = None,
    ratios: Callable[[int], Sequence[float]] = lambda step: (1e-3, 1e-3),
    lr: Callable[[int], float] = lambda step: 0.01,
) -> list[Event]:
    """What a monitor says about a run with these costs."""
    given = setup() if given is None else given
    monitor.start(given)
    history = History()
    for epoch, step, part in blocks(costs, given.steps_per_epoch):
        seen = Steps(epoch, step, tuple(part), lr(step), norms(*ratios(step)))
        history.events += monitor.steps(seen) or ()
        if history.stopped:
            break
        if step % given.steps_per_epoch == 0:
            history.append(row(epoch, step=step, loss=part[-1], lr=lr(step)))
            history.events += monitor.epoch(history[-1]) or ()
    history.events += monitor.stop(history) or ()
    return history.events


def row(epoch: int, **values: Any) -> dict[str, Any]:
    usual = {"step": 100 * epoch, "loss": 1.0, "accuracy": 0.9, "val_loss": None, "val_accuracy": None, "lr": 0.01}
    return {"epoch": epoch} | usual | values


def kinds(events: Iterable[Event]) -> list[str]:
    return [event.kind for event in events]


def noisy(costs: Any, spread: float = 0.1, seed: int = 0) -> list[float]:
    costs = np.asarray(costs, float)
    return [float(c) for c in costs * np.exp(spread * np.random.default_rng(seed).standard_normal(len(costs)))]


def falling(steps: int, time: float = 100.0, start: float = 2.6, end: float = 0.3) -> Any:
    return end + (start - end) * np.exp(-np.arange(steps) / time)


HEALTHY = noisy(falling(1000))


def test_healthy_costs_are_no_event_for_anybody():
    assert [kinds(watch(monitor, HEALTHY)) for monitor in default_monitors()] == [[]] * 7


# Divergence


@pytest.mark.parametrize("cost", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 30, 50, 101, 777])
def test_a_cost_that_is_no_number_ends_the_run_at_its_step(cost, step):
    (event,) = watch(Divergence(), [*HEALTHY[: step - 1], cost])
    assert (event.level, event.kind, event.step, event.epoch, event.stop) == (
        "fail",
        "divergence",
        step,
        (step - 1) // 100 + 1,
        True,
    )
    assert f"became {cost} in epoch {event.epoch}, step {step}" in event.message
    reason = "before any update: weights or inputs" if step == 1 else "learning rate, 0.01, is too high; try 0.001"
    assert reason in event.message


@pytest.mark.parametrize("key", ["loss", "val_loss"])
def test_an_evaluation_that_is_no_number_ends_the_run(key):
    monitor = Divergence()
    monitor.start(setup())
    (event,) = monitor.epoch(row(3, lr=10.0, **{key: math.nan}))
    assert (event.kind, event.epoch, event.step, event.stop) == ("divergence", 3, 300, True)
    assert "the learning rate, 10, is too high; try 1" in event.message


def test_a_cost_that_is_no_number_is_seen_without_norms():
    monitors = default_monitors()
    for monitor in monitors:
        monitor.start(setup())
    seen = Steps(1, 3, (2.3, 2.2, math.nan), 0.1, None)
    assert kinds(event for monitor in monitors for event in monitor.steps(seen) or ()) == ["divergence"]


def test_a_cost_above_three_times_the_original_ends_the_run():
    events = watch(Divergence(), [2.5, 2.5, 7.4, 7.6, 9.0, 20.0, 30.0])
    assert [(e.level, e.kind, e.step, e.value, e.stop) for e in events] == [("fail", "explosion", 6, 7.6, True)]
    assert "more than 3 times the original 2.5: the learning rate, 0.01, is too high; try 0.001" in events[0].message


def test_an_explosion_across_two_blocks_is_seen_at_its_step():
    assert [e.step for e in watch(Divergence(), [2.5] * 48 + [9.0] * 5)] == [51]


@pytest.mark.parametrize("costs", [[9, 9, 2, 2, 2] * 40, [7.4] * 200], ids=["two of five", "just below"])
def test_noisy_minibatches_are_no_explosion(costs):
    assert watch(Divergence(), [2.5, *costs]) == []


def test_a_network_that_was_trained_before_may_rise_to_what_knowing_nothing_costs():
    assert watch(Divergence(), [0.01] + [2.9 * LN10] * 100) == []
    assert kinds(watch(Divergence(), [0.01] + [3.1 * LN10] * 100)) == ["explosion"]


def test_a_run_that_begins_with_a_high_cost_is_measured_by_it():
    assert watch(Divergence(), [50.0] + [140.0] * 9) == []


# Loss spikes


def spiked(at: int, cost: float, costs: Sequence[float] = HEALTHY) -> list[float]:
    return [*costs[: at - 1], cost, *costs[at:]]


@pytest.mark.parametrize("at", [51, 100, 101, 649, 996, 1000])
def test_a_minibatch_out_of_line_is_told_with_its_step_and_z_score(at):
    (event,) = watch(LossSpike(), spiked(at, 9.0))
    assert (event.level, event.kind, event.step, event.epoch, event.stop) == (
        "warn",
        "loss_spike",
        at,
        (at - 1) // 100 + 1,
        False,
    )
    assert event.value > 6
    assert f"jumped to 9 in epoch {event.epoch}, step {at}" in event.message
    assert f"z-score {event.value:.1f}" in event.message


def test_a_second_spike_is_not_told():
    assert [e.step for e in watch(LossSpike(), spiked(800, 12.0, spiked(400, 9.0)))] == [400]


def test_before_the_usual_is_known_nothing_is_a_spike():
    assert watch(LossSpike(), spiked(30, 9.0)) == []


def test_a_jump_that_is_small_beside_the_original_cost_is_no_spike():
    learned = noisy(falling(1000, end=0.01))
    assert watch(LossSpike(), spiked(900, 0.4, learned)) == []
    assert kinds(watch(LossSpike(), spiked(900, 0.8, learned))) == ["loss_spike"]


def test_costs_that_jump_all_the_time_are_no_spikes():
    assert watch(LossSpike(), noisy(falling(1000), spread=1.5)) == []


def test_an_explosion_is_no_spike():
    assert watch(LossSpike(), HEALTHY[:500] + [10.0 * 2**i for i in range(40)]) == []


def test_a_spike_that_ends_in_nan_is_left_to_divergence():
    assert watch(LossSpike(), [*HEALTHY[:500], 50.0, math.nan]) == []


def test_an_interrupted_run_leaves_its_last_spike_to_the_resumed_one():
    monitor = LossSpike()
    monitor.start(setup())
    assert not list(monitor.steps(Steps(6, 600, tuple(spiked(598, 9.0)[:600]), 0.1, norms(1e-3, 1e-3))))
    interrupted = Event("note", "interrupted", 6, 600, None, "interrupted", stop=True)
    assert not list(monitor.stop(History([row(6)], [interrupted])))
    assert [e.step for e in monitor.steps(Steps(7, 610, (0.3,) * 10, 0.1, norms(1e-3, 1e-3)))] == [598]


# Pace: a cost that barely moves

FLAT = noisy([2.6] * 1000, spread=0.03)
SLOW = noisy(np.linspace(2.6, 2.4, 1000), spread=0.03)
TINY = {"model": MLP([6, 20, 10], init=1e-3, generator=0)}


@pytest.mark.parametrize("costs", [FLAT, SLOW], ids=["flat", "almost flat"])
def test_a_cost_that_barely_moves_with_tiny_updates_is_a_rate_too_low(costs):
    (event,) = watch(Pace(), costs, ratios=lambda step: (1e-5, 2e-5))
    assert (event.level, event.kind, event.epoch, event.step, event.stop) == ("warn", "slow", 1, 100, False)
    assert "in the 100 steps up to epoch 1: the learning rate, 0.01, is probably too low; try 1" in event.message


@pytest.mark.parametrize(("steps_per_epoch", "told"), [(1, 50), (20, 60), (49, 98), (50, 50), (100, 100), (1000, 1000)])
def test_slowness_is_judged_after_an_epoch_and_fifty_steps(steps_per_epoch, told):
    given = setup(steps_per_epoch=steps_per_epoch)
    assert [e.step for e in watch(Pace(), FLAT, given, lambda step: (1e-6, 1e-6))] == [told]


@pytest.mark.parametrize(("steps", "verdict"), [(49, []), (50, ["slow"])])
def test_a_run_that_ends_early_is_judged_if_it_had_fifty_steps(steps, verdict):
    given = setup(steps_per_epoch=steps, epochs=1)
    assert kinds(watch(Pace(), FLAT[:steps], given, lambda step: (1e-6, 1e-6))) == verdict


def test_where_minibatches_differ_more_than_the_cost_may_have_moved_more_steps_are_waited_for():
    (event,) = watch(Pace(), noisy([2.6] * 1000, spread=0.3), ratios=lambda step: (1e-6, 1e-6))
    assert event.kind == "slow"
    assert event.step >= 300


def test_a_rate_of_zero_is_named():
    (event,) = watch(Pace(), FLAT, ratios=lambda step: (0.0, 0.0), lr=lambda step: 0.0)
    assert "the learning rate is 0" in event.message


def test_a_cost_that_stays_although_weights_change_a_lot_is_told_as_such():
    (event,) = watch(Pace(), FLAT, ratios=lambda step: (0.05, 0.03))
    assert event.kind == "slow"
    assert "changes weights by 0.03 of their size, so the learning rate, 0.01, is hardly too low" in event.message


def test_a_network_that_was_trained_before_is_not_slow():
    assert watch(Pace(), noisy([0.4] * 1000), ratios=lambda step: (1e-3, 1e-3)) == []


@pytest.mark.parametrize("steps_per_epoch", [300, 10_000])
def test_a_cost_that_fell_long_before_the_end_of_the_epoch_is_not_slow(steps_per_epoch):
    assert watch(Pace(), noisy(falling(10_000, time=50)), setup(steps_per_epoch=steps_per_epoch)) == []


# Pace: a flat start


def flat_then_falling(flat: int, steps: int = 1000) -> list[float]:
    return noisy(np.concatenate([[LN10] * flat, falling(steps - flat, time=20, start=LN10)]), spread=0.002)


@pytest.mark.parametrize("flat", [40, 60, 120, 200, 333])
def test_a_curve_that_is_flat_and_then_falls_has_a_bad_initialisation(flat):
    (event,) = watch(Pace(), flat_then_falling(flat), setup(steps_per_epoch=1000, epochs=1))
    assert (event.level, event.kind) == ("warn", "plateau")
    assert event.value == pytest.approx(flat, rel=0.1, abs=4)
    assert flat < event.step <= 2 * flat + 50
    assert "the initialisation is the prime suspect" in event.message


def test_the_longer_a_run_is_meant_to_be_the_longer_it_may_be_flat():
    run = flat_then_falling(60)
    verdicts = [watch(Pace(), run, setup(steps_per_epoch=1000, epochs=epochs)) for epochs in (3, 4)]
    assert [kinds(events) for events in verdicts] == [["plateau"], []]


@pytest.mark.parametrize(
    "costs",
    [flat_then_falling(9), HEALTHY, np.linspace(2.6, 0.3, 1000), noisy(falling(1000, time=1000), spread=0.3)],
    ids=["the lecture's", "falling", "straight", "slow and noisy"],
)
@pytest.mark.parametrize("steps_per_epoch", [1, 40, 1000])
def test_a_short_flat_start_and_a_steady_fall_are_nothing(costs, steps_per_epoch):
    given = setup(steps_per_epoch=steps_per_epoch, epochs=1000 // steps_per_epoch)
    assert watch(Pace(), list(costs), given) == []


@pytest.mark.parametrize("ratios", [(0.02, 0.02), (1e-9, 1e-5)], ids=["moving", "still"])
def test_a_flat_cost_of_a_network_that_says_nothing_has_a_bad_initialisation(ratios):
    (event,) = watch(Pace(), [LN10] * 300, setup(**TINY), lambda step: ratios)
    assert (event.kind, event.step) == ("plateau", 100)
    assert "the initialisation is the prime suspect; init='he'" in event.message


def test_a_weight_that_does_not_move_at_all_is_named():
    (event,) = watch(Pace(), [LN10] * 300, setup(MLP([6, 20, 10], init=0.0)), lambda step: (0.0, 0.0))
    assert event.kind == "plateau"
    assert "layers.0.weight does not move at all" in event.message


def test_a_tiny_rate_is_to_blame_even_where_the_initialisation_is_small():
    # The lecture's demonstration: 1e-6 where 1e-3 learns, from weights of 1e-4.
    (event,) = watch(Pace(), [LN10] * 300, setup(**TINY), lambda step: (1e-5, 1e-4), lambda step: 1e-6)
    assert (event.kind, event.message.split("; ")[-1]) == ("slow", "try 0.0001")


# Pace: update ratios


def test_a_ratio_out_of_bounds_is_told_once_for_each_weight_and_never_for_a_bias():
    high = watch(Pace(), HEALTHY * 3, ratios=lambda step: (0.03, 2e-3))
    assert [(e.level, e.kind, e.value) for e in high] == [("warn", "update_ratio", pytest.approx(0.03))]
    assert "changes layers.0.weight by 3.0e-02 of its size in epoch 3" in high[0].message
    assert "is too high for it; try 0.001" in high[0].message


@pytest.mark.parametrize(("ratio", "told"), [(2e-5, True), (9e-5, True), (1.1e-4, False), (9e-3, False), (0.011, True)])
def test_the_bounds_are_a_tenth_and_ten_times_what_is_wanted(ratio, told):
    costs = noisy(falling(1000, time=300))
    assert kinds(watch(Pace(), costs, ratios=lambda step: (1e-3, ratio))) == ["update_ratio"] * told


def test_both_weights_are_told():
    events = watch(Pace(), HEALTHY, ratios=lambda step: (0.03, 0.04))
    assert ["layers.0" in e.message for e in events] == [True, False]


def test_single_ratios_out_of_bounds_are_nothing():
    assert watch(Pace(), HEALTHY, ratios=lambda step: (0.1 if step % 150 == 0 else 1e-3, 1e-3)) == []


def test_the_first_fifty_steps_do_not_count():
    assert watch(Pace(), HEALTHY, ratios=lambda step: (1.0 if step <= 50 else 1e-3, 1e-3)) == []


def test_low_ratios_are_nothing_when_the_data_is_learned():
    learned = noisy(falling(1000, time=10, end=0.05))
    assert watch(Pace(), learned, ratios=lambda step: (1e-6, 1e-6)) == []


def test_low_ratios_are_nothing_when_the_rate_was_lowered_on_purpose():
    def lr(step: int) -> float:
        return 0.01 if step <= 200 else 0.001

    assert watch(Pace(), HEALTHY, ratios=lambda step: (lr(step) / 100, 1e-3), lr=lr) == []
    assert watch(Pace(), HEALTHY, ratios=lambda step: (lr(step) / 200, 1e-3)) != []


def test_a_frozen_weight_has_no_ratio():
    model = MLP([6, 20, 10], generator=0)
    model.layers[0].weight.requires_grad = False
    assert watch(Pace(), HEALTHY, setup(model), lambda step: (0.0, 1e-3)) == []


def test_after_slow_or_plateau_ratios_are_not_told_as_well():
    assert kinds(watch(Pace(), [*FLAT, *HEALTHY], ratios=lambda step: (1e-6, 1e-6))) == ["slow"]
    plateau = watch(Pace(), flat_then_falling(150), setup(steps_per_epoch=1000, epochs=1), lambda step: (0.05, 0.05))
    assert kinds(plateau) == ["plateau"]


# The curve


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 1000, 12345])
def test_a_curve_keeps_the_means_of_equal_stretches(steps):
    costs = noisy(falling(steps))
    curve = Curve()
    for begin in range(0, steps, 50):
        curve.add(costs[begin : begin + 50])
    whole = np.array(costs[: len(curve.means) * curve.width]).reshape(-1, curve.width)
    np.testing.assert_allclose(curve.means, whole.mean(axis=1), rtol=1e-12)
    assert (curve.count, len(curve.means) < 64) == (steps, True)


def test_the_uncertainty_of_a_curve_is_that_of_a_difference_of_means():
    curves = [noisy(np.linspace(2.6, 1.6, 400), 0.1, seed) for seed in range(200)]
    found = []
    for costs in curves:
        curve = Curve()
        curve.add(costs)
        found.append((curve.mean(0, 1 / 4) - curve.mean(3 / 4, 1), curve.uncertainty(1 / 4)))
    differences, claimed = np.array(found).T
    assert claimed.mean() == pytest.approx(differences.std(), rel=0.15)


# Dead units


def look(model: Module, rows: int = 40) -> list[Event]:
    monitor = DeadUnits()
    monitor.start(setup(model, rows=rows))
    return list(monitor.epoch(row(1)))


def partly_dead(dead: int, *layers: Module) -> Sequential:
    first = Affine(6, 20, generator=0)
    first.bias.data[:dead] = -100
    return Sequential(first, *(layers or (ReLU(), Dropout(0.3, generator=0))), Affine(20, 10, generator=1))


@pytest.mark.parametrize(("dead", "told"), [(0, []), (8, []), (9, ["warn"]), (19, ["warn"]), (20, ["fail"])])
def test_many_dead_units_are_a_warning_and_a_dead_layer_is_the_end(dead, told):
    events = look(partly_dead(dead))
    assert [(e.level, e.kind, e.value, e.stop) for e in events] == [
        (level, "dead_units", dead / 20, level == "fail") for level in told
    ]


def test_the_layer_and_its_dead_part_are_named():
    (event,) = look(partly_dead(12))
    assert "60% of the units of layers.1 are 0 on all of 40 rows after epoch 1" in event.message


def test_fused_layers_have_dead_units_too():
    model = MLP([6, 20, 20, 10], dropout=0.5, generator=0)
    model.layers[1].bias.data[:] = -100
    (event,) = look(model)
    assert (event.level, "layers.1 " in event.message) == ("fail", True)


def test_a_dead_layer_beside_which_something_flows_is_a_warning():
    class Skipping(Module):
        def __init__(self) -> None:
            self.dead, self.alive = partly_dead(20), Affine(6, 10, generator=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.dead(x) + self.alive(x)

    assert [(e.level, e.stop) for e in look(Skipping())] == [("warn", False)]


class Sigmoid(Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.0 / (1.0 + ops.exp(-x))


@pytest.mark.parametrize(
    "model",
    [
        MLP([6, 10], init=0.0),
        MLP([6, 20, 10], init=0.0),
        MLP([6, 20, 10], init=1e-4, generator=0),
        Sequential(Affine(6, 20, generator=0), Sigmoid(), Affine(20, 10, generator=1)),
    ],
    ids=["a last layer of zeros", "weights of zero", "tiny weights", "no ReLU"],
)
def test_what_is_not_a_dead_relu_is_not_told(model):
    assert look(model) == []


def test_too_few_rows_say_nothing():
    assert (look(partly_dead(20), rows=15), len(look(partly_dead(20), rows=16))) == ([], 1)


def test_dead_units_are_told_once_and_a_dead_layer_still_afterwards():
    model, monitor = partly_dead(12), DeadUnits()
    monitor.start(setup(model))
    assert len(list(monitor.epoch(row(1)))) == 1
    assert list(monitor.epoch(row(2))) == []
    model.layers[0].bias.data[:] = -100
    assert [e.level for e in monitor.epoch(row(3))] == ["fail"]


def test_short_epochs_are_not_all_looked_at():
    class Counted(MLP):
        looks = 0

        def forward(self, x: Tensor) -> Tensor:
            Counted.looks += 1
            return super().forward(x)

    monitor = DeadUnits()
    monitor.start(setup(Counted([6, 20, 10], generator=0), steps_per_epoch=1))
    for step in range(1, 201):
        list(monitor.epoch(row(step, step=step)))
    assert Counted.looks == 4


# Overfitting and capacity


def gaps(
    losses: Sequence[float | None],
    accuracy: float = 1.0,
    val_accuracy: float = 0.95,
    costs: Callable[[int], float] = lambda epoch: 1 / epoch,
) -> list[Event]:
    monitor = Overfitting()
    monitor.start(setup())
    events: list[Event] = []
    for epoch, loss in enumerate(losses, 1):
        val_accuracy_then = None if loss is None else val_accuracy
        seen = row(epoch, loss=costs(epoch), accuracy=accuracy, val_loss=loss, val_accuracy=val_accuracy_then)
        events += monitor.epoch(seen)
    return events


def test_a_validation_loss_that_rises_while_the_training_cost_falls_is_overfitting():
    (event,) = gaps([1.0, 0.6, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9])
    assert (event.level, event.kind, event.epoch, event.stop) == ("warn", "overfitting", 7, False)
    assert "is 0.7 after epoch 7 and was 0.5 in epoch 3" in event.message
    assert "more dropout, more reg or more data" in event.message


def test_a_wide_gap_that_no_longer_closes_is_overfitting():
    (event,) = gaps([1.0, 0.6] + [0.6 - 0.001 * i for i in range(10)], val_accuracy=0.8)
    assert (event.epoch, event.value) == (7, pytest.approx(0.2))
    assert "is 0.596 after epoch 7 and was 0.6 in epoch 2" in event.message


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 0.6, 0.5, 0.7, 0.7, 0.5, 0.7, 0.7, 0.5, 0.7, 0.7],
        [1.0, 0.6] + [0.61, 0.62, 0.64] * 5,
        [1.0, 0.6, 0.5, None, None, 0.7, None],
        [0.05] + [0.07] * 10,
        [1.0, 0.6, 0.5, 0.7, 0.7, math.nan, math.inf],
    ],
    ids=["up and down", "flat", "seldom validated", "next to nothing", "diverged"],
)
def test_noise_of_the_validation_loss_is_no_overfitting(losses):
    assert gaps(losses) == []


def test_a_validation_loss_that_rises_together_with_the_training_cost_is_something_else():
    assert gaps([1.0, 0.5] + [0.8] * 10, costs=lambda epoch: 0.1 * epoch) == []


def test_a_wide_gap_is_nothing_while_the_validation_loss_falls():
    assert gaps([1 / epoch for epoch in range(1, 20)], val_accuracy=0.8) == []


def ended(
    accuracy: float = 0.6,
    val_accuracy: float = 0.58,
    *,
    epochs: int = 12,
    fall: float = 0.99,
    decay: float = 1.0,
    events: Sequence[Event] = (),
) -> list[Event]:
    monitor = Capacity()
    monitor.start(setup())
    rows = [
        row(i, loss=fall**i, accuracy=accuracy, val_loss=1.0, val_accuracy=val_accuracy, lr=decay**i)
        for i in range(1, epochs + 1)
    ]
    return list(monitor.stop(History(rows, events)))


def test_equally_poor_parts_and_a_flat_cost_are_a_note_about_capacity():
    (event,) = ended()
    assert (event.level, event.kind, event.epoch, event.value, event.stop) == ("note", "capacity", 12, 0.6, False)
    assert "(accuracy 0.600 and 0.580)" in event.message


WARNING = Event("warn", "slow", 1, 1, None, "slow")
INTERRUPTED = Event("note", "interrupted", 1, 1, None, "interrupted", stop=True)


@pytest.mark.parametrize(
    "options",
    [
        {"accuracy": 0.97, "val_accuracy": 0.95},
        {"val_accuracy": 0.4},
        {"fall": 0.9},
        {"decay": 0.5},
        {"epochs": 7},
        {"events": [WARNING]},
        {"events": [INTERRUPTED]},
    ],
    ids=["good", "a gap", "falling", "rate decayed", "short", "another finding", "interrupted"],
)
def test_otherwise_there_is_no_note_about_capacity(options):
    assert ended(**options) == []


def test_without_validation_nothing_is_said_about_a_gap():
    monitors = [Overfitting(), Capacity()]
    for monitor in monitors:
        monitor.start(setup())
    rows = [row(i) for i in range(1, 20)]
    assert [event for r in rows for event in monitors[0].epoch(r)] == []
    assert list(monitors[1].stop(History(rows))) == []


# Runs of the trainer


@cache
def digits(seed: int) -> Split:
    return split(load("digits"), seed=seed)


@cache
def fashion() -> Dataset:
    try:
        return load("fashion-mnist", download=False)
    except DataError as error:
        pytest.skip(str(error))


def fit(model: Module, parts: Split, seed: int, **options: Any) -> History:
    """The command line's defaults where nothing else is said."""
    usual: dict[str, Any] = {"lr": 0.01, "lr_decay": 0.97, "epochs": 40, "generator": Generator(seed, stream=1)}
    return Trainer(model, reporter=False, **usual | options).fit(parts.train, parts.validation)


def on_digits(seed: int, *hidden: int, dropout: float = 0.3, init: str | float = "he", **options: Any) -> History:
    model = MLP([64, *hidden, 10], dropout=dropout, init=init, generator=seed)
    return fit(model, digits(seed), seed, **options)


def on_few_digits(seed: int) -> History:
    parts = digits(seed)
    few = Split(parts.train.take(np.arange(100)), parts.validation, parts.test)
    return fit(MLP([64, 500, 500, 10], generator=seed), few, seed, epochs=40)


def on_images(seed: int, **options: Any) -> History:
    """The lecture's run on 20 images."""
    usual = {"lr": 1e-3, "momentum": 0, "epochs": 200, "batch_size": 20, "standardize": "mean-image"}
    model = MLP([3072, 50, 10], init=1e-4, generator=seed)
    return Trainer(model, generator=seed, reporter=False, **usual | options).fit(load(IMAGES))


def with_dead_layer(seed: int, layer: int) -> History:
    model = MLP([64, 100, 100, 10], dropout=0.3, generator=seed)
    model.layers[layer].bias.data[:] = -100
    return fit(model, digits(seed), seed, epochs=10)


class Corrupting(Module):
    """Turns the signs of one minibatch in training."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return -x if self.training and self.calls == self.at else x


def with_corrupt_minibatch(seed: int) -> History:
    layers = Affine(64, 100, generator=seed), ReLU(), Affine(100, 10, generator=seed + 1)
    return fit(Sequential(Corrupting(400), *layers), digits(seed), seed, epochs=20)


class Scaled(Affine):
    """The same function of other parameters: weights are `scale` times smaller, their ratio scale**2 times larger."""

    def __init__(self, inputs: int, outputs: int, scale: float, seed: int) -> None:
        super().__init__(inputs, outputs, generator=seed)
        self.scale = scale
        self.weight.data[...] /= scale

    def forward(self, x: Tensor) -> Tensor:
        return ops.affine(x, self.weight * self.scale, self.bias)


def with_scaled_layer(seed: int, scales: tuple[float, float], **options: Any) -> History:
    last = Scaled(100, 10, scales[1], seed + 1)
    model = Sequential(Scaled(64, 100, scales[0], seed), ReLU(), Dropout(0.5, generator=seed), last)
    return fit(model, digits(seed), seed, epochs=7, lr_decay=1, **options)


PLANTED: dict[str, tuple[Callable[[int], History], str]] = {
    "rate times 1000": (lambda seed: on_digits(seed, 200, lr=10.0), "divergence"),
    "rate times 100": (lambda seed: on_digits(seed, 200, lr=1.0), "explosion"),
    "rate over 1000": (lambda seed: on_digits(seed, 200, lr=1e-5), "slow"),
    "rate over 1000, without dropout": (lambda seed: on_digits(seed, 200, lr=1e-5, dropout=0.0), "slow"),
    "the lecture's rate over 1000": (lambda seed: on_images(seed, lr=1e-6), "slow"),
    "weights of zero": (lambda seed: on_digits(seed, 200, init=0.0), "plateau"),
    "weights of 1e-4": (lambda seed: on_digits(seed, 200, init=1e-4), "plateau"),
    "weights of 1e-4, deep": (lambda seed: on_digits(seed, 100, 100, 100, init=1e-4), "plateau"),
    "weights of 1e-2, deep": (lambda seed: on_digits(seed, 100, 100, 100, init=1e-2), "plateau"),
    "a dead first layer": (lambda seed: with_dead_layer(seed, 0), "dead_units"),
    "a dead second layer": (lambda seed: with_dead_layer(seed, 1), "dead_units"),
    "100 rows and 300,000 weights": (on_few_digits, "overfitting"),
    "a network of two units": (lambda seed: on_digits(seed, 2, dropout=0.0), "capacity"),
    "a corrupt minibatch": (with_corrupt_minibatch, "loss_spike"),
    "a layer that moves too much": (lambda seed: with_scaled_layer(seed, (1, 4), lr=0.01), "update_ratio"),
    "a layer that moves too little": (lambda seed: with_scaled_layer(seed, (0.1, 1), lr=0.003), "update_ratio"),
}
LEVELS = {"divergence": "fail", "explosion": "fail", "dead_units": "fail", "capacity": "note"}


def check_planted(trouble: str, seed: int) -> None:
    make, kind = PLANTED[trouble]
    level = LEVELS.get(kind, "warn")
    assert [(e.level, e.kind) for e in make(seed).events] == [(level, kind)]


@pytest.mark.parametrize("trouble", PLANTED)
def test_a_planted_trouble_is_told_by_the_right_monitor_and_by_no_other(trouble):
    check_planted(trouble, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 20))
@pytest.mark.parametrize("trouble", PLANTED)
def test_a_planted_trouble_is_told_from_every_seed(trouble, seed):
    check_planted(trouble, seed)


def on_fashion(seed: int) -> History:
    return fit(MLP([784, 256, 10], generator=seed), split(fashion(), seed=seed), seed, epochs=4, batch_size=128)


HEALTHY_RUNS: dict[str, Callable[[int], History]] = {
    "digits": lambda seed: on_digits(seed, 200),
    "20 images": on_images,
    "fashion-mnist": on_fashion,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["digits", "20 images"])
def test_a_healthy_run_hears_nothing(name, seed):
    assert HEALTHY_RUNS[name](seed).events == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", HEALTHY_RUNS)
def test_healthy_runs_from_every_seed_do_not_fail_and_are_warned_once_at_most(name, seed):
    levels = [event.level for event in HEALTHY_RUNS[name](seed).events]
    assert ("fail" in levels, levels.count("warn") <= 1) == (False, True)


def test_a_run_that_is_stopped_keeps_its_best_network_and_says_why():
    model = MLP([64, 200, 10], generator=0)
    kept = model.state_dict()
    history = fit(model, digits(0), 0, lr=10.0)
    assert "the learning rate, 10, is too high; try 1" in history.stopped
    assert all((value == kept[name]).all() for name, value in model.state_dict().items())


def test_every_event_names_its_epoch():
    events = [event for make, _ in PLANTED.values() for event in make(0).events]
    assert all(f"epoch {event.epoch}" in event.message for event in events)


# A run that is cut and resumed


class Cut(Callback):
    """Runs the monitors, and beside them copies that were made from their saved state at every earlier point."""

    def __init__(self) -> None:
        self.copies: list[tuple[list[Callback], list[Event]]] = []

    def start(self, setup: Setup) -> None:
        self.setup = setup
        self.copies = [(default_monitors(), [])]
        for monitor in self.copies[0][0]:
            monitor.start(setup)

    def _call(self, hook: str, seen: Any) -> None:
        for monitors, events in self.copies:
            for monitor in monitors:
                events += getattr(monitor, hook)(seen) or ()
        monitors, events = self.copies[0]
        resumed = default_monitors()
        for old, new in zip(monitors, resumed, strict=True):
            new.start(self.setup)
            new.load_state_dict(json.loads(json.dumps(old.state_dict(), allow_nan=False)))
        self.copies.append((resumed, list(events)))

    def steps(self, seen):
        self._call("steps", seen)

    def epoch(self, row):
        self._call("epoch", row)

    def stop(self, history):
        for monitors, events in self.copies:
            for monitor in monitors:
                events += monitor.stop(History(history.rows, events)) or ()


CUT: dict[str, tuple[Callable[[list[Callback]], History], set[str]]] = {
    "healthy": (lambda c: on_digits(0, 50, epochs=4, monitors=False, callbacks=c), set()),
    "too high": (
        lambda c: on_digits(0, 50, epochs=9, lr=1.0, monitors=False, callbacks=c),
        {"explosion", "divergence"},
    ),
    "slow": (lambda c: on_digits(0, 50, epochs=4, lr=1e-5, monitors=False, callbacks=c), {"slow"}),
    "flat": (lambda c: on_digits(0, 50, epochs=8, init=1e-4, monitors=False, callbacks=c), {"plateau"}),
    "ratios": (
        lambda c: with_scaled_layer(0, (1, 4), lr=0.01, monitors=False, callbacks=c),
        {"update_ratio"},
    ),
    "capacity": (
        lambda c: on_digits(0, 2, dropout=0.0, epochs=40, monitors=False, callbacks=c),
        {"capacity"},
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_a_run_cut_at_any_point_is_told_the_same_as_one_that_was_not(name):
    make, expected = CUT[name]
    cut = Cut()
    try:
        make([cut])
    except ArithmeticError:
        cut.stop(History())
    whole = cut.copies[0][1]
    assert expected <= set(kinds(whole))
    assert len(cut.copies) > 8
    assert all(events == whole for _, events in cut.copies)


@pytest.mark.parametrize("costs", [spiked(333, 9.0), flat_then_falling(60), FLAT], ids=["spike", "plateau", "flat"])
@pytest.mark.parametrize("cut", [1, 7, 8, 12, 13, 19])
def test_simulated_runs_cut_between_blocks_are_told_the_same(costs, cut):
    given = setup(steps_per_epoch=1000, epochs=1)

    def tell(cuts: Sequence[int]) -> list[Event]:
        monitors, events = default_monitors(), []
        for monitor in monitors:
            monitor.start(given)
        for i, (epoch, step, part) in enumerate(blocks(costs, 1000)):
            if i in cuts:
                states = [json.loads(json.dumps(monitor.state_dict())) for monitor in monitors]
                monitors = default_monitors()
                for monitor, state in zip(monitors, states, strict=True):
                    monitor.start(given)
                    monitor.load_state_dict(state)
            for monitor in monitors:
                events += monitor.steps(Steps(epoch, step, tuple(part), 0.01, norms(1e-6, 1e-6))) or ()
        history = History([row(1, step=1000, lr=0.01)], events)
        for monitor in monitors:
            history.events += monitor.epoch(history[0]) or ()
            history.events += monitor.stop(history) or ()
        return history.events

    assert tell([cut]) == tell([]) != []


def test_a_state_is_a_copy():
    monitor = Pace()
    monitor.start(setup())
    list(monitor.steps(Steps(1, 60, tuple(HEALTHY[:60]), 0.01, norms(1e-3, 1e-3))))
    before = json.dumps(state := monitor.state_dict())
    list(monitor.steps(Steps(1, 100, tuple(HEALTHY[60:100]), 0.01, norms(1e-3, 1e-3))))
    assert json.dumps(state) == before
