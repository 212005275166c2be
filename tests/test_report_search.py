"""The pages on a search and on ensembles: what they say and show, in a browser too, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import browser as chromium
from browser import Browser
from report_runs import DIGITS, EVIL
from test_report import Page
from test_report_browser import faults
from tinygrad_cr.ensemble import comparison
from tinygrad_cr.errors import DataError, RunError
from tinygrad_cr.report import save_comparison, sections, write_ensemble_report, write_search_report
from tinygrad_cr.report.document import LIMIT
from tinygrad_cr.report.searches import COMMAND, read_search, verdict
from tinygrad_cr.search import LogUniform, coarse_to_fine, grid_search, random_search, read

SPACE = {"lr": LogUniform(1e-4, 1e-2), "reg": LogUniform(1e-6, 1e-1), "hidden": 8, "momentum": 0.9}
QUICK: dict[str, Any] = {"seed": 0, "reporter": False, "test": DIGITS.test}
PARTS = DIGITS.train, DIGITS.validation


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Searches of several kinds, and a comparison of ensembles, made once."""
    folder = tmp_path_factory.mktemp("searches")
    coarse_to_fine(*PARTS, SPACE, stages=[(24, 1), (8, 1)], repeats=2, out=folder / "fine", **QUICK)
    random_search(*PARTS, SPACE, trials=9, epochs=1, out=folder / "random", **QUICK)
    grid_search(*PARTS, SPACE, points=3, epochs=1, out=folder / "grid", **QUICK)
    random_search(*PARTS, SPACE, trials=9, epochs=3, halving=True, out=folder / "halving", **QUICK | {"test": None})
    table = comparison(*DIGITS, members=3, cycles=2, samples=3, epochs=2, lr=0.05, hidden=[12], generator=0)
    save_comparison(folder / "ensembles", table, DIGITS.test, {"data": "digits", "hidden": [12], "command": ["a b"]})
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures cost no time where only their texts matter."""
    monkeypatch.setattr(sections, "data_uri", lambda picture: "data:,")


def page(folder: Path, **options: Any) -> Page:
    return Page(write_search_report(folder, **options).read_text())


def changed(folder: Path, to: Path, rows: int | None = None, **state: Any) -> Path:
    """A search of which only so many trials are there yet, or with other entries in `search.json`."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("report.html"))
    lines = (to / "trials.jsonl").read_text().splitlines(keepends=True)
    (to / "trials.jsonl").write_text("".join(lines[:rows]))
    known = json.loads((to / "search.json").read_text())
    (to / "search.json").write_text(json.dumps(known | state))
    return to


# A search


def test_the_verdict_says_what_won_and_what_it_is_worth(root: Path, undrawn: None) -> None:
    winner = read(root / "fine").winner
    text = page(root / "fine").text
    assert f"Test accuracy {winner.test_accuracy:.4f}; the validation accuracy that chose it is" in text
    assert f"T{winner.summary()[1:]}." in text
    assert f"{winner.optimism:.4f}".replace("-", "−") in text


def test_an_edge_that_the_best_trials_crowd_is_the_first_thing_said(root: Path, undrawn: None) -> None:
    (warning,) = [text for text in read(root / "fine").warnings if "high edge of lr" in text and "stage 1" in text]
    text = page(root / "fine").text
    assert f"S{warning[1:]}." in text
    assert text.index("This result is worrying.") < text.index("The best of 32 trials")
    assert verdict(read_search(root / "fine"))[0] == "warn"


def test_without_warnings_nothing_is_worrying(root: Path, tmp_path: Path, undrawn: None) -> None:
    calm = changed(root / "fine", tmp_path / "calm", warnings=[])
    assert "worrying" not in page(calm).text
    assert verdict(read_search(calm))[0] == "ok"


def test_each_stage_has_a_row_with_its_ranges(root: Path, undrawn: None) -> None:
    text = page(root / "fine").text
    for stage in read(root / "fine").stages:
        lr = stage.space["lr"]
        assert f"{lr.low:.3g} to {lr.high:.3g} (log)" in text


def test_the_best_trials_stand_in_their_order(root: Path, undrawn: None) -> None:
    result = read(root / "fine")
    text = page(root / "fine").text
    text = text[text.index("The best 20 of") :]
    places = [text.index(f"{row['val_loss']:.4g}") for row in result.top(5)]
    assert places == sorted(places)
    assert "The same in all: hidden 8, momentum 0.9." in text


def test_pictures_have_texts_with_their_numbers(root: Path, undrawn: None) -> None:
    best = read(root / "fine").best
    trials, matters = page(root / "fine").pictures
    assert trials.startswith(
        f"32 trials over lr and reg; the best, with validation accuracy {best['val_accuracy']:.4f}"
    )
    assert "Stage 2: lr " in trials
    assert matters.startswith("Share of the variance of validation accuracy over 24 trials: lr ")


def test_a_grid_stands_beside_random_search_whichever_comes_first(root: Path, undrawn: None) -> None:
    first = page(root / "grid", against=root / "random").pictures[-1]
    second = page(root / "random", against=root / "grid").pictures[-1]
    assert first == second
    assert first.startswith("Grid: 9 trials, best ")


@pytest.mark.parametrize(("folder", "other"), [("random", "fine"), ("grid", "grid")])
def test_two_searches_of_one_kind_are_not_compared(root: Path, folder: str, other: str) -> None:
    with pytest.raises(DataError, match="a grid and a random search are compared"):
        write_search_report(root / folder, against=root / other)


def test_an_unfinished_search_says_how_far_it_is(root: Path, tmp_path: Path, undrawn: None) -> None:
    half = changed(root / "random", tmp_path / "half", rows=4, winner=None, warnings=[])
    text = page(half).text
    assert "Unfinished, 4 of 9 trials: best validation accuracy so far" in text
    assert "at least 8 trials, got 4" in text
    assert verdict(read_search(half))[0] == "note"


def test_a_search_that_has_just_begun_has_a_page_too(root: Path, tmp_path: Path) -> None:
    begun = changed(root / "random", tmp_path / "begun", rows=0, winner=None, stages=[], warnings=[])
    assert "No result yet" in page(begun).text


def test_a_search_whose_trials_all_diverged_failed(root: Path, tmp_path: Path) -> None:
    lost = changed(root / "random", tmp_path / "lost", winner=None, warnings=[])
    rows = [json.loads(line) for line in (lost / "trials.jsonl").read_text().splitlines()]
    nothing = {"status": "diverged", "val_accuracy": None, "val_loss": None, "accuracy": None, "loss": None}
    (lost / "trials.jsonl").write_text("".join(json.dumps(row | nothing) + "\n" for row in rows))
    text = page(lost).text
    assert "All 9 trials diverged" in text
    assert "No trial has a score." in text


def test_without_a_test_part_nobody_knows_the_optimism(root: Path, undrawn: None) -> None:
    text = page(root / "halving").text
    assert "too high by an amount that nobody knows without a test part" in text
    assert "one in 3 goes on, first after 1 epoch" in text
    assert "(stopped)" in text


def test_a_command_is_there_to_be_copied(root: Path, tmp_path: Path, undrawn: None) -> None:
    made = changed(root / "random", tmp_path / "made")
    assert "A Python program made this search" in page(made).text
    content = {"command": ["tinygrad-cr", "search", "--data", "a b.csv"], "data": "a b.csv"}
    (made / COMMAND).write_text(json.dumps(content))
    text = page(made).text
    assert "tinygrad-cr search --data 'a b.csv'" in text
    assert "a random search on a b.csv" in text


def test_names_cannot_become_markup(root: Path, tmp_path: Path, undrawn: None) -> None:
    evil = changed(root / "random", tmp_path / EVIL.replace("/", ""), warnings=[EVIL])
    (evil / COMMAND).write_text(json.dumps({"command": [EVIL], "data": EVIL}))
    assert page(evil).all("script") == []


@pytest.mark.parametrize("write", [write_search_report, write_ensemble_report])
def test_a_foreign_file_is_not_replaced(root: Path, tmp_path: Path, write: Any) -> None:
    (tmp_path / "mine.html").write_text("mine")
    folder = root / ("random" if write is write_search_report else "ensembles")
    with pytest.raises(RunError, match="is no report"):
        write(folder, tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_what_is_no_search_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(RunError, match=r"it has no search\.json"):
        write_search_report(tmp_path)
    broken = changed(root / "random", tmp_path / "broken")
    (broken / COMMAND).write_text("[")
    with pytest.raises(RunError, match=r"command\.json is broken"):
        write_search_report(broken)


# Ensembles


@pytest.fixture
def ensembles(root: Path, undrawn: None) -> Page:
    return Page(write_ensemble_report(root / "ensembles").read_text())


def test_the_table_has_a_row_for_each_method(root: Path, ensembles: Page) -> None:
    content = json.loads((root / "ensembles" / "comparison.json").read_text())
    assert len(content["rows"]) == 6
    for row in content["rows"]:
        assert row["method"] in ensembles.text
        assert f"{row['log_loss']:.4f}" in ensembles.text


def test_the_best_method_is_named_with_what_it_gains(root: Path, ensembles: Page) -> None:
    rows = json.loads((root / "ensembles" / "comparison.json").read_text())["rows"]
    best = min(rows, key=lambda row: row["log_loss"])
    assert best["method"] != "single model"
    assert f"The {best['method']} has the lowest log-loss, {best['log_loss']:.4g} nats against" in ensembles.text


def test_sizes_and_calibration_are_drawn(ensembles: Page) -> None:
    assert [picture.split(":")[0] for picture in ensembles.pictures] == [
        "Mean accuracy (fraction right) of the independent ensemble",
        "Mean log-loss (nats) of the independent ensemble",
        "Mean accuracy (fraction right) of the snapshot ensemble",
        "Mean log-loss (nats) of the snapshot ensemble",
        "single model",
    ]


def test_the_mean_of_all_members_is_that_of_the_table(root: Path) -> None:
    content = json.loads((root / "ensembles" / "comparison.json").read_text())
    row = next(row for row in content["rows"] if row["method"] == "independent ensemble")
    last = content["sizes"]["independent ensemble"][-1]
    assert (last["members"], last["accuracy"]) == (3, pytest.approx(row["accuracy"]))
    assert last["log_loss"] == pytest.approx(row["log_loss"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "holds no comparison"), ("{", "is broken"), ('{"format": 9}', "format 9"), ('{"format": 1}', "is broken")],
)
def test_what_is_no_comparison_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(RunError, match=message):
        write_ensemble_report(tmp_path)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(root: Path) -> dict[str, Path]:
    return {
        "a search": write_search_report(root / "fine"),
        "grid and random": write_search_report(root / "grid", against=root / "random"),
        "ensembles": write_ensemble_report(root / "ensembles"),
    }


@pytest.mark.skipif(chromium.BINARY is None, reason=chromium.WHY_NOT)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
@pytest.mark.parametrize("kind", ["a search", "grid and random", "ensembles"])
def test_a_page_is_without_fault(kind: str, width: int, scheme: str, browser: Browser, pages: dict[str, Path]) -> None:
    assert faults(browser, pages[kind], width, scheme) == []
    assert pages[kind].stat().st_size < LIMIT
