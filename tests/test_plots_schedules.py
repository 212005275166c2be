"""The picture of schedules: what is drawn, read back from the Axes; and the pictures of the documentation."""

from __future__ import annotations

import itertools
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.legend import Legend

from test_plots import half_width, texts
from tinygrad_cr import plots, schedules
from tinygrad_cr.errors import DataError, OptionError
from tinygrad_cr.schedules import constant, cosine, cosine_restarts, cyclic, exponential, one_cycle, warm_up

RESTARTS = cosine_restarts(0.1, t_0=10, t_mult=2)
MEMBERS = cosine(np.array([0.1, 0.2, 0.3]), 50)
LONG = {f"a name that is quite long and not the first, {i} of 9": cosine(0.1 + i, 100) for i in range(9)}

PICTURES: dict[str, Callable[[Axes | None], Axes]] = {
    "one": lambda ax: plots.schedules(RESTARTS, 100, ax=ax),
    "several": lambda ax: plots.schedules([RESTARTS, cosine(0.1, 100), one_cycle(0.1, 100)], 100, ax=ax),
    "members": lambda ax: plots.schedules([MEMBERS, RESTARTS], 60, ax=ax),
    "tiny rates": lambda ax: plots.schedules(cosine_restarts(1e-6, 7), 100, steps_per_epoch=10, ax=ax),
    "long names": lambda ax: plots.schedules(LONG, 100, ax=ax),
    "one step": lambda ax: plots.schedules(RESTARTS, 1, ax=ax),
    "all zero": lambda ax: plots.schedules(constant(0), 100, ax=ax),
    "many steps": lambda ax: plots.schedules(RESTARTS, 10**6, ax=ax),
}
drawn = pytest.mark.parametrize("name", PICTURES)


def line(ax: Axes, label: str) -> Any:
    return next(each for each in ax.lines if each.get_label() == label)


def below(ax: Axes) -> list[str]:
    return [t.get_text() for legend in ax.findobj(Legend) for t in legend.get_texts()]


def rings(ax: Axes) -> list[float]:
    return sorted(x for each in ax.lines if each.get_label() == "minimum of a cycle" for x in each.get_xdata())


@drawn
@pytest.mark.parametrize("place", [lambda: None, half_width], ids=["6 by 3 inches", "half width"])
def test_no_word_covers_another_and_none_is_cut_off(name, place):
    ax = PICTURES[name](place())
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    boxes = {t: t.get_window_extent(canvas.get_renderer()) for t in texts(ax)}
    page = ax.figure.bbox.padded(1)
    assert [t.get_text() for t, box in boxes.items() if not (page.contains(*box.min) and page.contains(*box.max))] == []
    pairs = itertools.combinations(boxes.items(), 2)
    assert [(a, b) for (a, p), (b, q) in pairs if p.padded(-1).overlaps(q.padded(-1))] == []


@drawn
def test_an_ax_that_is_given_is_drawn_into_and_returned(name):
    ax = half_width()
    assert PICTURES[name](ax) is ax
    assert PICTURES[name](None).figure.get_figwidth() == 6


def test_each_step_has_its_rate():
    x, y = line(plots.schedules(RESTARTS, 70), "cosine_restarts").get_data()
    assert x.tolist() == list(range(70))
    assert y.tolist() == [RESTARTS(step) for step in range(70)]


def test_minima_have_a_ring_at_their_rate():
    ax = plots.schedules([RESTARTS, constant(0.1)], 100)
    x, y = line(ax, "minimum of a cycle").get_data()
    assert (x.tolist(), y.tolist()) == ([9, 29, 69], [RESTARTS(step) for step in (9, 29, 69)])
    assert below(ax) == ["cosine_restarts", "constant", "minimum of a cycle"]


def test_every_schedule_and_every_member_has_its_own_rings():
    ax = plots.schedules([RESTARTS, cosine_restarts(np.array([0.1, 0.2]), 25)], 60)
    assert rings(ax) == [9, 24, 24, 29, 49, 49]
    assert below(ax).count("minimum of a cycle") == 1


def test_without_cycles_there_are_no_rings():
    assert below(plots.schedules(cosine(0.1, 100), 100)) == ["cosine"]


def test_over_epochs_a_step_stands_at_its_fraction_of_one():
    ax = plots.schedules(cyclic(0.1, 5), 40, steps_per_epoch=10)
    assert line(ax, "cyclic").get_xdata().tolist() == [step / 10 for step in range(40)]
    assert rings(ax) == [1.0, 2.0, 3.0, 3.9]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "learning rate")
    assert plots.schedules(cyclic(0.1, 5), 40).get_xlabel() == "step"


def test_members_have_a_line_each_and_one_name():
    ax = plots.schedules(MEMBERS, 50)
    assert [each.get_ydata()[0] for each in ax.lines] == [0.1, 0.2, 0.3]
    assert below(ax) == ["cosine, 3 members"]
    assert len({(each.get_color(), each.get_linestyle()) for each in ax.lines}) == 1


def test_schedules_differ_without_colour():
    ax = plots.schedules([constant(0.1), constant(0.2), constant(0.3), constant(0.4)], 10)
    assert len({each.get_linestyle() for each in ax.lines}) == 4


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"mine": constant(0.1), "other": float}, ["mine", "other"]),
        ([constant(0.1), lambda step: 0.1], ["constant", "schedule"]),
        ([cosine(0.1, 50), cosine(0.1, 60)], ["cosine(lr=0.1, steps=50)", "cosine(lr=0.1, steps=60)"]),
        ([constant(0.1), constant(0.1)], ["constant(lr=0.1)", "2: constant(lr=0.1)"]),
        ((lambda step: 0.1, lambda step: 0.2), ["schedule 1", "schedule 2"]),
        ({"costs $5, or $6": constant(0.1)}, [r"costs \$5, or \$6"]),
    ],
)
def test_schedules_are_named(given, names):
    assert below(plots.schedules(given, 10)) == names


def test_of_a_long_run_some_steps_are_drawn_and_no_minimum_is_missed():
    ax = plots.schedules(RESTARTS, 10**6)
    x, y = line(ax, "cosine_restarts").get_data()
    assert len(x) < 2100
    assert (x[0], x[-1]) == (0, 10**6 - 1)
    assert rings(ax) == RESTARTS.minima(10**6)
    # Behind each ring the line stands upright: the restart is drawn as well.
    assert {step + 1 for step in RESTARTS.minima(10**6)} <= set(x.tolist())
    assert y.tolist() == [RESTARTS(step) for step in x.tolist()]


def test_the_picture_holds_all_of_it():
    ax = plots.schedules([constant(0.1), constant(7.0)], 10)
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 7
    assert ax.get_xlim()[0] < 0 < 9 < ax.get_xlim()[1]


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ([], {}, OptionError, "there is no schedule to draw"),
        ({}, {}, OptionError, "there is no schedule to draw"),
        (0.1, {}, OptionError, r"a schedule is a function of the step, got 0\.1"),
        ([constant(0.1), "cosine"], {}, OptionError, "a schedule is a function of the step, got 'cosine'"),
        (constant(0.1), {"steps": 0}, OptionError, "steps must be an integer of at least 1, got 0"),
        (constant(0.1), {"steps_per_epoch": 0}, OptionError, "steps_per_epoch must be an integer of at least 1"),
        (constant(0.1), {"ax": 3}, OptionError, "ax must be the Axes to draw into"),
        (lambda step: -0.1 if step > 4 else 1.0, {}, DataError, r"schedule must give .* >= 0.*; at step 5: -0\.1"),
        (lambda step: float("nan"), {}, DataError, "at step 0: nan"),
        (lambda step: None, {}, DataError, "at step 0: None"),
        (lambda step: "high", {}, DataError, "at step 0: 'high'"),
        (lambda step: [], {}, DataError, r"at step 0: \[\]"),
        (lambda step: [0.1] * (step + 1), {}, DataError, "gives 1 learning rates at first and 2 at step 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given, options, error, message):
    with pytest.raises(error, match=message):
        plots.schedules(given, **{"steps": 10} | options)


# The documentation

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "schedules.md"
PROGRAM = ROOT / "examples" / "schedules.py"


def test_the_program_draws_the_pictures_of_the_documentation(tmp_path):
    example = runpy.run_path(str(PROGRAM))
    assert set(example["PICTURES"]) == set(schedules.SCHEDULES)
    example["main"](tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {path.name for path in (ROOT / "docs" / "schedules").iterdir()}
    assert files == set(re.findall(r"\]\(schedules/(.*?\.png)\)", DOCUMENT.read_text()))
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_size > 30_000] == []


def test_what_a_picture_is_called_is_what_it_shows():
    # A name that is a call draws what that call makes.
    for named in runpy.run_path(str(PROGRAM))["PICTURES"].values():
        name, schedule = next(iter(named.items()))
        assert eval(name, vars(schedules).copy()) == schedule


def test_the_programs_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    space: dict[str, Any] = {}
    for program in programs:
        exec(compile(program, str(DOCUMENT), "exec"), space)
    assert len(programs) == 4
    assert Path("schedule.png").stat().st_size > 1000
    assert schedules.from_config(json.loads(Path("schedule.json").read_text())) == space["schedule"]


def test_the_documentation_has_a_section_for_every_schedule():
    headings = re.findall(r"^### `(\w+)", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(schedules.SCHEDULES)


def test_a_warm_up_of_anything_can_be_drawn():
    ax = plots.schedules(warm_up(exponential(0.1, 0.5, 10), 5), 30)
    assert line(ax, "warm_up").get_ydata()[5] == 0.1
