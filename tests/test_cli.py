"""The command line, as a stranger meets it: what it prints, what it writes, and what it leaves alone."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tinygrad_cr import cli, op_table, ops
from tinygrad_cr.cli import engine
from tinygrad_cr.data import load, split
from tinygrad_cr.gradcheck import gradcheck
from tinygrad_cr.nn import MLP
from tinygrad_cr.train import Trainer, load_run, predict_proba, read_run
from tinygrad_cr.train.checkpoint import digest

QUICK = ("--epochs", "2", "--hidden", "8", "--no-report")
FILES = {"config.json", "events.jsonl", "histograms.jsonl", "history.jsonl", "model.safetensors", "report.html"}
FILES |= {"checkpoints"}
EPOCH = re.compile(
    r"Finished epoch \d+ / \d+: cost \d+\.\d{6}, train: [01]\.\d{6}, val [01]\.\d{6}, lr \d\.\d{6}e-\d\d"
)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Tool = Callable[..., Done]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run a command in this process, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["tinygrad-cr", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        return Done(code, *capsys.readouterr())

    return run


def process(*arguments: str, folder: Path) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_cr", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def insects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with text labels, the same rows without them, as .npz, and a network trained on it."""
    folder = tmp_path_factory.mktemp("insects")
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = (rng.standard_normal((60, 4)) + 4 * np.eye(3, 4)[y]).astype("float32")
    names = np.array(["ant", "bee", "cicada"])
    header = ["legs", "wings", "kind", "weight", "length"]
    with (folder / "insects.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [header, *([*row[:2], names[label], *row[2:]] for row, label in zip(x, y, strict=True))]
        )
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header[:2] + header[3:], *x])
    np.savez(folder / "rows.npz", x=x)
    np.savez(folder / "labelled.npz", x=x, y=y)
    np.savez(folder / "narrow.npz", x=x[:, :3])
    done = process(
        "train",
        "--data",
        "insects.csv",
        "--label",
        "kind",
        "--hidden",
        "16",
        "--out",
        "run",
        "--no-report",
        folder=folder,
    )
    assert done.code == 0, done.err
    return folder


# train


@pytest.fixture(scope="module")
def defaults(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """`tinygrad-cr train`, as it comes."""
    folder = tmp_path_factory.mktemp("defaults")
    return process("train", folder=folder), folder


def test_the_defaults_learn_the_digits(defaults):
    accuracy = float(re.search(r"^test accuracy (\S+), saved in runs/digits-1$", defaults[0].out, re.M)[1])
    assert accuracy >= 0.96


def test_the_defaults_end_quietly_with_exit_code_0(defaults):
    assert (defaults[0].code, defaults[0].err) == (0, "")


def test_the_defaults_write_one_run_folder(defaults):
    _, folder = defaults
    checkpoint = "runs/digits-1/checkpoints/step-0000001360.safetensors"
    assert everything_in(folder) == {"runs", "runs/digits-1", checkpoint} | {f"runs/digits-1/{name}" for name in FILES}


def test_without_a_terminal_every_epoch_is_one_of_the_lectures_lines(defaults):
    lines = defaults[0].out.splitlines()
    assert all(EPOCH.fullmatch(line) for line in lines[:40])
    assert lines[0].startswith("Finished epoch 1 / 40: ")


def test_without_a_terminal_the_end_is_the_lectures_line_and_the_test_accuracy(defaults):
    *_, finished, last = defaults[0].out.splitlines()
    assert len(defaults[0].out.splitlines()) == 42
    assert re.fullmatch(r"finished optimization\. best validation accuracy: 0\.\d{6}", finished)
    assert last.startswith("test accuracy 0.9")


def test_the_printed_validation_accuracy_is_the_best_of_the_history(defaults):
    done, folder = defaults
    best = load_run(folder / "runs/digits-1").history.best()["val_accuracy"]
    assert f"best validation accuracy: {best:.6f}\n" in done.out


def test_the_same_command_prints_the_same_lines(tool):
    first, second = (tool("train", *QUICK, "--out", name).out.splitlines() for name in ("a", "b"))
    assert first[:-1] == second[:-1]


def test_another_seed_prints_other_lines(tool):
    first, second = (tool("train", *QUICK, "--out", seed, "--seed", seed).out for seed in ("1", "2"))
    assert first.splitlines()[0] != second.splitlines()[0]


def test_every_run_gets_a_new_folder(tool):
    outputs = [tool("train", *QUICK).out for _ in range(3)]
    assert [output.split()[-1] for output in outputs] == ["runs/digits-1", "runs/digits-2", "runs/digits-3"]


def test_a_run_lies_where_out_says(tool, tmp_path):
    tool("train", *QUICK, "--out", "here/run")
    assert {path.name for path in (tmp_path / "here/run").iterdir()} == FILES - {"report.html"}


def test_options_reach_the_configuration(tool):
    options = {
        "--hidden": "9,7",
        "--dropout": "0.1",
        "--dropout-mode": "vanilla",
        "--epochs": "1",
        "--batch-size": "50",
        "--lr": "0.02",
        "--momentum": "0.5",
        "--lr-decay": "0.9",
        "--reg": "0.001",
        "--optimizer": "sgd",
        "--init": "1e-2",
        "--standardize": "mean-image",
        "--clip-norm": "2.5",
        "--validate-steps": "9",
        "--patience": "4",
        "--checkpoint-epochs": "2",
        "--seed": "3",
    }
    arguments = [*(part for option in options.items() for part in option), "--out", "run"]
    tool("train", *arguments, "--no-report")
    config = json.loads(Path("run/config.json").read_text())
    assert set(config.pop("versions")) == {"tinygrad_cr", "python", "numpy", "numba"}
    assert datetime.fromisoformat(config.pop("created")).tzinfo is UTC
    assert config.pop("data_digest") == digest(split(load("digits"), seed=3).train)
    assert config == {
        "format": 1,
        "command": ["tinygrad-cr", "train", *arguments, "--no-report"],
        "label": None,
        "split_seed": 3,
        "image_shape": [8, 8],
        "optimizer_options": {"momentum": 0.5, "nesterov": False, "weight_decay": 0.0},
        "schedule": None,
        "clip_norm": 2.5,
        "train_sample": 1000,
        "validate_epochs": 1,
        "validate_steps": 9,
        "patience": 4,
        "monitors": True,
        "checkpoint_epochs": 2,
        "optimizer": "sgd",
        "lr": 0.02,
        "lr_decay": 0.9,
        "momentum": 0.5,
        "reg": 0.001,
        "epochs": 1,
        "batch_size": 50,
        "standardize": "mean-image",
        "seed": 3,
        "class_names": list("0123456789"),
        "model": {
            "sizes": [64, 9, 7, 10],
            "dropout": 0.1,
            "dropout_mode": "vanilla",
            "init": 0.01,
            "dtype": "float32",
        },
        "data": "digits",
        "device": "cpu",
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_trains_by_name(tool, optimizer):
    assert tool("train", *QUICK, "--optimizer", optimizer).code == 0


def test_a_network_without_hidden_layers_is_an_empty_list(tool):
    tool("train", "--epochs", "1", "--hidden", "", "--out", "run")
    assert load_run("run").model.sizes == [64, 10]


# --json


def test_json_prints_exactly_one_object(tool):
    done = tool("train", *QUICK, "--json")
    assert set(json.loads(done.out)) == {
        "run",
        "report",
        "stopped",
        "events",
        "test_accuracy",
        "test_loss",
        "best_epoch",
        "best_val_accuracy",
        "seconds",
    }
    assert done.out.count("\n") == 1


def test_json_sends_the_lines_to_standard_error(tool):
    *epochs, finished = tool("train", *QUICK, "--json").err.splitlines()
    assert [bool(EPOCH.fullmatch(line)) for line in epochs] == [True, True]
    assert finished.startswith("finished optimization. best validation accuracy: ")


def test_json_names_the_figures_of_the_run(tool):
    found = json.loads(tool("train", *QUICK, "--json").out)
    history = load_run(found["run"]).history
    assert (found["best_epoch"], found["best_val_accuracy"], found["seconds"]) == (
        history.best()["epoch"],
        history.best()["val_accuracy"],
        history[-1]["seconds"],
    )


def test_json_prints_no_object_when_the_command_fails(tool):
    assert tool("train", "--json", "--lr", "-1").out == ""


# A terminal


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_a_terminal_shows_a_bar_instead_of_lines(tmp_path):
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "tinygrad_cr", "train", *QUICK]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        parts = []
        # Linux says EIO where the other end of a pseudo-terminal is closed.
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:
            pass
    os.close(ours)
    shown = b"".join(parts).decode()
    assert child.returncode == 0
    assert "2/2" in shown
    assert "━" in shown
    assert "Finished epoch" not in shown
    assert "finished optimization. best validation accuracy: 0." in shown


# Refusals of train

REFUSED = {
    ("--lr", "-1"): r"lr must be a finite number >= 0, got -1\.0",
    ("--lr", "nan"): "lr must be a finite number >= 0, got nan",
    ("--dropout", "1"): r"dropout must be a number in \[0, 1\), got 1\.0; it is the probability of dropping",
    ("--dropout", "-0.5"): r"dropout must be a number in \[0, 1\), got -0\.5",
    ("--momentum", "1"): r"momentum must be a number in \[0, 1\), got 1\.0",
    ("--lr-decay", "0"): r"decay .*got 0\.0",
    ("--lr-decay", "1.1"): r"decay .*got 1\.1",
    ("--reg", "-1"): r"reg must be a finite number >= 0, got -1\.0",
    ("--hidden", "abc"): "--hidden wants widths such as 100 or 256,128; got 'abc'",
    ("--hidden", "1.5"): r"--hidden wants widths such as 100 or 256,128; got '1\.5'",
    ("--hidden", "0"): "must be an integer of at least 1, got 0",
    ("--epochs", "0"): "epochs must be an integer of at least 1, got 0",
    ("--batch-size", "0"): "batch_size must be an integer of at least 1, got 0",
    ("--seed", "-1"): "seed must be an integer of at least 0",
    ("--init", "-1"): r"init must be a finite number >= 0, got -1\.0",
    ("--init", "hee"): "unknown init 'hee': did you mean 'he'",
    ("--data", "digts"): "unknown data set 'digts': did you mean 'digits'",
    ("--optimizer", "sdg"): "unknown optimizer 'sdg': did you mean 'sgd'",
    ("--dropout-mode", "invrted"): "unknown dropout mode 'invrted': did you mean 'inverted'",
    ("--standardize", "mean"): "unknown standardization 'mean': .*mean-image",
    ("--data", "nothing.csv"): "nothing.csv: there is no such file",
    ("--data", "nothing.npz"): "nothing.npz: there is no such file",
    ("--label", "3"): "label=3 chooses a column of a .csv file",
}
refused = pytest.mark.parametrize(("options", "message"), REFUSED.items(), ids=[" ".join(o) for o in REFUSED])


@refused
def test_a_refused_command_says_why_in_one_line_and_exits_with_1(tool, options, message):
    done = tool("train", *options)
    (line,) = done.err.splitlines()
    assert re.match(f"error: .*{message}", line)
    assert (done.code, done.out) == (1, "")


@refused
def test_a_refused_command_leaves_nothing_on_disk(tool, tmp_path, options, message):
    tool("train", *options)
    assert everything_in(tmp_path) == set()


def test_a_refused_command_is_one_line_in_a_process_too(tmp_path):
    done = process("train", "--optimizer", "sdg", folder=tmp_path)
    assert done == Done(1, "", "error: unknown optimizer 'sdg': did you mean 'sgd'? Known: adam, adamw, sgd\n")


@pytest.mark.parametrize("options", [("--epochs", "many"), ("--colour", "red")])
def test_a_command_that_cannot_be_read_exits_with_2_and_leaves_nothing_on_disk(tool, tmp_path, options):
    assert tool("train", *options).code == 2
    assert everything_in(tmp_path) == set()


def test_a_folder_with_another_run_is_refused_and_left_as_it_was(tool, tmp_path):
    tool("train", *QUICK, "--out", "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    done = tool("train", *QUICK, "--out", "run", "--seed", "1")
    assert done == Done(1, "", "error: run already holds another run; nothing was written, choose a new folder\n")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")} == before


def test_a_folder_with_other_files_is_refused_and_left_as_it_was(tool, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = tool("train", *QUICK, "--out", ".")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert everything_in(tmp_path) == {"thesis.tex"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a,b,label\n1,2,0\n3,x,1\n", "row 3.*'b'"),
        ("a,b,label\n1,2,0\n3,nan,1\n", "row 3.*'b'"),
        ("a,b,label\n1,2,0\n3,1\n", "row 3 has 2 cells, but row 1 has 3"),
        ("", "is empty"),
        ("a,b,label\n", "no rows"),
    ],
)
def test_a_bad_table_is_refused_by_file_row_and_column(tool, tmp_path, table, message):
    (tmp_path / "bad.csv").write_text(table)
    done = tool("train", "--data", "bad.csv")
    assert re.match(f"error: bad.csv: .*{message}", done.err)
    assert (done.code, everything_in(tmp_path)) == (1, {"bad.csv"})


def test_too_few_rows_for_three_parts_are_refused(tool, tmp_path):
    (tmp_path / "few.csv").write_text("a,label\n1,0\n2,1\n")
    done = tool("train", "--data", "few.csv")
    assert (done.code, done.err.count("\n"), everything_in(tmp_path)) == (1, 1, {"few.csv"})


# predict


def predictions(text: str) -> tuple[list[str], list[str], np.ndarray]:
    """Header, classes and probabilities of what predict writes."""
    header, *rows = csv.reader(io.StringIO(text))
    return header, [row[0] for row in rows], np.array([row[1:] for row in rows], float)


ROWS = {
    "a table": ("rows.csv",),
    "a table with a label column left out by name": ("insects.csv", "--label", "kind"),
    "a table with a label column left out by position": ("insects.csv", "--label", "2"),
    "a table with a label column left out from the end": ("insects.csv", "--label", "-3"),
    "arrays": ("rows.npz",),
    "arrays with labels": ("labelled.npz",),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_predict_gives_the_probabilities_of_the_loaded_network_for(tool, insects, rows):
    file, *label = rows
    header, classes, probabilities = predictions(
        tool("predict", "--model", insects / "run", "--data", insects / file, *label).out
    )
    run = load_run(insects / "run")
    expected = predict_proba(run.model, load(insects / "rows.npz", label=None).x, run.standardizer)
    assert header == ["class", "p_ant", "p_bee", "p_cicada"]
    assert classes == [run.class_names[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


def test_predicted_probabilities_sum_to_one(tool, insects):
    _, _, probabilities = predictions(tool("predict", "--model", insects / "run", "--data", insects / "rows.csv").out)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_predict_knows_what_train_learned(tool, insects):
    _, classes, _ = predictions(tool("predict", "--model", insects / "run", "--data", insects / "rows.csv").out)
    right = sum(got == ("ant", "bee", "cicada")[i % 3] for i, got in enumerate(classes))
    assert right >= 57


def test_predict_answers_for_a_population_with_the_mean_of_its_members(tool, insects, tmp_path):
    part = load(insects / "insects.csv", label="kind")
    population = MLP([4, 8, 3], members=3, generator=0)
    Trainer(population, epochs=2, out=tmp_path / "many", reporter=False).fit(part)
    header, _, probabilities = predictions(tool("predict", "--model", "many", "--data", insects / "rows.csv").out)
    run = load_run(tmp_path / "many")
    members = predict_proba(run.model, load(insects / "rows.npz", label=None).x, run.standardizer)
    assert (header, members.shape) == (["class", "p_ant", "p_bee", "p_cicada"], (3, 60, 3))
    np.testing.assert_allclose(probabilities, members.mean(axis=0), rtol=1e-4)


def test_predict_takes_a_data_set_by_name(tool):
    tool("train", *QUICK, "--out", "run")
    _, classes, probabilities = predictions(tool("predict", "--model", "run", "--data", "digits").out)
    assert probabilities.shape == (1797, 10)
    assert set(classes) <= set("0123456789")


def test_predict_writes_to_a_file_what_it_would_print(tool, insects, tmp_path):
    command = ("predict", "--model", insects / "run", "--data", insects / "rows.csv")
    printed = tool(*command).out
    assert tool(*command, "--out", "made.csv") == Done(0, "", "")
    assert (tmp_path / "made.csv").read_text() == printed


def test_predict_leaves_the_run_folder_alone(tool, insects):
    before = everything_in(insects)
    tool("predict", "--model", insects / "run", "--data", insects / "rows.csv")
    assert everything_in(insects) == before


def refused_prediction(tool: Tool, *arguments: object) -> str:
    """The one line of a refused prediction."""
    done = tool("predict", *arguments)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    return line


def test_predict_does_not_overwrite_a_file(tool, insects, tmp_path):
    (tmp_path / "taken.csv").write_text("precious")
    line = refused_prediction(tool, "--model", insects / "run", "--data", insects / "rows.csv", "--out", "taken.csv")
    assert line == "error: taken.csv exists already; nothing was written, choose a new name"
    assert (tmp_path / "taken.csv").read_text() == "precious"


def test_predict_names_an_output_folder_that_does_not_exist(tool, insects, tmp_path):
    line = refused_prediction(tool, "--model", insects / "run", "--data", insects / "rows.csv", "--out", "no/such.csv")
    assert line.startswith("error: cannot write no/such.csv")
    assert everything_in(tmp_path) == set()


def test_predict_names_both_widths_when_the_features_do_not_fit(tool, insects):
    line = refused_prediction(tool, "--model", insects / "run", "--data", insects / "narrow.npz", "--out", "made.csv")
    assert re.search("has 3 columns, the network of .* takes 4", line)
    assert not Path("made.csv").exists()


def test_predict_asks_for_the_label_column_of_a_table_that_still_has_one(tool, insects):
    line = refused_prediction(tool, "--model", insects / "run", "--data", insects / "insects.csv")
    assert "insects.csv" in line
    assert "kind" in line


def test_predict_names_a_label_column_that_does_not_exist(tool, insects):
    line = refused_prediction(tool, "--model", insects / "run", "--data", insects / "insects.csv", "--label", "knd")
    assert "'knd'" in line
    assert "'kind'" in line


def test_predict_refuses_a_folder_that_is_no_run(tool, tmp_path):
    line = refused_prediction(tool, "--model", tmp_path, "--data", "digits")
    assert line == f"error: {tmp_path} is no run folder: it has no config.json; give the folder that train wrote"


# gradcheck and help


@pytest.mark.slow
def test_gradcheck_prints_a_table_of_every_case_and_exits_with_0(tool):
    done = tool("gradcheck")
    cases = list(op_table.check_all(0))
    assert done.code == 0
    assert len(re.findall(r"│ ok +│", done.out)) == len(cases)
    assert done.out.splitlines()[-1] == f"{len(cases)} cases, all gradients agree with finite differences"


def test_gradcheck_exits_with_1_and_names_a_wrong_rule(tool, monkeypatch):
    def planted(seed: int):
        yield "tanh", "1.001 times too steep", gradcheck(wrong_tanh, [np.array([0.3, -0.2])], raises=False)

    def wrong_tanh(x):
        return ops.tanh(x) + 0.001 * (ops.tanh(x) - ops.tanh(x).detach())

    monkeypatch.setattr(engine, "check_all", planted)
    done = tool("gradcheck")
    assert done.code == 1
    assert "WRONG" in done.out
    assert "wrong_tanh" in done.out


@pytest.mark.parametrize("command", ["train", "doctor", "report", "predict", "gradcheck", "warmup"])
def test_help_names_every_command(tool, command):
    done = tool("--help")
    assert done.code == 0
    assert command in done.out


def test_without_a_command_help_is_shown_and_nothing_written(tool, tmp_path):
    done = tool()
    assert "Usage" in done.out + done.err
    assert everything_in(tmp_path) == set()


# Interrupted, and resumed


def interrupted(folder: Path, sent: signal.Signals = signal.SIGINT) -> Done:
    """A long run that somebody stops after its first epoch."""
    command = [sys.executable, "-m", "tinygrad_cr", "train", "--epochs", "100000", "--out", "run", "--no-report"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.readline()
        child.send_signal(sent)
        out, err = child.communicate(timeout=60)
    return Done(child.returncode, out, err)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_how_to_go_on(tmp_path, sent):
    done = interrupted(tmp_path, sent)
    assert (done.code, done.err) == (130, "interrupted; tinygrad-cr train --resume run goes on\n")
    assert re.search(r"^note: interrupted after step \d+, in epoch \d+; resume run to go on$", done.out, re.M)
    assert "finished" not in done.out


def test_an_interrupted_training_goes_on(tool, tmp_path):
    interrupted(tmp_path)
    steps = len(read_run(tmp_path / "run").history)
    done = tool("train", "--resume", "run", "--epochs", str(steps + 2))
    assert (done.code, done.err) == (0, "")
    assert re.match(r"going on after step \d+, in epoch \d+\n", done.out)
    assert re.search(r"^test accuracy 0\.9\d+, saved in run$", done.out, re.M)
    assert (len(read_run("run").history), Path("run/report.html").exists()) == (steps + 2, True)


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tool):
    tool("train", "--hidden", "8", "--epochs", "5", "--out", "whole", "--no-report")
    tool("train", "--hidden", "8", "--epochs", "3", "--out", "cut", "--no-report")
    tool("train", "--resume", "cut", "--epochs", "5", "--no-report")
    networks = [Path(name, "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert networks[0] == networks[1]


def test_the_command_of_a_run_that_was_made_longer_makes_it_again(tool):
    tool("train", *QUICK, "--out", "cut")
    tool("train", "--resume", "cut", "--epochs", "4", "--no-report")
    _, *command = read_run("cut").config["command"]
    tool(*command, "--out", "again")
    networks = [Path(name, "model.safetensors").read_bytes() for name in ("cut", "again")]
    assert networks[0] == networks[1]


def test_resume_refuses_options_that_the_run_has_already(tool):
    tool("train", *QUICK, "--out", "run")
    done = tool("train", "--resume", "run", "--lr", "0.1", "--validate-steps", "3")
    assert done == Done(1, "", "error: --resume takes the options of the run: leave --lr, --validate-steps out\n")


def test_resume_refuses_data_that_changed(tool, insects):
    table = Path("insects.csv")
    table.write_bytes((insects / "insects.csv").read_bytes())
    tool("train", "--data", "insects.csv", "--label", "kind", *QUICK, "--out", "run")
    table.write_text(table.read_text().replace("ant", "bee", 3))
    done = tool("train", "--resume", "run", "--epochs", "4")
    assert done == Done(1, "", "error: insects.csv is not what it was when this run was trained on it\n")


def test_resume_refuses_a_folder_that_is_no_run(tool):
    assert "is no run folder" in tool("train", "--resume", "nowhere").err


# Trouble


@pytest.fixture
def exploded(tool) -> Done:
    return tool("train", "--hidden", "16", "--lr", "1e5", "--out", "run")


def test_a_run_that_explodes_is_stopped_with_the_reason_and_exit_code_1(exploded):
    assert exploded.code == 1
    assert exploded.out.count("failure: ") == 1
    assert re.fullmatch(r"error: \w+ in epoch \d+: what to do stands above and in run/report.html\n", exploded.err)


def test_a_run_that_explodes_leaves_a_folder_that_can_be_read(exploded):
    record = read_run("run")
    assert [event.level for event in record.history.events if event.stop] == ["fail"]


def test_json_names_what_happened(tool):
    done = tool("train", "--hidden", "16", "--lr", "1e5", "--json", "--no-report")
    found = json.loads(done.out)
    assert done.code == 1
    assert found["stopped"] == next(event["message"] for event in found["events"] if event["stop"])


def test_without_monitors_divergence_is_an_error_and_leaves_a_report(tool):
    done = tool("train", "--hidden", "16", "--lr", "1e5", "--no-monitors", "--out", "run")
    assert "divergence" in Path("run/report.html").read_text()
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "learning rate, 100000, is too high" in done.err


# doctor


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return process("doctor", folder=tmp_path_factory.mktemp("doctor"))


def test_the_doctor_finds_nothing_wrong_with_the_defaults(examined):
    assert (examined.code, examined.err) == (0, "")
    assert "FAIL" not in examined.out


@pytest.mark.parametrize("check", ["inputs", "initial loss", "gradients", "overfit", "learning rate", "update ratio"])
def test_the_doctor_shows_every_check_with_its_verdict(examined, check):
    assert re.search(rf"^(PASS|WARN)  {check}", examined.out, re.M)


def test_the_doctor_exits_with_1_when_a_check_fails(tool):
    done = tool("doctor", "--hidden", "16", "--lr", "10")
    assert done.code == 1
    assert re.search(r"^FAIL  learning rate", done.out, re.M)


def test_the_doctor_speaks_json(tool):
    done = tool("doctor", "--hidden", "16", "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert {check["status"] for check in found["checks"]} <= {"PASS", "WARN", "SKIP"}


def test_the_doctor_takes_the_options_of_train_and_writes_nothing(tool, tmp_path):
    options = ["--epochs", "3", "--lr-decay", "0.9", "--momentum", "0.5", "--reg", "0.001", "--batch-size", "16"]
    options += ["--patience", "3", "--clip-norm", "1", "--validate-steps", "5", "--checkpoint-epochs", "2"]
    options += ["--no-monitors"]
    assert tool("doctor", "--hidden", "16", *options, "--seed", "4").code == 0
    assert everything_in(tmp_path) == set()


def test_the_doctor_refuses_what_cannot_be_examined_in_one_line(tool):
    Path("few.csv").write_text("a,b,label\n" + "1,2,x\n2,1,y\n" * 6)
    done = tool("doctor", "--data", "few.csv")
    assert (done.code, done.err.count("\n")) == (1, 1)


def test_preflight_comes_before_training_and_stays_with_the_run(tool):
    done = tool("train", *QUICK, "--preflight", "--out", "run")
    assert done.out.index("overfit") < done.out.index("Finished epoch 1")
    assert read_run("run").preflight["checks"]


def test_a_preflight_that_fails_keeps_training_from_beginning(tool, tmp_path):
    done = tool("train", *QUICK, "--lr", "10", "--preflight", "--out", "run", "--json")
    assert (done.code, (tmp_path / "run").exists()) == (1, False)
    assert json.loads(done.out)["ok"] is False


# report


def test_train_leaves_a_report(defaults):
    _, folder = defaults
    page = (folder / "runs/digits-1/report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "How to make it again" in page


def test_reports_are_made_again_and_compare_runs(tool):
    for name in ("a", "b"):
        tool("train", *QUICK, "--out", name)
    assert not Path("a/report.html").exists()
    assert tool("report", "a").out == "a/report.html\n"
    assert tool("report", "a", "b", "--out", "both.html").out == "both.html\n"
    assert all(Path(page).stat().st_size > 1000 for page in ("a/report.html", "both.html"))


def test_a_report_on_what_is_no_run_is_refused(tool, tmp_path):
    done = tool("report", "nowhere")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert everything_in(tmp_path) == set()


# Together


def test_of_two_runs_at_once_each_gets_a_folder_of_its_own(tmp_path):
    command = [sys.executable, "-m", "tinygrad_cr", "train", "--epochs", "1", "--no-report"]
    processes = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-1", "digits-2"]


def test_a_disk_that_fails_in_mid_training_is_an_error_and_no_new_start(tool, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinygrad_cr.train.run.write_atomically", fail)
    result = tool("train", "--epochs", "1")
    assert (result.code, [path.name for path in (tmp_path / "runs").iterdir()]) == (1, ["digits-1"])
