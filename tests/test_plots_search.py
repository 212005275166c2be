"""Pictures of searches and ensembles, read back from the Axes; and whether importance finds what matters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from tinygrad_cr import plots
from tinygrad_cr.errors import DataError, OptionError, ShapeError
from tinygrad_cr.plots.scales import Scale
from tinygrad_cr.search.importance import importance, parameters
from tinygrad_cr.search.spaces import Choice, LogUniform, Uniform

Rows = list[dict[str, Any]]

COARSE = {"lr": LogUniform(1e-6, 1e-1), "reg": LogUniform(1e-5, 1e2)}
FINE = {"lr": LogUniform(1e-3, 3e-2), "reg": LogUniform(1e-4, 1.0)}
STAGES = [SimpleNamespace(space=COARSE), SimpleNamespace(space=FINE)]


def trial(number: int = 1, accuracy: float | None = 0.5, **other: Any) -> dict[str, Any]:
    """One row; without an accuracy it diverged."""
    row = {"trial": number, "stage": 1, "status": "diverged" if accuracy is None else "finished"}
    return row | {"val_accuracy": accuracy, "val_loss": None, "seconds": 1.0} | other


def searched(
    n: int, seed: int = 0, stage: int = 1, space: dict[str, Any] = COARSE, noise: float = 0.004, **others: Any
) -> Rows:
    """A made-up search: lr matters much, reg less, and nothing else does."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        lr, reg = (space[name].at(rng.random()) for name in ("lr", "reg"))
        accuracy = 0.88 - 0.06 * abs(math.log10(lr) + 2.2) ** 1.5 - 0.05 * max(0.0, math.log10(reg)) ** 2
        diverged = lr > 0.03 and rng.random() < 0.8
        values = {name: rng.choice(given).item() for name, given in others.items()}
        found = None if diverged else float(max(0.1, accuracy) + noise * rng.standard_normal())
        rows.append(trial(i + 1, found, lr=lr, reg=reg, **values) | {"stage": stage})
    return rows


def gridded(n: int) -> Rows:
    points = itertools.product(*([space.at(i / (n - 1)) for i in range(n)] for space in COARSE.values()))
    return [trial(i + 1, 0.8 - 0.1 * abs(math.log10(lr) + 2), lr=lr, reg=reg) for i, (lr, reg) in enumerate(points)]


TWO = searched(60) + searched(60, 1, 2, FINE)
LOST = [trial(i, None, lr=10.0**-i, reg=1.0 * i) for i in range(1, 10)]
UNIT = [trial(i, i / 24, lr=10.0 ** (i // 5 - 4), reg=10.0 ** (i % 5 - 4)) for i in range(25)]
LONG = "a_very_long_name_of_a_hyperparameter_indeed"
LONG_ROWS = [row | {LONG: ["quite a long name of a choice", "b"][i % 2]} for i, row in enumerate(searched(20))]
MANY = searched(40, momentum=[0.5, 0.9, 0.99], optimizer=["sgd", "adam", "nesterov"])
ONLY_LR = [{key: value for key, value in row.items() if key != "reg"} for row in TWO]


def answers(members: int = 6, n: int = 400) -> tuple[Any, Any]:
    """Probabilities of members that are wrong in different places, and the labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, n)
    z = 2 * np.eye(10)[y] + rng.normal(size=(n, 10)) + rng.normal(size=(members, n, 10))
    p = np.exp(z)
    return p / p.sum(axis=-1, keepdims=True), y


def bins(p: Any, y: Any, many: int = 10) -> Rows:
    sure, right = p.max(axis=1), p.argmax(axis=1) == y
    found = []
    for i in range(many):
        inside = (sure > i / many) & (sure <= (i + 1) / many)
        mean = (sure[inside].mean(), right[inside].mean()) if inside.any() else (None, None)
        found.append({"count": int(inside.sum()), "confidence": mean[0], "accuracy": mean[1]})
    return found


FOUND, FOUND_LONG, FOUND_ONE = (importance(rows, draws=2) for rows in (MANY, LONG_ROWS, ONLY_LR[:40]))
P, Y = answers()
SIZES = plots.subset_rows(P, Y)

PICTURES: dict[str, Callable[[Axes | None], Axes]] = {
    "two stages": lambda ax: plots.trials(TWO, stages=STAGES, ax=ax),
    "one trial": lambda ax: plots.trials(TWO[:1], stages=STAGES[:1], ax=ax),
    "all diverged": lambda ax: plots.trials(LOST, stages=STAGES[:1], ax=ax),
    "long names down": lambda ax: plots.trials(LONG_ROWS, "lr", LONG, ax=ax),
    "long names across": lambda ax: plots.trials(LONG_ROWS, LONG, "reg", ax=ax),
    "choices": lambda ax: plots.trials(MANY, "momentum", "optimizer", ax=ax),
    "only lr": lambda ax: plots.trials(ONLY_LR, stages=[SimpleNamespace(space={"lr": COARSE["lr"]})], ax=ax),
    "importance": lambda ax: plots.importance(FOUND, ax=ax),
    "importance of one": lambda ax: plots.importance(FOUND_ONE, ax=ax),
    "long importance": lambda ax: plots.importance(FOUND_LONG, ax=ax),
    "grid and random": lambda ax: plots.grid_versus_random(gridded(3), searched(9), space=COARSE, ax=ax),
    "from 0 to 1": lambda ax: plots.grid_versus_random(UNIT, UNIT[::2], ax=ax),
    "diverged grid": lambda ax: plots.grid_versus_random(LOST, searched(9), ax=ax),
    "long grid": lambda ax: plots.grid_versus_random(LONG_ROWS[:4], LONG_ROWS[:9], LONG, "reg", ax=ax),
    "sizes": lambda ax: plots.ensemble_sizes(SIZES, ax=ax),
    "log-loss": lambda ax: plots.ensemble_sizes(SIZES, "log_loss", ax=ax),
    "one member": lambda ax: plots.ensemble_sizes(SIZES[:1], ax=ax),
    "reliability": lambda ax: plots.reliability({"single model": bins(P[0], Y), "all": bins(P.mean(axis=0), Y)}, ax=ax),
    "few rows": lambda ax: plots.reliability(bins(P[0][:20], Y[:20]), ax=ax),
}

drawn = pytest.mark.parametrize("name", PICTURES)


def half_width() -> Axes:
    return Figure((3, 2.5), layout="constrained").add_subplot()


def shown(text: Text, panels: list[Axes]) -> bool:
    """Ticks beyond the limits, or of Axes without them, exist and are not drawn."""
    if not text.get_visible() or not text.get_text().strip():
        return False
    owners = (a for ax in panels for a in (ax.xaxis, ax.yaxis))
    axis = next((a for a in owners if text in a.get_ticklabels() + a.get_ticklabels(minor=True)), None)
    if axis is None:
        return True
    if not axis.axes.axison:
        return False
    low, high = sorted(axis.get_view_interval())
    place = text.get_position()[0 if axis.axis_name == "x" else 1]
    return bool(low * (1 - 1e-9) - 1e-12 <= place <= high * (1 + 1e-9) + 1e-12)


def texts(ax: Axes) -> Iterator[Text]:
    """All words of a picture that has been drawn."""
    panels = ax.figure.findobj(Axes)
    yield from (text for text in ax.figure.findobj(Text) if shown(text, panels))


def below(ax: Axes) -> list[str]:
    """The list below a picture."""
    return [text.get_text() for legend in ax.findobj(Legend) for text in legend.get_texts()]


# What holds for every picture


@drawn
@pytest.mark.parametrize("place", [lambda: None, half_width], ids=["own size", "half width"])
def test_no_word_covers_another_and_none_is_cut_off(name, place):
    given = place()
    ax = PICTURES[name](given)
    assert ax.figure.get_figwidth() == 6 if given is None else ax is given
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    boxes = {text: text.get_window_extent(canvas.get_renderer()) for text in texts(ax)}
    page = ax.figure.bbox.padded(1)
    outside = [t.get_text() for t, b in boxes.items() if b.x0 < page.x0 or b.x1 > page.x1]
    outside += [t.get_text() for t, b in boxes.items() if b.y0 < page.y0 or b.y1 > page.y1]
    assert outside == []
    covering = [
        (a.get_text(), b.get_text())
        for (a, p), (b, q) in itertools.combinations(boxes.items(), 2)
        # A pixel of two boxes is the white around the letters.
        if p.padded(-1).overlaps(q.padded(-1))
    ]
    assert covering == []


@drawn
def test_what_is_no_ax_is_refused(name):
    with pytest.raises(OptionError, match="ax must be the Axes to draw into, or None for new ones; got 3"):
        PICTURES[name](3)


# Trials


def frames(ax: Axes) -> list[tuple[float, ...]]:
    """The ranges drawn: left, right, low and high."""
    boxes = (patch for patch in ax.patches if isinstance(patch, Rectangle))
    return [(b.get_x(), b.get_x() + b.get_width(), b.get_y(), b.get_y() + b.get_height()) for b in boxes]


def dots(ax: Axes) -> list[tuple[float, ...]]:
    """The trials drawn: across, down and accuracy."""
    return [
        (*place, shade) for c in ax.collections for place, shade in zip(c.get_offsets(), c.get_array(), strict=True)
    ]


def test_each_finished_trial_stands_at_its_values_with_its_accuracy():
    good = [row for row in TWO if row["val_accuracy"] is not None]
    drawn = dots(plots.trials(TWO, stages=STAGES))
    assert sorted(drawn) == sorted((row["lr"], row["reg"], row["val_accuracy"]) for row in good)


def test_an_axis_is_logarithmic_where_the_space_is():
    rows = [trial(i, 0.1 * i, lr=0.001 * i, reg=10.0**-i) for i in range(1, 6)]
    space = {"lr": LogUniform(1e-4, 1e-1), "reg": Uniform(0.0, 1.0)}
    ax = plots.trials(rows, stages=[SimpleNamespace(space=space)])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")


def test_without_a_space_numbers_that_span_decades_get_a_logarithmic_axis():
    rows = [trial(i, 0.1 * i, lr=10.0**-i, reg=0.1 * i) for i in range(1, 6)]
    ax = plots.trials(rows)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")


def test_the_range_of_each_stage_is_a_frame():
    assert frames(plots.trials(TWO, stages=STAGES)) == [
        pytest.approx((1e-6, 1e-1, 1e-5, 1e2)),
        pytest.approx((1e-3, 3e-2, 1e-4, 1.0)),
    ]


def test_stages_are_those_of_the_result_if_none_are_given():
    class Result(list[dict[str, Any]]):
        stages = STAGES

    assert len(frames(plots.trials(Result(TWO)))) == 2


def test_stages_differ_without_colour():
    ax = plots.trials(TWO, stages=STAGES)
    assert len({str(c.get_paths()[0].vertices.tolist()) for c in ax.collections}) == 2
    assert len({patch.get_linestyle() for patch in ax.patches if isinstance(patch, Rectangle)}) == 2


def test_diverged_trials_are_crosses_and_counted():
    ax = plots.trials(TWO)
    lost = [(row["lr"], row["reg"]) for row in TWO if row["val_accuracy"] is None]
    cross = next(line for line in ax.lines if line.get_marker() == "x")
    assert list(zip(*cross.get_data(), strict=True)) == lost
    assert f"diverged ({len(lost)})" in below(ax)


def test_the_best_trial_is_a_star_and_named():
    ax = plots.trials(TWO)
    best = max((row for row in TWO if row["val_accuracy"] is not None), key=lambda row: row["val_accuracy"])
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert list(zip(*star.get_data(), strict=True)) == [(best["lr"], best["reg"])]
    assert below(ax)[0] == f"best {best['val_accuracy']:.4f}: lr {best['lr']:.3g}, reg {best['reg']:.3g}"


@pytest.mark.parametrize(
    "others",
    [
        ({"val_loss": 0.9}, {"val_loss": 0.4}, {"val_loss": 0.6}),
        ({}, {"val_loss": 0.4}, {"val_loss": 0.6}),
        ({"rung": 0, "val_accuracy": 0.9}, {"rung": 2}, {"rung": 1, "val_accuracy": 0.8}),
    ],
    ids=["lower loss", "missing loss", "rung"],
)
def test_the_star_is_the_trial_that_the_search_calls_best(others):
    rows = [trial(i + 1, 0.5, lr=10.0**-i, reg=i + 1.0) | other for i, other in enumerate(others)]
    both = panels(plots.grid_versus_random(rows, rows))
    for ax in (plots.trials(rows), both[1], both[4]):
        star = next(line for line in ax.lines if line.get_marker() == "*")
        assert [float(at[0]) for at in star.get_data()] == [0.1, 2.0]
    assert both[0].get_title(loc="left").splitlines()[0].endswith("best 0.5000")


def test_without_figures_the_first_of_equal_trials_is_the_best():
    assert below(plots.trials([{"lr": lr, "reg": 1 / lr, "val_accuracy": 0.5} for lr in (0.1, 0.2)]))[0].endswith(
        "reg 10"
    )


def test_where_all_diverged_there_are_crosses_and_no_star():
    ax = plots.trials(LOST)
    assert [line.get_marker() for line in ax.lines] == ["x"]
    assert below(ax) == ["diverged (9)"]


def test_a_diverged_trial_is_never_the_best_whatever_it_reached_before():
    rows = [trial(1, 0.9, lr=0.1, reg=1.0) | {"status": "diverged"}, trial(2, 0.4, lr=0.01, reg=2.0)]
    assert below(plots.trials(rows))[0] == "best 0.4000: lr 0.01, reg 2"


def test_of_one_parameter_the_accuracy_is_the_vertical_axis():
    ax = plots.trials(ONLY_LR)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "validation accuracy")
    assert {(a, b) for a, b, _ in dots(ax)} == {
        (row["lr"], row["val_accuracy"]) for row in ONLY_LR if row["val_accuracy"] is not None
    }


def test_better_trials_are_lighter_and_the_best_ones_are_told_apart():
    ax = plots.trials(TWO)
    image = ax.collections[0]
    shades = image.cmap(image.norm([0.3, 0.8, 0.86, 0.88]))[:, :3] @ np.array([0.2126, 0.7152, 0.0722])
    steps = np.diff(shades)
    assert (steps > 0).all()
    assert steps[2] > 0.1


def test_other_parameters_can_be_named():
    ax = plots.trials(MANY, "momentum", "optimizer")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("momentum", "optimizer")
    assert {tick.get_text() for tick in ax.get_yticklabels()} == {"sgd", "adam", "nesterov"}


def test_trials_of_one_choice_do_not_cover_each_other():
    rows = [trial(i, 0.5, lr=0.1, optimizer="sgd") for i in range(1, 8)]
    places = Scale("optimizer", rows).places(rows)
    assert len(set(places)) == 7
    assert np.abs(places).max() < 0.3


def test_lists_of_widths_are_choices_and_single_widths_are_numbers():
    assert Scale("hidden", [{"hidden": [50]}, {"hidden": [100, 50]}]).labels == ["50", "100-50"]
    assert Scale("hidden", [{"hidden": [50]}, {"hidden": [100]}]).places([{"hidden": [50]}]) == [50]


def test_a_range_of_choices_frames_the_whole_axis():
    rows = [trial(i, 0.5, lr=10.0**-i, optimizer=("sgd", "adam")[i % 2]) for i in range(1, 5)]
    space = {"lr": LogUniform(1e-5, 1.0), "optimizer": Choice(["sgd", "adam"])}
    ax = plots.trials(rows, "lr", "optimizer", stages=[SimpleNamespace(space=space)])
    assert frames(ax) == [pytest.approx((1e-5, 1.0, -0.5, 1.5))]


def test_an_unknown_parameter_gets_the_nearest_name():
    with pytest.raises(OptionError, match="unknown hyperparameter 'momntum': did you mean 'momentum'"):
        plots.trials(MANY, "momntum")


@pytest.mark.parametrize("draw", [plots.trials, plots.importance, lambda rows: plots.grid_versus_random(rows, rows)])
@pytest.mark.parametrize("rows", [[], "rows", [{"lr": 0.1}], {"lr": 0.1}, [3]], ids=repr)
def test_what_are_no_trials_is_refused(draw, rows):
    with pytest.raises(DataError, match=r"trial"):
        draw(rows)


# Importance


def shares(rows: Rows, **options: Any) -> dict[str, Any]:
    return {each.name: each for each in importance(rows, **options)}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n", [20, 50])
def test_importance_finds_what_was_planted_and_gives_nothing_to_what_does_not_matter(n, seed):
    others = {"momentum": [0.1, 0.5, 0.9, 0.95], "dropout": [0.0, 0.2, 0.4], "optimizer": ["sgd", "adam"]}
    found = shares(searched(n, seed, **others), draws=1)
    assert found["lr"].total > 0.5
    assert max(found, key=lambda name: found[name].total) == "lr"
    assert all(found[name].total < 0.1 for name in others)


def test_importance_of_pure_noise_is_nothing():
    rng = np.random.default_rng(0)
    largest = []
    for _ in range(10):
        rows = [trial(i, rng.random(), lr=rng.random(), reg=rng.random(), momentum=rng.random()) for i in range(40)]
        largest.append(max(each.total for each in importance(rows, draws=1)))
    assert np.quantile(largest, 0.8) < 0.01


def test_a_choice_that_matters_is_found():
    rng = np.random.default_rng(0)
    rows = [trial(i, 0.5 + 0.3 * (i % 3 == 1), optimizer="abc"[i % 3], lr=rng.random()) for i in range(30)]
    found = shares(rows, draws=3)
    assert found["optimizer"].alone > 0.9
    assert found["lr"].total < 0.02


def test_what_matters_only_together_counts_as_interaction():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (60, 2))
    rows = [trial(i, 0.5 + 0.3 * a * b, lr=10**a, reg=10**b) for i, (a, b) in enumerate(points.tolist())]
    for each in importance(rows, draws=3):
        assert each.alone < 0.2
        assert each.total > 0.75


def test_shares_agree_with_the_exact_ones_of_an_additive_surface():
    rng = np.random.default_rng(1)
    points = rng.random((60, 2)).tolist()
    # The variance of 3a + b is (9 + 1) / 12.
    found = shares([trial(i, (3 * a + b) / 10, lr=a, reg=b) for i, (a, b) in enumerate(points)], draws=3)
    assert (found["lr"].alone, found["reg"].alone) == (pytest.approx(0.9, abs=0.05), pytest.approx(0.1, abs=0.05))


@pytest.mark.slow
def test_the_interval_holds_the_exact_share_more_often_than_not():
    inside = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        points = rng.random((40, 2)).tolist()
        rows = [trial(i, (3 * a + b) / 10 + rng.normal(0, 0.01), lr=a, reg=b) for i, (a, b) in enumerate(points)]
        found = shares(rows, draws=10)["lr"]
        inside += found.low <= 0.9 <= found.high
        assert found.low <= found.total <= found.high
    assert inside >= 6


def test_fewer_trials_are_less_sure():
    few, many = (shares(searched(n), draws=10)["lr"] for n in (16, 60))
    assert few.high - few.low > many.high - many.low


def test_diverged_trials_count_as_the_worst():
    rng = np.random.default_rng(0)
    points = rng.uniform(-5, 0, 40).tolist()
    rows = [trial(i, None if a > -2 else 0.5, lr=10**a, reg=rng.random()) for i, a in enumerate(points)]
    rows[0] |= {"val_accuracy": 0.1, "status": "finished", "lr": 1.0}
    assert shares(rows, draws=3)["lr"].total > 0.8


def test_the_order_of_trials_does_not_matter():
    rows = searched(24)
    found, other = shares(rows, draws=1), shares(rows[::-1], draws=1)
    assert {n: each.total for n, each in found.items()} == pytest.approx({n: each.total for n, each in other.items()})


def test_the_same_seed_gives_the_same_interval():
    assert list(importance(TWO[:40], generator=3)) == list(importance(TWO[:40], generator=3))


def test_a_logarithm_makes_no_difference():
    rows = searched(40)
    logs = [row | {"lr": math.log(row["lr"])} for row in rows]
    assert shares(rows, draws=1)["lr"].total == pytest.approx(shares(logs, draws=1)["lr"].total)


def test_equal_accuracies_leave_nothing_to_explain():
    found = importance([trial(i, 0.5, lr=0.1 * i) for i in range(10)], draws=2)
    assert (found[0].total, found.explained) == (0.0, 0.0)


@pytest.mark.slow
def test_a_thousand_trials_are_thinned():
    assert importance(searched(500), draws=1).trials == 200


def test_importance_prints_as_a_table():
    text = str(importance(TWO[:40], draws=2))
    assert text.splitlines()[0].startswith("lr ")
    assert "40 trials" in text


def test_what_is_fixed_is_no_parameter():
    rows = [trial(i, 0.5, lr=0.1 * i, batch_size=100, hidden=[50]) for i in range(3)]
    assert parameters(rows) == ["lr"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (searched(7), "at least 8 trials, got 7"),
        (LOST, "all of them diverged"),
        ([trial(i, 0.1 * i, lr=0.1) for i in range(9)], "no hyperparameter differs"),
    ],
    ids=["too few", "all diverged", "nothing varied"],
)
def test_importance_refuses(rows, message):
    with pytest.raises(DataError, match=message):
        importance(rows)


def test_bars_hold_the_shares_most_important_first():
    ax = plots.importance(FOUND)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [each.name for each in FOUND]
    assert [bar.get_width() for bar in ax.containers[0]] == pytest.approx([100 * each.alone for each in FOUND])
    ends = [bar.get_x() + bar.get_width() for bar in ax.containers[1]]
    assert ends == pytest.approx([100 * max(each.alone, each.total) for each in FOUND])


def test_trials_may_stand_for_their_importance():
    bars = [[bar.get_width() for bar in plots.importance(rows).containers[0]] for rows in (MANY, FOUND)]
    assert bars[0] == pytest.approx(bars[1])


# Grid and random


def panels(ax: Axes) -> list[Axes]:
    return list(ax.child_axes)


def test_both_searches_stand_on_the_same_axes():
    ax = PICTURES["grid and random"](None)
    top, plane, side, *others = panels(ax)
    assert [(p.get_xlim(), p.get_ylim()) for p in (top, plane, side)] == [(p.get_xlim(), p.get_ylim()) for p in others]
    assert plane.get_xscale() == plane.get_yscale() == top.get_xscale() == side.get_yscale() == "log"


def test_strips_show_the_accuracy_over_each_parameter():
    rows = [row for row in searched(9) if row["val_accuracy"] is not None]
    top, plane, side = panels(plots.grid_versus_random(gridded(3), rows, space=COARSE))[3:]
    places = [np.array(panel.collections[0].get_offsets()).tolist() for panel in (top, plane, side)]
    wanted = (("lr", "val_accuracy"), ("lr", "reg"), ("val_accuracy", "reg"))
    assert places == [[[row[a], row[b]] for row in rows] for a, b in wanted]


def test_titles_count_trials_and_distinct_values():
    ax = plots.grid_versus_random(gridded(3), searched(9), space=COARSE)
    titles = [panels(ax)[i].get_title(loc="left").splitlines() for i in (0, 3)]
    best = max(row["val_accuracy"] for row in searched(9) if row["val_accuracy"] is not None)
    assert titles[0] == ["grid: 9 trials, best 0.7000", "3 values of lr, 3 of reg"]
    assert titles[1] == [f"random: 9 trials, best {best:.4f}", "9 values of lr, 9 of reg"]


def test_grid_against_random_wants_two_parameters():
    with pytest.raises(DataError, match="two hyperparameters"):
        plots.grid_versus_random(ONLY_LR[:4], ONLY_LR[:4])


def test_grid_against_random_wants_one_that_finished():
    with pytest.raises(DataError, match="all of them diverged"):
        plots.grid_versus_random(LOST, LOST)


# Ensembles


def test_subsets_are_all_there_are_or_as_many_as_the_limit_allows():
    sizes = [row["members"] for row in plots.subset_rows(P, Y, subsets=15)]
    assert [sizes.count(k) for k in range(1, 7)] == [6, 15, 15, 15, 6, 1]


def test_subsets_are_all_different():
    rng = np.random.default_rng(0)
    p = rng.random((9, 50, 3))
    rows = plots.subset_rows(p / p.sum(axis=-1, keepdims=True), rng.integers(0, 3, 50), subsets=20)
    losses = [row["log_loss"] for row in rows if row["members"] == 4]
    assert len(set(losses)) == 20


def test_a_subset_of_all_is_the_whole_ensemble():
    last, mean = plots.subset_rows(P, Y)[-1], P.mean(axis=0)
    assert last["accuracy"] == (mean.argmax(axis=1) == Y).mean()
    assert last["log_loss"] == pytest.approx(-np.log(mean[np.arange(len(Y)), Y]).mean())


def test_the_line_runs_through_the_mean_of_each_size():
    ax = plots.ensemble_sizes(SIZES)
    wanted = [np.mean([row["accuracy"] for row in SIZES if row["members"] == k]) for k in range(1, 7)]
    assert ax.lines[0].get_ydata() == pytest.approx(wanted)
    assert ax.lines[1].get_ydata()[0] == pytest.approx(wanted[0])
    assert wanted[5] > wanted[0]


@pytest.mark.parametrize(
    ("p", "y", "error"),
    [
        (P[0], Y, ShapeError),
        (P, Y[:3], ShapeError),
        (P[:0], Y, DataError),
        (P, Y + 5, DataError),
        (P, Y * 1.0, DataError),
    ],
    ids=["one member", "few labels", "no member", "other classes", "no integers"],
)
def test_what_is_no_ensembles_answer_is_refused(p, y, error):
    with pytest.raises(error):
        plots.subset_rows(p, y)


def test_an_unknown_measure_gets_the_nearest_name():
    with pytest.raises(OptionError, match="did you mean 'log_loss'"):
        plots.ensemble_sizes(SIZES, "logloss")


@pytest.mark.parametrize("rows", [[], [{"members": 1}], [3]], ids=repr)
def test_what_are_no_ensembles_is_refused(rows):
    with pytest.raises(DataError, match="ensemble"):
        plots.ensemble_sizes(rows)


def test_reliability_stands_at_confidence_and_accuracy_of_each_bin():
    found = bins(P[0], Y)
    ax = plots.reliability({"one": found})
    wanted = [(row["confidence"], row["accuracy"]) for row in found if row["count"]]
    assert list(zip(*ax.lines[1].get_data(), strict=True)) == wanted
    error = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in found if row["count"]) / len(Y)
    assert f"one: ECE {error:.4f}" in below(ax)


def test_bins_of_few_rows_are_hollow():
    found = [{"count": 3, "confidence": 0.5, "accuracy": 1.0}, {"count": 90, "confidence": 0.9, "accuracy": 0.9}]
    ax = plots.reliability(found)
    assert (ax.lines[2].get_markerfacecolor(), list(ax.lines[2].get_xdata())) == ("white", [0.5])


@pytest.mark.parametrize("found", [{}, [], [{"count": 0, "confidence": None, "accuracy": None}], [{"x": 1}]], ids=repr)
def test_what_are_no_bins_is_refused(found):
    with pytest.raises(DataError, match=r"bin|classifiers"):
        plots.reliability(found)
