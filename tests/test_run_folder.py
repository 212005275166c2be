"""The folder a run leaves behind: whole, readable, and never half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import RunError
from tinygrad_cr.nn import MLP, Affine
from tinygrad_cr.train import Trainer, load_run, predict_proba
from tinygrad_cr.train.checkpoint import digest
from tinygrad_cr.train.run import RunFolder, next_run_path, write_atomically

RNG = np.random.default_rng(0)
DATA = Dataset(RNG.standard_normal((40, 5)) * 7 + 3, np.arange(40) % 3, class_names=["ant", "bee", "cat"])
CHECKPOINT = "checkpoints/step-0000000006.safetensors"
FILES = {"config.json", "history.jsonl", "events.jsonl", "histograms.jsonl", "model.safetensors", CHECKPOINT}


def fit(out: Path, **options: Any) -> Trainer:
    model = MLP([5, 8, 3], dropout=0.25, dropout_mode="vanilla", init=0.5, generator=0, dtype="float64")
    wanted = {"lr": 0.05, "epochs": 3, "generator": 7, "reporter": False, "out": out}
    trainer = Trainer(model, **wanted | options)
    trainer.history = trainer.fit(DATA, DATA)
    return trainer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    fit(tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is in it


def test_a_run_folder_holds_these_files_and_nothing_else(run):
    assert set(contents(run)) == FILES


def test_the_loaded_network_has_the_parameters_of_the_trained_one(tmp_path):
    trainer = fit(tmp_path / "run")
    np.testing.assert_equal(load_run(tmp_path / "run").model.state_dict(), trainer.model.state_dict())


def test_the_loaded_network_predicts_what_the_trained_one_does(tmp_path):
    trainer = fit(tmp_path / "run")
    loaded = load_run(str(tmp_path / "run"))
    np.testing.assert_array_equal(
        predict_proba(loaded.model, DATA.x, loaded.standardizer),
        predict_proba(trainer.model, DATA.x, trainer.standardizer),
    )


def test_the_loaded_network_is_in_evaluation_mode(run):
    assert not any(module.training for module in load_run(run).model.modules())


def test_the_loaded_history_is_the_one_that_fit_returned(tmp_path):
    trainer = fit(tmp_path / "run")
    assert list(load_run(tmp_path / "run").history) == list(trainer.history)


def test_class_names_come_back(run):
    assert load_run(run).class_names == ["ant", "bee", "cat"]


@pytest.mark.parametrize("mode", ["per-feature", "mean-image", "none"])
def test_the_standardization_comes_back(tmp_path, mode):
    trainer = fit(tmp_path / "run", standardize=mode)
    loaded = load_run(tmp_path / "run").standardizer
    np.testing.assert_equal((loaded.mode, loaded.state_dict()), (mode, trainer.standardizer.state_dict()))


def test_the_configuration_says_how_to_make_the_run_again(tmp_path):
    config = json.loads((fit(tmp_path / "run", config={"data": "insects"}).out / "config.json").read_text())
    versions, created = config.pop("versions"), datetime.fromisoformat(config.pop("created"))
    assert set(versions) == {"tinygrad_cr", "python", "numpy", "numba"}
    assert created <= datetime.now(UTC)
    assert config == {
        "format": 1,
        "optimizer": "sgd",
        "optimizer_options": {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
        "schedule": None,
        "clip_norm": None,
        "train_sample": 1000,
        "validate_epochs": 1,
        "validate_steps": None,
        "patience": None,
        "monitors": True,
        "checkpoint_epochs": 1,
        "image_shape": None,
        "data_digest": digest(DATA),
        "lr": 0.05,
        "lr_decay": 1.0,
        "momentum": 0.9,
        "reg": 0.0,
        "epochs": 3,
        "batch_size": 32,
        "standardize": "per-feature",
        "seed": 7,
        "class_names": ["ant", "bee", "cat"],
        "model": {"sizes": [5, 8, 3], "dropout": 0.25, "dropout_mode": "vanilla", "init": 0.5, "dtype": "float64"},
        "data": "insects",
        "device": "cpu",
    }


def test_the_history_is_a_json_object_a_line(run):
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_the_model_file_holds_the_best_epoch_and_not_the_last(tmp_path):
    trainer = fit(tmp_path / "run", lr=2.0, epochs=12)
    assert trainer.history.best()["epoch"] < 12
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    np.testing.assert_array_equal(tensors["layers.0.weight"], trainer.model.layers[0].weight.data)


def test_the_model_file_holds_the_standardization(run):
    tensors = load_file(run / "model.safetensors")
    np.testing.assert_array_equal(tensors["standardizer.mean"], DATA.x.mean(axis=0))


def test_an_array_that_is_not_contiguous_is_written_element_by_element(tmp_path):
    trainer = fit(tmp_path / "run")
    weight = np.arange(6.0).reshape(2, 3).T
    RunFolder(tmp_path / "new").write_model({"w": weight}, trainer.standardizer)
    np.testing.assert_array_equal(load_file(tmp_path / "new" / "model.safetensors")["w"], weight)


def test_parents_of_the_folder_are_made(tmp_path):
    fit(tmp_path / "a" / "b" / "run")
    assert set(contents(tmp_path / "a" / "b" / "run")) == FILES


def test_an_empty_folder_is_taken(tmp_path):
    fit(tmp_path)
    assert set(contents(tmp_path)) == FILES


def test_files_are_readable_by_others_as_the_umask_says(run):
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_file()} == {0o666 & ~umask}


def test_the_next_run_takes_the_first_free_number(tmp_path):
    (tmp_path / "digits-1").mkdir()
    assert next_run_path(tmp_path, "digits") == tmp_path / "digits-2"


# Taken folders


def test_a_folder_with_a_run_is_refused_and_left_as_it_was(run):
    before = contents(run)
    with pytest.raises(RunError, match="already holds another run; nothing was written"):
        fit(run)
    assert contents(run) == before


def test_a_folder_with_other_files_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="already holds other files"):
        fit(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match=r"cannot make the run folder .*run"):
        fit(tmp_path / "run")


def test_the_error_is_also_the_built_in_one(run):
    with pytest.raises(OSError, match="already holds another run"):
        fit(run)


# Broken folders


def rewrite(**changes: Any) -> Callable[[Path], None]:
    """Change entries of config.json; None removes one."""

    def apply(run: Path) -> None:
        config = json.loads((run / "config.json").read_text()) | changes
        (run / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return apply


def truncate(name: str, size: int) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:size])


def drop_tensor(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    del tensors["layers.1.bias"]
    save_file(tensors, run / "model.safetensors")


def drop_standardizer(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "standardizer" not in k}, run / "model.safetensors")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda run: (run / "config.json").unlink(), "is no run folder: it has no config.json"),
    "no model": (lambda run: (run / "model.safetensors").unlink(), "has no model.safetensors: the run ended before"),
    "broken json": (truncate("config.json", 40), "does not hold a whole run"),
    "an empty config": (truncate("config.json", 0), "does not hold a whole run"),
    "a config that is a list": (lambda run: (run / "config.json").write_text("[1]"), "does not hold a whole run"),
    "bytes that are no text": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe"), "does not hold a whole"),
    "a truncated model": (truncate("model.safetensors", 300), "does not hold a whole run"),
    "a truncated header": (truncate("model.safetensors", 5), "does not hold a whole run"),
    "an empty model": (truncate("model.safetensors", 0), "does not hold a whole run"),
    "a broken history": (truncate("history.jsonl", 20), "does not hold a whole run"),
    "another format": (rewrite(format=2), "has run format 2, this version reads 1"),
    "no format": (rewrite(format=None), "does not hold a whole run"),
    "no network": (rewrite(model=None), "does not hold a whole run"),
    "a network without widths": (rewrite(model={"sizes": []}), "does not hold a whole run"),
    "another network": (rewrite(model={"sizes": [5, 9, 3], "dtype": "float64"}), "layers.0.weight has shape"),
    "an unknown option": (rewrite(model={"sizes": [5, 8, 3], "colour": "red"}), "colour"),
    "a missing tensor": (drop_tensor, "missing layers.1.bias"),
    "no standardization": (drop_standardizer, "wanted"),
}


@pytest.mark.parametrize(("breakage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_refused_by_name_and_cause(run, breakage, message):
    breakage(run)
    with pytest.raises(RunError, match=message) as caught:
        load_run(run)
    assert str(run) in str(caught.value)


@pytest.mark.parametrize("names", [None, ["ant"], "abc"])
def test_class_names_that_do_not_fit_the_network_are_refused(run, names):
    rewrite(class_names=names)(run)
    with pytest.raises(RunError, match="class_names"):
        load_run(run)


def test_a_folder_that_does_not_exist_is_no_run(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        load_run(tmp_path / "nowhere")


def test_a_file_is_no_run(run):
    with pytest.raises(RunError, match="is no run folder"):
        load_run(run / "config.json")


def test_a_run_without_history_is_still_a_network(run):
    (run / "history.jsonl").unlink()
    assert len(load_run(run).history) == 0


def test_a_run_of_a_network_that_is_no_mlp_says_so_when_loaded(tmp_path):
    Trainer(Affine(5, 3, generator=0), epochs=1, reporter=False, out=tmp_path / "run").fit(DATA)
    with pytest.raises(RunError, match="MLP"):
        load_run(tmp_path / "run")


# Whole or not at all


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_an_interrupt_while_writing_leaves_no_file(tmp_path, monkeypatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert contents(tmp_path) == {}


def test_contents_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.fstat(descriptor).st_size))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: events.append("renamed") or replace(self, target))
    write_atomically(tmp_path / "file", b"four")
    assert events == [4, "renamed"]


def test_an_interrupted_epoch_leaves_the_epochs_before_it(tmp_path, monkeypatch):
    written = []
    write_history = RunFolder.write_history

    def interrupted(self: RunFolder, history: Any) -> None:
        written.append(len(history))
        if len(history) == 3:
            raise KeyboardInterrupt
        write_history(self, history)

    monkeypatch.setattr(RunFolder, "write_history", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", epochs=9)
    assert written == [1, 2, 3]
    assert len(load_run(tmp_path / "run").history) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from tinygrad_cr.train import load_run
from tinygrad_cr.train.run import RunFolder

run = load_run(sys.argv[1])
folder = RunFolder.__new__(RunFolder)
folder.path = Path(sys.argv[1])
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
run.model.flat().values[...] = 0
folder.write_model(run.model.state_dict(), run.standardizer)
"""


def test_a_process_killed_while_writing_leaves_the_old_network(run):
    before = contents(run)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {name: content for name, content in contents(run).items() if name in FILES} == before
    assert load_run(run).model.flat().values.any()
