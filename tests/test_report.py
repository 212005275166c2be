"""The report on a run: what it says, what it shows, what it leaves out and says so, and what it refuses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from report_runs import (
    CHECKS,
    COMMAND,
    DIGITS,
    EVIL,
    EXPLOSION,
    OF_DIGITS,
    OVERFITTING,
    SLOW,
    Says,
    copied,
    evil_run,
    run,
    table_parts,
)
from tinygrad_cr import nn, plots
from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, OptionError, RunError
from tinygrad_cr.report import page, render, sections, write_report
from tinygrad_cr.report.drawing import Picture, data_uri
from tinygrad_cr.report.network import from_network
from tinygrad_cr.report.pictures import from_records
from tinygrad_cr.report.verdict import verdict
from tinygrad_cr.train import Event, History, Record, load_run, predict_proba, read_run

VOID = {"img", "link", "meta"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements in order, each with its attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == [], "an element was never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag in ("p", "li", "tr", "td", "th", "caption", "figcaption", "h1", "h2", "h3", "h4", "dt", "dd", "pre"):
            self.text += "\n"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [a for name, a in self.elements if name == tag and attributes.items() <= a.items()]

    @property
    def pictures(self) -> list[str]:
        return [str(image["alt"]) for image in self.all("img")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of many kinds, trained once."""
    root = tmp_path_factory.mktemp("runs")
    run(root / "good")
    run(root / "warned", callbacks=[Says(SLOW, OVERFITTING)])
    run(root / "other", lr=0.05, model=nn.MLP([64, 20, 10], generator=1))
    run(root / "exploded", callbacks=[Says(OVERFITTING, EXPLOSION)])
    run(root / "no-validation", parts=(DIGITS.train, None), config={})
    run(root / "one-epoch", epochs=1)
    run(root / "no-mlp", model=nn.Sequential(nn.Affine(64, 12, generator=0), nn.ReLU(), nn.Affine(12, 10, generator=1)))
    run(root / "arrays", config={})
    run(root / "within-epochs", validate_steps=10)
    run(root / "linear", model=nn.MLP([64, 10], generator=0))
    run(root / "table", parts=table_parts(), config={}, model=nn.MLP([5, 8, 3], generator=0))
    (root / "warned" / "preflight.json").write_text(json.dumps(CHECKS))
    return root


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures cost no time where only their texts matter."""
    monkeypatch.setattr(sections, "data_uri", lambda picture: "data:,")


@pytest.fixture
def half(tmp_path: Path, runs: Path) -> Path:
    """A run of which there is only what is written before the first epoch ends."""
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.json").write_bytes((runs / "good" / "config.json").read_bytes())
    return folder


def rows(values: Sequence[float | None], key: str = "val_accuracy") -> History:
    return History(
        {"epoch": i + 1, "step": 10 * (i + 1), "loss": 1.0, "accuracy": 0.9, "val_accuracy": None, key: value}
        for i, value in enumerate(values)
    )


# The verdict

GOOD, NO_EVENTS = [0.5, 0.8, 0.7], ()
INTERRUPTED = Event("note", "interrupted", 2, 15, None, "interrupted after step 15", stop=True)
EARLY = Event("note", "early_stopping", 3, 30, 0.8, "val_accuracy has not been better", stop=True)
VERDICTS: dict[str, tuple[Sequence[float | None], Sequence[Event], dict[str, Any], str, list[str]]] = {
    "good": (GOOD, NO_EVENTS, {}, "ok", ["Trained for 3 epochs", "0.8000 in epoch 2", "saw nothing"]),
    "notes alone do no harm": (GOOD, [SLOW], {}, "ok", ["0.8000 in epoch 2"]),
    "warned": (GOOD, [OVERFITTING], {}, "warn", ["0.8000 in epoch 2", "1 warning: overfitting (epoch 2)"]),
    "failed": (
        GOOD,
        [EXPLOSION],
        {},
        "fail",
        ["Failed in epoch 2 of 3, explosion", "try lr 0.001", "0.8000 in epoch 2"],
    ),
    "failed at once": ([], [EXPLOSION], {}, "fail", ["try lr 0.001", "no result"]),
    "failed, no validation": ([None, None], [EXPLOSION], {}, "fail", ["Failed in epoch 2", "Final loss 1"]),
    "unfinished": (GOOD[:2], NO_EVENTS, {}, "note", ["Unfinished", "2 of 3 epochs", "--resume some/run"]),
    "unfinished and warned": (GOOD[:2], [OVERFITTING], {}, "warn", ["Unfinished", "overfitting (epoch 2)"]),
    "interrupted": (GOOD[:2], [INTERRUPTED], {}, "note", ["Interrupted after 2 of 3 epochs", "--resume some/run"]),
    "nothing yet": ([], NO_EVENTS, {}, "note", ["No result yet", "before its first epoch ended", "--resume some/run"]),
    "made in Python": ([], NO_EVENTS, {"command": None}, "note", ['Trainer.resume("some/run")']),
    "stopped early": (GOOD, [EARLY], {"epochs": 9}, "ok", ["3 of 9 epochs (early stopping)", "0.8000 in epoch 2"]),
    "no validation": ([None, None, None], NO_EVENTS, {}, "note", ["training accuracy 0.9000", "nothing says how good"]),
    "nobody watched": (GOOD, NO_EVENTS, {"monitors": False}, "note", ["No monitor watched"]),
    "config alone": ([], NO_EVENTS, {"epochs": None, "command": None}, "note", ["No result yet"]),
}


@pytest.mark.parametrize("kind", VERDICTS)
def test_the_verdict_on(kind: str) -> None:
    values, events, config, level, words = VERDICTS[kind]
    wanted = {"epochs": 3, "monitors": True, "command": COMMAND}
    history = History(rows(values), events)
    found = verdict(Record(Path("some/run"), wanted | config, history, [], None))
    assert (found.level, [word for word in words if word not in found.sentence]) == (level, [])


def test_checks_that_failed_before_training_are_part_of_the_verdict() -> None:
    found = verdict(Record(Path("run"), {"epochs": 3}, rows(GOOD), [], CHECKS))
    assert (found.level, "1 check failed: initial loss" in found.sentence) == ("warn", True)


def test_many_warnings_are_counted_and_the_first_ones_named() -> None:
    many = [Event("warn", f"kind_{i}", i, i, None, "watch out") for i in range(1, 10)]
    sentence = verdict(Record(Path("run"), {"epochs": 3}, History(rows(GOOD), many), [], None)).sentence
    assert "with 9 warnings: kind 1 (epoch 1), kind 2 (epoch 2), kind 3 (epoch 3) and 6 more." in sentence


# One run


def test_the_verdict_comes_first(runs: Path, undrawn: None) -> None:
    text = Page(render([runs / "warned"])).text
    places = [
        text.index(word) for word in ("with 1 warning", "the gap is 0.0612", "average the loss", "Curves", "sizes")
    ]
    assert places == sorted(places)


def test_every_event_stands_there_with_level_epoch_number_and_advice_the_worst_first(runs: Path, undrawn: None) -> None:
    text = Page(render([runs / "warned"])).text
    lines = ["Warning", "overfitting", "2", "0.0612", f"{OVERFITTING.message}."]
    lines += ["", "Note", "slow", "1", "0.997", f"{SLOW.message}."]
    assert "\n".join(lines) in text


def test_the_event_that_stopped_the_run_is_marked(runs: Path, undrawn: None) -> None:
    assert f"{EXPLOSION.message}. Training stopped here." in Page(render([runs / "exploded"])).text


def test_of_very_many_events_the_others_are_counted(tmp_path: Path, undrawn: None) -> None:
    folder = run(tmp_path / "run", epochs=1)
    event = json.dumps(SLOW.row()) + "\n"
    (folder / "events.jsonl").write_text(event * 1234)
    text = Page(render([folder])).text
    assert (text.count(SLOW.message), "1,134 more stand in events.jsonl" in text) == (100, True)


def test_the_preflight_is_a_table_with_what_to_do(runs: Path, undrawn: None) -> None:
    text = Page(render([runs / "warned"])).text
    assert "FAIL\ninitial loss\n230.3\n2.303\naverage the loss over the batch" in text


def test_without_a_preflight_there_is_no_table_of_checks(runs: Path, undrawn: None) -> None:
    assert "Checks before training" not in render([runs / "good"])


def test_a_preflight_of_an_unknown_form_is_left_out_and_that_is_said(tmp_path: Path, undrawn: None) -> None:
    folder = run(tmp_path / "run", epochs=1)
    (folder / "preflight.json").write_text("[1, 2]")
    assert "no checks that this version can read" in render([folder])


def test_the_command_can_be_pasted_into_a_shell(runs: Path, undrawn: None) -> None:
    shown = Page(render([runs / "good"])).text
    line = next(line for line in shown.splitlines() if "tinygrad-cr train" in line)
    assert shlex.split(line) == COMMAND
    assert "Choose another --out" in shown


def test_a_run_of_a_python_program_says_that_it_has_no_command(runs: Path, undrawn: None) -> None:
    assert "A Python program made this run" in render([runs / "arrays"])


def test_configuration_seed_and_versions_are_there(runs: Path, undrawn: None) -> None:
    text = Page(render([runs / "good"])).text
    pairs = ["sizes\n64 → 12 → 10", "parameters\n910", "learning rate\n0.02", "momentum\n0.9", "dropout\n0.2"]
    pairs += ["monitors\noff", "image shape\n8 × 8", "seed\n7", f"numpy\n{np.__version__}"]
    assert [pair for pair in pairs if pair not in text] == []


def test_settings_of_the_user_are_there_too(tmp_path: Path, undrawn: None) -> None:
    folder = run(tmp_path / "run", epochs=1, config=OF_DIGITS | {"note": {"author": "Ada"}})
    assert "note.author\nAda" in Page(render([folder])).text


# Pictures, and what they say

ALL = ["Training loss", "Training accuracy", "Cost at 5 learning rates", "The last ratios"]
ALL += ["the activations of layers.0", "the gradients of layers.0.weight"]
ALL += ["the activations of layers.1", "the gradients of layers.1.weight"]
ALL += ["First-layer weights", "rows are right", "mistakes", "units of the first hidden layer"]


def test_a_whole_run_has_every_picture(runs: Path) -> None:
    pictures = Page(render([runs / "warned"])).pictures
    assert [word in text for word, text in zip(ALL, pictures, strict=True)] == [True] * 12


def test_the_text_of_a_curve_says_its_numbers(runs: Path, undrawn: None) -> None:
    rows = [json.loads(line) for line in (runs / "good" / "history.jsonl").read_text().splitlines()]
    loss, accuracy = Page(render([runs / "good"])).pictures[:2]
    assert f"Training loss falls from {rows[0]['loss']:.4g} in epoch 1 to {rows[-1]['loss']:.4g} in epoch 3." in loss
    assert f"{rows[-1]['val_accuracy']:.4f} in epoch 3" in accuracy


def test_the_text_of_a_curve_names_the_events(runs: Path, undrawn: None) -> None:
    assert "Marked: slow in epoch 1 and overfitting in epoch 2." in Page(render([runs / "warned"])).pictures[0]


def test_the_text_of_the_rates_says_bracket_and_suggestion(runs: Path, undrawn: None) -> None:
    text = Page(render([runs / "warned"])).pictures[2]
    assert "Below 0.0002 it barely moves. From 0.5 on it explodes. Suggested: 0.01." in text


def test_the_text_of_the_confusion_matrix_counts_as_the_network_decides(runs: Path, undrawn: None) -> None:
    loaded, part = load_run(runs / "good"), DIGITS.validation
    assert part is not None
    right = int((predict_proba(loaded.model, part.x, loaded.standardizer).argmax(axis=1) == part.y).sum())
    assert any(text.startswith(f"{right} of 360 rows are right.") for text in Page(render([runs / "good"])).pictures)


def test_charts_are_text_and_images_are_pixels(runs: Path) -> None:
    images = Page(render([runs / "good"])).all("img")
    kinds = [(str(image["class"]), str(image["src"]).partition(";")[0].partition(",")[0]) for image in images]
    assert set(kinds) == {("chart", "data:image/svg+xml"), ("image", "data:image/png")}
    # What a search in the page, or a screen reader in the picture, would find.
    assert "validation" in str(images[0]["src"])


LEFT_OUT = {
    "no-mlp": (["First-layer", "are right", "mistakes", "first hidden layer"], "the network is no MLP"),
    "arrays": (["are right", "mistakes", "first hidden layer"], "trained on arrays, which its folder does not hold"),
    "table": (["First-layer", "mistakes"], "the rows are no images"),
    "linear": (["units of the first hidden layer"], "there is no dropout"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_pictures_that_cannot_be_made_are_left_out_and_that_is_said(kind: str, runs: Path, undrawn: None) -> None:
    words, reason = LEFT_OUT[kind]
    found = Page(render([runs / kind]))
    assert [word for word in words if any(word in text for text in found.pictures)] == []
    assert (reason in found.text.partition("Left out:")[2], len(found.pictures) >= 7) == (True, True)


@pytest.mark.parametrize("kind", ["no-validation", "one-epoch", "exploded", "within-epochs", "no-mlp"])
def test_every_kind_of_run_is_drawn(kind: str, runs: Path) -> None:
    found = Page(render([runs / kind]))
    assert (len(found.pictures) >= 7, [text for text in found.pictures if not text.strip()]) == (True, [])


def test_400_epochs_are_drawn(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs / "good", tmp_path / "long")
    row = json.loads((folder / "history.jsonl").read_text().splitlines()[0])
    lines = [json.dumps(row | {"epoch": i, "step": 34 * i, "loss": 2.3 / i}) for i in range(1, 401)]
    (folder / "history.jsonl").write_text("\n".join(lines))
    html = render([folder])
    assert ("to 0.00575 in epoch 400" in html, len(html) < page.LIMIT) == (True, True)


def test_of_a_very_long_history_some_rows_are_drawn_and_that_is_said(runs: Path, tmp_path: Path, undrawn: None) -> None:
    folder = copied(runs / "good", tmp_path / "long")
    row = json.loads((folder / "history.jsonl").read_text().splitlines()[0])
    (folder / "history.jsonl").write_text("\n".join(json.dumps(row | {"epoch": i}) for i in range(1, 2501)))
    assert "One row of 3 is drawn" in render([folder])


def test_a_run_before_its_first_epoch_has_no_pictures_and_says_so(half: Path) -> None:
    found = Page(render([half]))
    assert (found.pictures, "no epoch has ended" in found.text, "learning rate\n0.02" in found.text) == ([], True, True)


def test_a_configuration_that_says_nothing_still_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"format": 1}')
    assert "before its first epoch ended" in Page(render([tmp_path])).text


def test_data_that_is_gone_is_said(runs: Path, tmp_path: Path, undrawn: None) -> None:
    folder = copied(runs / "good", tmp_path / "gone")
    edit(folder / "config.json", data="gone.csv")
    assert "gone.csv, cannot be loaded" in Page(render([folder])).text


def test_a_damaged_network_is_said(runs: Path, tmp_path: Path, undrawn: None) -> None:
    folder = copied(runs / "good", tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"damaged")
    found = Page(render([folder]))
    assert ("does not hold a whole run" in found.text, len(found.pictures)) == (True, 7)


def test_a_picture_that_cannot_be_drawn_is_left_out_with_its_reason(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise DataError("these ratios are odd")

    monkeypatch.setattr(plots, "update_ratios", refuse)
    found = Page(render([runs / "good"]))
    assert ("update ratios: these ratios are odd." in found.text, len(found.pictures)) == (True, 10)


def test_without_matplotlib_the_report_says_in_words_what_pictures_would_show(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    found = Page(render([runs / "good"]))
    assert (found.pictures, "pip install 'tinygrad_cr[plot]'" in found.text) == ([], True)
    assert ("Training loss falls from" in found.text, "rows are right" in found.text) == (True, True)


# Several runs


@pytest.fixture(scope="module")
def three(runs: Path) -> str:
    return render([runs / "good", runs / "warned", runs / "other"])


def test_several_runs_stand_side_by_side(three: str) -> None:
    text = Page(three).text
    assert "run\ngood\nwarned\nother\n" in text
    assert "sizes\n64 → 12 → 10\n64 → 12 → 10\n64 → 20 → 10\n" in text
    wanted = [
        "verdict",
        "best validation accuracy",
        "in epoch",
        "final loss",
        "gap at the end",
        "time",
        "learning rate",
    ]
    table = text[text.index("run\ngood") : text.index("Loss of all runs")]
    assert [name for name in [*wanted, "regularisation", "dropout", "sizes", "seed"] if f"{name}\n" not in table] == []


def test_what_differs_is_marked_and_nothing_else(three: str) -> None:
    lines = Page(three).text.splitlines()
    marked = {line.removeprefix("≠ differs: ") for line in lines if line.startswith("≠")}
    assert marked == {"learning rate", "dropout", "sizes", "parameters"}


def test_the_best_run_is_named_and_marked(runs: Path, three: str) -> None:
    best = {}
    for name in ("good", "warned", "other"):
        rows = [json.loads(line) for line in (runs / name / "history.jsonl").read_text().splitlines()]
        best[name] = max(row["val_accuracy"] for row in rows)
    text = Page(three).text
    name = max(best, key=lambda each: best[each])
    assert f"{name} has the best validation accuracy, {best[name]:.4f}" in text
    assert text.count("(best)") == list(best.values()).count(best[name])


def test_the_curves_of_all_runs_are_in_one_picture_and_each_run_has_its_own(three: str) -> None:
    found = Page(three)
    first = found.pictures[0]
    assert all(f"{name}: validation loss falls" in first for name in ("good", "warned", "other"))
    assert sum("Training loss" in text for text in found.pictures) == 3
    links = {str(link["href"])[1:] for link in found.all("a")}
    assert links <= {str(attributes.get("id")) for _, attributes in found.elements}


def test_runs_that_have_nothing_yet_or_exploded_can_be_compared(runs: Path, half: Path, undrawn: None) -> None:
    text = Page(render([half, runs / "exploded", runs / "no-validation", runs / "no-mlp"])).text
    assert ("1 run failed" in text, "half: no loss was recorded." in render([half, runs / "good"])) == (True, True)


def test_accuracies_on_different_data_are_not_compared_without_a_word(runs: Path, three: str, undrawn: None) -> None:
    warning = "not trained on the same rows"
    assert (warning in three, warning in render([runs / "good", runs / "table"])) == (False, True)


def test_without_any_validation_nothing_is_called_best(runs: Path, half: Path, undrawn: None) -> None:
    text = Page(render([half, runs / "no-validation"])).text
    assert ("nothing says which is best" in text, "(best)" in text) == (True, False)


def test_a_loss_that_exploded_does_not_flatten_the_others(runs: Path, tmp_path: Path, undrawn: None) -> None:
    folder = copied(runs / "good", tmp_path / "exploded")
    lines = (folder / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[-1]["loss"] = 1e9
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "3 times the highest first one, are cut off" in render([folder, runs / "good"])


def test_a_run_that_is_given_twice_counts_once(runs: Path, undrawn: None) -> None:
    assert render([runs / "good", runs / "other" / ".." / "good"]) == render([runs / "good"])


def test_runs_of_one_name_are_told_apart_by_their_folders(runs: Path, tmp_path: Path, undrawn: None) -> None:
    a, b = copied(runs / "good", tmp_path / "a" / "run"), copied(runs / "good", tmp_path / "b" / "run")
    assert "run\na/run\nb/run\n" in Page(render([a, b])).text


def test_pictures_that_have_no_room_are_left_out(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "data_uri", lambda picture: f"data:,{'x' * 300_000}")
    html = render([runs / "good", runs / "other"])
    assert ("the page would become too large" in html, len(html.encode()) < page.LIMIT) == (True, True)
    assert [len(Page(html).pictures) >= 6, "worst mistakes" in Page(html).text] == [True, True]


# The page itself


@pytest.mark.parametrize("kind", ["good", "three"])
def test_the_page_has_its_landmarks_and_one_title(kind: str, runs: Path, three: str) -> None:
    found = Page(three if kind == "three" else render([runs / "good"]))
    counts = {tag: len(found.all(tag)) for tag in ("h1", "main", "header", "footer", "title")}
    assert counts == dict.fromkeys(counts, 1)
    assert (found.all("html")[0], len(found.all("meta", name="viewport"))) == ({"lang": "en"}, 1)
    levels = [int(tag[1]) for tag, _ in found.elements if tag in ("h1", "h2", "h3", "h4")]
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_the_ids_of_a_page_are_distinct(three: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(three).elements if "id" in attributes]
    assert sorted(ids) == sorted(set(ids))


def test_every_table_has_headers_and_a_caption(three: str) -> None:
    found = Page(three)
    assert len(found.all("table")) == len(found.all("caption")) > 10
    assert [attributes for attributes in found.all("th") if attributes.get("scope") not in ("row", "col")] == []


def test_the_page_asks_for_nothing_and_runs_nothing(three: str) -> None:
    found = Page(three)
    addresses = [a.get("src") or a.get("href") for _, a in found.elements if a.get("src") or a.get("href")]
    assert [address[:40] for address in addresses if not str(address).startswith(("data:", "#"))] == []
    handlers = [name for _, a in found.elements for name in a if name.startswith("on")]
    assert (found.all("script"), handlers, "url(" in three.partition("</style>")[0], "@import" in three) == (
        [],
        [],
        False,
        False,
    )


def test_names_and_paths_never_become_markup(tmp_path: Path) -> None:
    folder = evil_run(tmp_path)
    found = Page(render([folder]))
    assert found.all("script") == []
    assert [a for a in found.all("img") if "onerror" in a or not str(a["src"]).startswith("data:")] == []
    assert EVIL in found.text


def test_the_same_run_gives_the_same_page_again(runs: Path) -> None:
    assert render([runs / "linear"]) == render([runs / "linear"])


def test_the_style_of_the_user_changes_nothing(runs: Path) -> None:
    import matplotlib

    chart = next(iter(from_records(read_run(runs / "good"))))
    assert isinstance(chart, Picture)
    plain = data_uri(chart)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "svg.fonttype": "path", "figure.dpi": 30}):
        assert data_uri(chart) == plain
        assert matplotlib.rcParams["font.size"] == 20


def test_a_letter_that_the_font_lacks_is_no_warning(tmp_path: Path) -> None:
    part = DIGITS.train
    named = Dataset(part.x, part.y, class_names=[f"数{i}" for i in range(10)], image_shape=(8, 8))
    config = {"data": "digits", "split_seed": 0}
    folder = run(tmp_path / "run", parts=(named, named), config=config, epochs=1)
    matrix = next(each for each in from_network(read_run(folder)) if each.name == "confusion matrix")
    assert isinstance(matrix, Picture)
    assert quote("数1") in data_uri(matrix)


# The file


def test_the_report_on_a_run_lies_in_its_folder_and_nothing_else_changes(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs / "linear", tmp_path / "run")
    before = contents(folder)
    path = write_report([folder])
    assert (path, path.read_text()) == (folder / "report.html", render([folder]))
    assert {k: v for k, v in contents(folder).items() if k != "report.html"} == before


def test_the_report_on_several_runs_lies_in_the_current_folder(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_report([runs / "good", runs / "other"]) == Path("report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_file_can_be_chosen_and_a_report_is_replaced(runs: Path, tmp_path: Path, undrawn: None) -> None:
    path = tmp_path / "it.html"
    assert write_report([runs / "good"], path) == path
    write_report([runs / "other"], path)
    assert "<h1>other</h1>" in path.read_text()


def test_a_file_of_somebody_else_is_not_replaced(runs: Path, tmp_path: Path, undrawn: None) -> None:
    path = tmp_path / "report.html"
    path.write_text("<h1>my thesis</h1>")
    with pytest.raises(RunError, match="is no report; nothing was written"):
        write_report([runs / "good"], path)
    assert path.read_text() == "<h1>my thesis</h1>"


@pytest.mark.parametrize("out", ["", "no/such/folder/report.html"])
def test_a_file_that_cannot_be_written_is_an_error(out: str, runs: Path, tmp_path: Path, undrawn: None) -> None:
    with pytest.raises(RunError, match="cannot write"):
        write_report([runs / "good"], tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def no_folder(folder: Path) -> None:
    pass


def no_run(folder: Path) -> None:
    folder.mkdir()


def broken_config(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"format": 1, "lr"')


def other_version(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"format": 99}')


def broken_history(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"format": 1}')
    (folder / "history.jsonl").write_text('{"epoch": 1}\n{"epo')


def history_without_epochs(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"format": 1}')
    (folder / "history.jsonl").write_text('{"loss": 1.0}\n')


def broken_histograms(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"format": 1}')
    (folder / "histograms.jsonl").write_text('{"epoch": 1, "kind": "gradient"}\n')


BAD = [no_folder, no_run, broken_config, other_version, broken_history, history_without_epochs, broken_histograms]


@pytest.mark.parametrize("make", BAD)
def test_what_is_no_whole_run_is_refused_and_nothing_is_written(
    make: Callable[[Path], None], runs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    make(folder)
    before = contents(tmp_path)
    for given in ([folder], [runs / "good", folder]):
        with pytest.raises(RunError, match="run"):
            write_report(given, None if len(given) == 1 else tmp_path / "report.html")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("given", [[], "runs/first", Path("runs/first")])
def test_runs_are_given_as_a_list(given: Any) -> None:
    with pytest.raises(OptionError, match="list of run folders"):
        write_report(given)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


# Populations


def test_a_population_is_shown_by_its_best_member(tmp_path):
    folder = run(
        tmp_path / "many",
        model=nn.MLP([64, 12, 10], members=3, dropout=[0.1, 0.2, 0.3], generator=0),
        lr=[1e-4, 0.02, 0],
    )
    best = max(read_run(folder).history, key=lambda row: row["val_accuracy"])
    assert best["member"] == 1
    seen = Page(render([folder]))
    assert "The page shows member 1 of 3, the one with the best validation accuracy" in seen.text
    assert f"best validation accuracy {best['val_accuracy']:.4f} in epoch {best['epoch']}" in seen.text
    assert "0.0001" not in seen.text
    assert any(text.startswith("First-layer weights of 12 units") for text in seen.pictures)
    probabilities = predict_proba(load_run(folder).model[1], DIGITS.validation.x, load_run(folder).standardizer)
    right = int((probabilities.argmax(axis=1) == DIGITS.validation.y).sum())
    assert any(f"{right} of 360 rows are right" in text for text in seen.pictures)


def test_the_events_of_other_members_are_not_those_of_the_member_shown(tmp_path):
    folder = run(tmp_path / "many", model=nn.MLP([64, 12, 10], members=2, generator=0), lr=[0.02, 1e4], monitors=True)
    assert {event.member for event in read_run(folder).history.events if event.level == "fail"} == {1}
    text = Page(render([folder])).text
    assert ("member 0 of 2" in text, "Trained for 3 epochs" in text, "Failed" in text) == (True, True, False)
