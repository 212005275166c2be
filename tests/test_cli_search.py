"""`tinygrad-cr search` and `ensemble`, as a stranger meets them; and prediction by what they leave."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from test_cli import Done, Tool, process, tool
from tinygrad_cr.cli.ensemble import Whole
from tinygrad_cr.cli.ranges import dimension, space_of, stages_of
from tinygrad_cr.data import load
from tinygrad_cr.ensemble import Ensemble
from tinygrad_cr.errors import OptionError
from tinygrad_cr.search import Choice, IntUniform, LogUniform, Space, Uniform, read

__all__ = ["tool"]

QUICK = ("--hidden", "8", "--epochs", "1", "--no-report")
TRIAL = re.compile(r"val_acc: (0\.\d{6}|diverged), lr: \d\.\d{6}e[+-]\d\d, reg: \d\.\d{6}e[+-]\d\d, \(\d+ / \d+\)")


# What options say


@pytest.mark.parametrize(
    ("name", "texts", "wanted"),
    [
        ("lr", ["1e-6:1e-3"], LogUniform(1e-6, 1e-3)),
        ("reg", ["0:0.1:linear"], Uniform(0.0, 0.1)),
        ("momentum", ["0.5:0.99"], Uniform(0.5, 0.99)),
        ("dropout", ["0.01:0.5:log"], LogUniform(0.01, 0.5)),
        ("hidden", ["10:100"], IntUniform(10, 100)),
        ("hidden", ["256,128"], [256, 128]),
        ("hidden", ["50", "100,50", ""], Choice([[50], [100, 50], []])),
        ("batch_size", ["32", "64"], Choice([32, 64])),
        ("optimizer", ["sgd", "adam"], Choice(["sgd", "adam"])),
        ("init", ["he", "0.01"], Choice(["he", 0.01])),
        ("init", ["1e-4:1e-1"], LogUniform(1e-4, 1e-1)),
        ("lr", ["0.1"], 0.1),
    ],
)
def test_an_option_is_a_value_a_range_or_a_choice(name, texts, wanted):
    assert dimension(name, texts) == wanted
    assert isinstance(Space(space_of({name: texts})), Space) or name == "init"


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("lr", ["fast"], "--lr wants a number, or a range such as"),
        ("lr", ["1e-6:"], "--lr wants a value, or a range such as 1e-6:1e-3"),
        ("lr", ["1:2:3:4"], "--lr wants a value, or a range"),
        ("lr", ["1:2:cubic"], "a range is log or linear, got 'cubic'"),
        ("lr", ["1e-3:1e-6"], "inverted"),
        ("lr", ["0:1"], "cannot reach 0"),
        ("lr", ["1:2", "3"], "--lr was given 2 times"),
        ("batch_size", ["1e2"], "--batch-size wants a whole number such as 100, or a range such as 32:256; got '1e2'"),
        ("optimizer", ["sgd:adam"], "--optimizer wants one of adam, adamw, sgd, or several"),
        ("batch_size", ["1.5:2"], "--batch-size wants a value, or a range such as 10:100"),
        ("hidden", ["wide"], "--hidden wants widths such as"),
    ],
)
def test_what_is_no_range_is_refused(name, texts, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        dimension(name, texts)


@pytest.mark.parametrize("text", ["", "100", "100x", "100x5x2", "ax5"])
def test_what_are_no_stages_is_refused(text):
    with pytest.raises(OptionError, match="--stages wants trials x epochs of each stage"):
        stages_of(text)


# search


def test_a_search_prints_the_lectures_lines_the_ranges_and_the_winner(tool: Tool) -> None:
    done = tool("search", "--stages", "10x1,5x1", "--hidden", "8", "--out", "run", "--no-report")
    lines = done.out.splitlines()
    assert done.code == 0, done.err
    assert lines[0] == "stage 1: 10 trials, 1 epochs"
    assert sum(bool(TRIAL.fullmatch(line)) for line in lines) == 15
    assert "the ranges from here on lie around the best trials:" in lines
    winner = next(line for line in lines if line.startswith("winner: "))
    assert re.match(r"winner: test accuracy 0\.\d{4}; validation accuracy 0\.\d{4}, the best of 15\. Optimism", winner)
    assert "the best 5 trials:" in lines
    assert lines[-1] == "saved in run"


def test_warnings_are_said_again_at_the_end(tool: Tool) -> None:
    options = ("--lr", "1e-4:1e-2", "--reg", "0", "--trials", "40", "--hidden", "8", "--epochs", "1", "--no-report")
    done = tool("search", *options, "--out", "run")
    last = done.out[done.out.index("the best 5 trials:") :]
    assert re.search(r"warning: stage 1: \d of the \d best trials lie near the high edge of lr, 0\.01", last)


def test_the_same_command_goes_on_and_makes_nothing_twice(tool: Tool) -> None:
    command = ("search", *QUICK, "--trials", "6", "--out", "run")
    tool(*command)
    ledger = Path("run/trials.jsonl")
    whole, lines = ledger.read_text(), ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:4]))
    state = json.loads(Path("run/search.json").read_text())
    Path("run/search.json").write_text(json.dumps(state | {"winner": None}))
    done = tool(*command)
    assert "going on after 4 trials" in done.out
    assert sum(bool(TRIAL.fullmatch(line)) for line in done.out.splitlines()) == 2

    def without_times(text: str) -> list[dict[str, Any]]:
        return [json.loads(line) | {"seconds": 0} for line in text.splitlines()]

    assert without_times(ledger.read_text()) == without_times(whole)


def test_another_search_in_the_same_folder_is_refused(tool: Tool) -> None:
    tool("search", *QUICK, "--trials", "2", "--out", "run")
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    done = tool("search", *QUICK, "--trials", "2", "--lr", "0.1:0.2", "--out", "run")
    assert done.code == 1
    assert "run holds another search" in done.err
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before


def test_any_number_of_workers_finds_the_same(tmp_path: Path) -> None:
    # A process of its own: workers import the program that started them.
    for workers in ("1", "2"):
        done = process("search", *QUICK, "--trials", "4", "--workers", workers, "--out", workers, folder=tmp_path)
        assert done.code == 0, done.err
    one, two = ([row | {"seconds": 0} for row in read(tmp_path / name)] for name in ("1", "2"))
    assert one == two


def test_a_grid_has_so_many_values_of_each_range(tool: Tool) -> None:
    done = tool("search", *QUICK, "--grid", "2", "--lr", "1e-3:1e-1", "--momentum", "0.5:0.9", "--out", "run")
    assert done.code == 0, done.err
    rows = read("run")
    assert len(rows) == 8
    assert {row["momentum"] for row in rows} == {0.5, 0.9}


def test_options_reach_the_settings(tool: Tool) -> None:
    options = {
        "--hidden": "9",
        "--lr": "0.01:0.1",
        "--reg": "1e-3",
        "--momentum": "0.5",
        "--lr-decay": "0.8:0.9",
        "--dropout": "0.1",
        "--batch-size": "50",
        "--optimizer": "adam",
        "--init": "0.01",
        "--trials": "3",
        "--epochs": "2",
        "--patience": "4",
        "--repeats": "1",
        "--standardize": "mean-image",
        "--seed": "3",
    }
    arguments = [*(part for option in options.items() for part in option), "--halving", "--out", "run", "--no-report"]
    done = tool("search", *arguments)
    assert done.code == 0, done.err
    settings = json.loads(Path("run/search.json").read_text())["settings"]
    space = {"lr": LogUniform(0.01, 0.1), "reg": 1e-3, "momentum": 0.5, "dropout": 0.1, "lr_decay": Uniform(0.8, 0.9)}
    space |= {"batch_size": 50, "hidden": [9], "optimizer": "adam", "init": 0.01}
    assert Space.from_dict(settings["space"]) == Space(space)
    given = {key: settings[key] for key in ("stages", "seed", "patience", "repeats", "standardize")}
    assert given == {"stages": [[3, 2]], "seed": 3, "patience": 4, "repeats": 1, "standardize": "mean-image"}
    assert settings["halving"] is not None
    command = json.loads(Path("run/command.json").read_text())
    assert command["command"] == ["tinygrad-cr", "search", *arguments]
    assert (command["data"], command["class_names"]) == ("digits", list("0123456789"))


def test_every_search_gets_a_new_folder(tool: Tool) -> None:
    outputs = [tool("search", *QUICK, "--trials", "1").out.splitlines()[-1] for _ in range(2)]
    assert outputs == ["saved in runs/digits-search-1", "saved in runs/digits-search-2"]


def test_a_search_ends_with_its_report(tool: Tool) -> None:
    done = tool("search", "--hidden", "8", "--epochs", "1", "--trials", "2", "--out", "run")
    assert done.out.splitlines()[-1] == "saved in run, report: run/report.html"
    assert "tinygrad-cr" in Path("run/report.html").read_text()


def test_json_prints_exactly_one_object(tool: Tool) -> None:
    done = tool("search", *QUICK, "--trials", "2", "--out", "run", "--json")
    found = json.loads(done.out)
    assert set(found) == {"search", "trials", "best", "winner", "warnings", "stages", "report"}
    assert (found["trials"], found["best"]["lr"]) == (2, read("run").best["lr"])
    assert "val_acc: " in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stages", "5x1", "--trials", "9"), "--stages says it already: leave --trials out"),
        (("--grid", "3", "--trials", "9"), "--grid says it already: leave --trials out"),
        (("--stages", "5x1", "--grid", "9", "--epochs", "2"), "leave --epochs and --grid out"),
        (("--workers", "0"), "--workers must be at least 1, got 0"),
        (("--lr", "0:1"), "cannot reach 0"),
        (("--optimizer", "sdg"), "did you mean 'sgd'"),
        (("--dropout", "1.5"), "dropout"),
        (("--against", "nothing"), "nothing is no search"),
        (("--data", "digit"), "did you mean"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(tool: Tool, options: tuple[str, ...], message: str) -> None:
    done = tool("search", *options)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert message in done.err
    assert list(Path().iterdir()) == []


def test_where_all_diverge_the_range_that_did_is_named(tool: Tool) -> None:
    done = tool("search", *QUICK, "--trials", "3", "--lr", "1e6:1e8", "--out", "run")
    assert done.code == 1
    assert "all 3 trials of stage 1 diverged" in done.err
    command = json.loads(Path("run/command.json").read_text())
    assert (command["data"], len(command["class_names"])) == ("digits", 10)
    assert "lr: 1.000000e+06 to 1.000000e+08" in done.err


def test_ctrl_c_keeps_what_has_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinygrad_cr", "search", "--hidden", "50", "--epochs", "5", "--trials", "3000"]
    running = subprocess.Popen(
        [*command, "--out", "run"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ledger = tmp_path / "run/trials.jsonl"
    try:
        while not (ledger.exists() and ledger.stat().st_size):
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert err.strip() == "interrupted; what has finished is kept, and the same command goes on"
    assert 0 < len(read(tmp_path / "run")) < 3000


# ensemble

SMALL = ("--hidden", "12", "--epochs", "2", "--members", "2", "--snapshots", "2", "--samples", "3")


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    folder = tmp_path_factory.mktemp("ensembles")
    return process("ensemble", *SMALL, "--out", "run", folder=folder), folder


def test_a_comparison_prints_a_table(ensembles: tuple[Done, Path]) -> None:
    done, _ = ensembles
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.splitlines()[:7]
    assert head.split() == ["method", "members", "accuracy", "log", "loss", "ECE", "training", "time"]
    methods = [row.rsplit(maxsplit=5)[0] for row in rows]
    assert methods[:4] == ["single model", "best single", "independent ensemble", "snapshot ensemble"]
    assert done.out.splitlines()[-1].endswith("report: run/report.html")


def test_ensembles_are_saved(ensembles: tuple[Done, Path]) -> None:
    files = {"ensemble.safetensors": 2, "snapshots.safetensors": 2, "average.safetensors": 1}
    assert {name: len(Ensemble.load(ensembles[1] / "run" / name)) for name in files} == files


def test_json_holds_the_rows(tool: Tool) -> None:
    done = tool("ensemble", *SMALL, "--no-report", "--json", "--out", "run")
    found = json.loads(done.out)
    assert [row["members"] for row in found["rows"]] == [1, 1, 2, 2, 3, 1]
    assert (found["report"], found["saved"]["snapshot ensemble"]) == (None, "run/snapshots.safetensors")


def test_a_folder_with_files_is_refused_before_training(tool: Tool) -> None:
    Path("run").mkdir()
    Path("run/mine").write_text("mine")
    done = tool("ensemble", *SMALL, "--out", "run")
    assert (done.code, done.out) == (1, "")
    assert "already holds files" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "7", "--snapshots", "3"), "epochs"),
        (("--members", "0"), "at least 1"),
        (("--optimizer", "sdg"), "did you mean 'sgd'"),
        (("--hidden", "wide"), "--hidden wants widths"),
    ],
)
def test_a_wrong_option_of_an_ensemble_is_one_line(tool: Tool, options: tuple[str, ...], message: str) -> None:
    done = tool("ensemble", *options)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert message in done.err


def test_ctrl_c_in_an_ensemble_says_that_nothing_was_written(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["tinygrad_cr.cli.ensemble"], "comparison", interrupted)
    done = tool("ensemble", *SMALL, "--out", "run")
    assert (done.code, done.err.strip()) == (130, "interrupted; nothing was written")
    assert not Path("run").exists()


def test_progress_tells_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    # One network of 10 epochs, then five of them at once.
    whole = Whole([1.0, 5.0], stream)
    for length in (1.0, 2.0):
        whole.start(10, 1)
        for epoch in range(1, 11):
            now[0] += length
            whole.epoch({"epoch": epoch}, 10)
    whole.end()
    # 10 s for a sixth of the work, then 20 s for a half of the rest.
    assert stream.getvalue() == "17% done, about 50 s left\n58% done, about 14 s left\n"


def test_what_callbacks_see_is_told_and_no_line_an_epoch() -> None:
    stream = io.StringIO()
    whole = Whole([1.0], stream)
    whole.note("2 of 2 members train; the best is member 1")
    whole.note("failure: member 1 diverged")
    assert stream.getvalue() == "failure: member 1 diverged\n"


# predict


def predicted(done: Done) -> list[dict[str, str]]:
    assert done.code == 0, done.err
    return list(csv.DictReader(io.StringIO(done.out)))


@pytest.mark.parametrize("name", ["", "/ensemble.safetensors", "/snapshots.safetensors"])
def test_an_ensemble_predicts(ensembles: tuple[Done, Path], tool: Tool, name: str) -> None:
    folder = ensembles[1] / "run"
    rows = predicted(tool("predict", "--model", f"{folder}{name}", "--data", "digits"))
    whole = Ensemble.load(folder / (name.removeprefix("/") or "ensemble.safetensors"))
    p = whole.predict_proba(load("digits").x)
    assert [float(row["p_3"]) for row in rows] == pytest.approx(p[:, 3].tolist(), rel=1e-5)
    assert [row["class"] for row in rows] == [whole.class_names[i] for i in p.argmax(axis=1)]


def test_the_winner_of_a_search_predicts(tool: Tool) -> None:
    tool("search", *QUICK, "--trials", "3", "--out", "run")
    rows = predicted(tool("predict", "--model", "run", "--data", "digits"))
    winner = read("run").winner
    digits = load("digits")
    right = sum(row["class"] == str(y) for row, y in zip(rows, digits.y, strict=True)) / len(rows)
    assert abs(right - winner.val_accuracy) < 0.1
    Path("run/winner.safetensors").unlink()
    state = json.loads(Path("run/search.json").read_text())
    Path("run/search.json").write_text(json.dumps(state | {"winner": None}))
    assert "run has no winner yet" in tool("predict", "--model", "run", "--data", "digits").err


def test_a_file_that_is_no_ensemble_is_refused(tool: Tool) -> None:
    Path("some.safetensors").write_bytes(b"nothing")
    done = tool("predict", "--model", "some.safetensors", "--data", "digits")
    assert (done.code, "is no whole safetensors file" in done.err) == (1, True)


# report


def test_a_report_is_made_again_of_a_search_and_of_ensembles(ensembles: tuple[Done, Path], tool: Tool) -> None:
    tool("search", *QUICK, "--trials", "2", "--out", "search")
    assert tool("report", "search").out == "search/report.html\n"
    assert ": search report" in Path("search/report.html").read_text()
    assert tool("report", str(ensembles[1] / "run"), "--out", "page.html").out == "page.html\n"
    assert ": ensemble report" in Path("page.html").read_text()


@pytest.mark.parametrize("other", ["searched", "ensembles", "run"])
def test_a_search_or_ensembles_beside_anything_else_are_refused(tool: Tool, other: str) -> None:
    for name, file in {"search": "search.json", "searched": "search.json", "ensembles": "comparison.json"}.items():
        Path(name).mkdir()
        Path(name, file).write_text("{}")
    for folders in (("search", other), (other, "search")):
        done = tool("report", *folders)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert "has a page of its own, but 2 folders were given: give it alone" in done.err
