"""What a search says about the time that is left."""

from __future__ import annotations

import io
import re
import time

import pandas
import pytest

from search_objectives import SPACE, explore, objective, peak
from tinygrad_cr.search.explore import Explorer
from tinygrad_cr.search.ledger import Ledger
from tinygrad_cr.search.plan import Plan
from tinygrad_cr.search.progress import Bar, Clock, Lines

SCORE = peak(lr=0.4, reg=0.6)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, to be set by the test."""
    seconds = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    return seconds


def test_what_a_ledger_knew_already_says_nothing_about_the_speed(now: list[float]) -> None:
    clock = Clock(100)
    clock.skip(60)
    now[0] += 5
    clock.add(10)
    assert (clock.done, clock.left()) == (0.7, 15.0)
    now[0] += 5
    clock.add(30)
    assert (clock.done, clock.left()) == (1.0, 0.0)


def test_lines_say_it_from_time_to_time_and_not_at_the_end(now: list[float]) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    # Seconds since the last call, the part that is done, and what is left.
    calls = ((5, 0.2, 400.0), (6, 0.3, 125.0), (4, 0.4, 80.0), (20, 0.5, None), (1, 0.6, 9.4), (20, 1.0, 0.0))
    for later, done, left in calls:
        now[0] += later
        lines.left(done, left)
    assert stream.getvalue().splitlines() == [
        "30% done, about 2 min 05 s left",
        "60% done, about 9 s left",
    ]


def test_the_bar_shows_it_beside_the_percentage() -> None:
    bar = Bar(io.StringIO())
    bar.left(0.1, 5.0)  # nothing is shown before a stage began
    bar.start(1, 30, 9)
    bar.left(0.25, 3720.0)
    (task,) = bar.progress.tasks
    assert (task.percentage, task.fields["left"]) == (25.0, "1 h 02 min left")
    bar.left(0.3, None)
    assert bar.progress.tasks[0].fields["left"] == ""
    bar.stop()


def test_a_search_tells_the_time_left_after_each_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lines, "interval", 0.0)
    stream = io.StringIO()
    Explorer(
        Plan(SPACE, ((12, 5), (6, 5))), objective(SCORE), Ledger(None, {}), group_size=4, reporter=Lines(stream)
    ).explore()
    said = re.findall(r"^(\d+)% done, about \d+ s left$", stream.getvalue(), re.MULTILINE)
    assert said == ["22", "44", "67", "83"]


def test_the_trials_are_a_table_of_pandas() -> None:
    result = explore(SCORE, stages=((12, 5),))
    table = pandas.DataFrame(result)
    assert len(table) == 12
    assert table["lr"].tolist() == [row["lr"] for row in result]
    assert table.loc[table["val_accuracy"].idxmax(), "trial"] == result.best["trial"]
