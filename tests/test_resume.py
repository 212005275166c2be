"""A run that was cut short, at any moment, goes on to the bytes of one that was not."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_cr import schedules
from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, OptionError, RunError
from tinygrad_cr.nn import MLP, Affine, Dropout, ReLU, Sequential
from tinygrad_cr.optim import SGD, Adam
from tinygrad_cr.report.settings import settings
from tinygrad_cr.train import Callback, Trainer, load_run, read_run
from tinygrad_cr.train.checkpoint import read
from tinygrad_cr.train.run import checkpoints


def blobs(n: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Dataset(rng.standard_normal((n, 5)) + 1.5 * np.eye(3, 5)[y], y)


TRAIN, VALIDATION = blobs(60), blobs(31, seed=1)


def trainer(out: Path | None, **options: Any) -> Trainer:
    """Six epochs of 8 steps."""
    model = options.pop("model", None) or MLP([5, 8, 3], dropout=0.5, generator=0)
    wanted = {"lr": 0.05, "epochs": 6, "batch_size": 8, "generator": 3, "reporter": False, "out": out}
    return Trainer(model, **wanted | options)


def bytes_of(folder: Path) -> dict[str, Any]:
    """Everything in a run folder but the time that it took."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl":
            found[name] = [
                {key: value for key, value in json.loads(line).items() if key != "seconds"}
                for line in path.read_text().splitlines()
            ]
        elif path.parent.name == "checkpoints":
            checkpoint = read(path)
            arrays = {key: (value.dtype.str, value.tobytes()) for key, value in checkpoint.arrays.items()}
            rows = [{k: v for k, v in row.items() if k != "seconds"} for row in checkpoint.state["history"]]
            found[name] = (arrays, {**checkpoint.state, "seconds": 0, "history": rows})
        elif path.name == "config.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "created"}
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


class Interrupting:
    """A reporter that interrupts after a step."""

    def __init__(self, step: int) -> None:
        self.step, self.notes = step, []

    def start(self, epochs: int, steps_per_epoch: int) -> None: ...
    def epoch(self, row: Any, epochs: int) -> None: ...
    def stop(self, best_accuracy: Any) -> None: ...

    def steps(self, done: int) -> None:
        if done == self.step:
            self.trainer.interrupt()

    def note(self, text: str) -> None:
        self.notes.append(text)


def interrupted(out: Path, step: int, **options: Any) -> Any:
    """Train until a step; the history."""
    reporter = Interrupting(step)
    reporter.trainer = trainer(out, reporter=reporter, **options)
    return reporter.trainer.fit(TRAIN, VALIDATION)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run that nobody interrupts leaves."""
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder).fit(TRAIN, VALIDATION)
    return bytes_of(folder)


# Interrupted


@pytest.mark.parametrize("step", [1, 5, 8, 9, 30, 47])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, whole, step):
    history = interrupted(tmp_path, step)
    assert [event.kind for event in history.events][-1] == "interrupted"
    Trainer.resume(tmp_path, reporter=False).fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path) == whole


def test_an_interrupt_during_the_last_step_comes_too_late(tmp_path, whole):
    assert interrupted(tmp_path, 48).stopped is None
    assert bytes_of(tmp_path) == whole


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam", "lr": 0.01},
        {"optimizer": "adamw", "lr": 0.01, "reg": 0.1},
        {"clip_norm": 0.1, "lr_decay": 0.5, "momentum": 0.0},
        {"validate_steps": 3, "validate_epochs": 2, "checkpoint_epochs": 4},
        {"patience": 2, "lr": 0.3, "epochs": 40},
        {"standardize": "mean-image", "train_sample": 7, "monitors": False},
        {"lr": 1e3},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_option_comes_back(tmp_path, options):
    trainer(tmp_path / "whole", **options).fit(TRAIN, VALIDATION)
    interrupted(tmp_path / "cut", 13, **options)
    Trainer.resume(tmp_path / "cut", reporter=False).fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_a_run_may_be_interrupted_again_and_again(tmp_path, whole):
    interrupted(tmp_path, 3)
    for step in (4, 11, 12, 40):
        reporter = Interrupting(step)
        reporter.trainer = Trainer.resume(tmp_path, reporter=reporter)
        reporter.trainer.fit(TRAIN, VALIDATION)
    Trainer.resume(tmp_path, reporter=False).fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path) == whole


def test_the_resumed_trainer_says_where_it_goes_on(tmp_path):
    interrupted(tmp_path, 13)
    reporter = Interrupting(0)
    Trainer.resume(tmp_path, reporter=reporter).fit(TRAIN, VALIDATION)
    assert "going on after step 13, in epoch 2" in reporter.notes


def test_the_time_of_a_resumed_run_goes_on(tmp_path):
    first = interrupted(tmp_path, 13)
    history = Trainer.resume(tmp_path, reporter=False).fit(TRAIN, VALIDATION)
    assert history.column("seconds") == sorted(history.column("seconds"))
    assert history[0]["seconds"] == first[0]["seconds"]


def test_a_finished_run_stays_what_it_is(tmp_path, whole):
    trainer(tmp_path).fit(TRAIN, VALIDATION)
    Trainer.resume(tmp_path, reporter=False).fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path) == whole


def test_a_finished_run_may_be_made_longer(tmp_path):
    trainer(tmp_path / "short", epochs=4).fit(TRAIN, VALIDATION)
    Trainer.resume(tmp_path / "short", epochs=6, reporter=False).fit(TRAIN, VALIDATION)
    trainer(tmp_path / "long").fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path / "short") == bytes_of(tmp_path / "long")


def test_a_model_and_an_optimizer_of_ones_own_are_given_again(tmp_path):
    def parts() -> dict[str, Any]:
        model = Sequential(
            Affine(5, 8, generator=0),
            ReLU(),
            Dropout(0.5, generator=1),
            Affine(8, 3, generator=2),
            Dropout(0.1, generator=9),
        )
        return {"model": model, "optimizer": Adam(model, 0.01, (0.8, 0.9))}

    trainer(tmp_path / "whole", **parts()).fit(TRAIN, VALIDATION)
    interrupted(tmp_path / "cut", 13, **parts())
    with pytest.raises(OptionError, match="no MLP: make it again and pass model="):
        Trainer.resume(tmp_path / "cut")
    Trainer.resume(tmp_path / "cut", reporter=False, **parts()).fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_a_schedule_of_this_package_comes_back_from_the_folder(tmp_path):
    schedule = schedules.warm_up(schedules.cosine(0.1, 40), 5)
    trainer(tmp_path / "whole", schedule=schedule).fit(TRAIN, VALIDATION)
    interrupted(tmp_path / "cut", 13, schedule=schedule)
    resumed = Trainer.resume(tmp_path / "cut", reporter=False)
    assert resumed.schedule == schedule
    shown = settings(read_run(tmp_path / "cut").config)["Training"]["schedule"]
    assert shown == "warm_up(schedule=cosine(lr=0.1, steps=40), steps=5)"
    resumed.fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_a_schedule_of_ones_own_is_given_again(tmp_path):
    def falling(step: int) -> float:
        return 0.1 / (1 + step)

    trainer(tmp_path / "whole", schedule=falling).fit(TRAIN, VALIDATION)
    interrupted(tmp_path / "cut", 13, schedule=falling)
    with pytest.raises(OptionError, match="a schedule of its own: pass schedule="):
        Trainer.resume(tmp_path / "cut")
    Trainer.resume(tmp_path / "cut", schedule=falling, reporter=False).fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_a_callback_goes_on_with_what_it_knew(tmp_path):
    class Counting(Callback):
        def __init__(self) -> None:
            self.rows = 0

        def epoch(self, row):
            self.rows += 1

        def state_dict(self):
            return {"rows": self.rows}

        def load_state_dict(self, state):
            self.rows = state["rows"]

    interrupted(tmp_path, 13, callbacks=[Counting()])
    counting = Counting()
    Trainer.resume(tmp_path, callbacks=[counting], reporter=False).fit(TRAIN, VALIDATION)
    assert counting.rows == 6


# Killed

PROGRAM = """
import os, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_resume import TRAIN, VALIDATION, trainer, Interrupting
from tinygrad_cr.train import Trainer
from tinygrad_cr.train.run import checkpoints

folder, kind, count = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Deadly(Interrupting):
    done = 0
    def steps(self, done):
        self.done += 1
        if kind == "step" and self.done == count:
            die()

synced, writes = os.fsync, 0
def fsync(descriptor):
    global writes
    writes += 1
    if kind == "write" and writes == count:
        die()
    synced(descriptor)
os.fsync = fsync

if checkpoints(folder):
    run = Trainer.resume(folder, reporter=Deadly(0))
else:
    run = trainer(folder, reporter=Deadly(0))
run.fit(TRAIN, VALIDATION)
"""


def killed(folder: Path, kind: str, count: int) -> bool:
    """Train, or go on training, in a process that dies at that step or in that write; whether it did."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(folder), kind, str(count)]
    code = subprocess.run(command, check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))])
def test_a_run_that_is_killed_several_times_at_random_ends_with_the_same_bytes(tmp_path, whole, seed):
    draw, folder, kills = random.Random(seed), tmp_path / "run", 0
    while kills < 5:
        kind, count = draw.choice([("step", draw.randint(1, 16)), ("write", draw.randint(1, 12))])
        if killed(folder, kind, count):
            kills += 1
        if folder.exists() and not checkpoints(folder):
            shutil.rmtree(folder)  # killed before its first step: there is nothing to go on with
    while killed(folder, "step", 10_000):
        pass
    for leftover in folder.rglob(".*"):
        leftover.unlink()  # a file that was being written
    assert bytes_of(folder) == whole


def test_a_run_killed_before_its_first_step_says_so(tmp_path):
    assert killed(tmp_path / "run", "write", 2)
    with pytest.raises(RunError, match="has no checkpoint: it ended before its first step"):
        Trainer.resume(tmp_path / "run")


# Refused


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    interrupted(tmp_path / "run", 13)
    return tmp_path / "run"


def refused(cut: Path, error: type[Exception], message: str, *parts: Any, **options: Any) -> None:
    before = bytes_of(cut)
    with pytest.raises(error, match=message):
        Trainer.resume(cut, reporter=False, **options).fit(*parts or (TRAIN, VALIDATION))
    assert bytes_of(cut) == before


def test_other_data_is_refused(cut):
    refused(cut, DataError, "the train part is not the one that this run was trained on", blobs(60, seed=5), VALIDATION)
    refused(cut, DataError, "the validation part is not the one", TRAIN, blobs(31))
    refused(cut, DataError, "the validation part is not the one", TRAIN)


def test_other_callbacks_are_refused(cut):
    refused(cut, RunError, "pass the same ones in the same order", callbacks=[Callback()])


def test_another_model_is_refused(cut):
    refused(cut, RunError, "belongs to another model.*layers.0.weight", model=MLP([5, 9, 3], generator=0))


def test_another_optimizer_is_refused(cut):
    model = MLP([5, 8, 3], generator=0)
    refused(cut, RunError, "belongs to another model or optimizer", model=model, optimizer=Adam(model))


def test_a_model_without_the_generators_of_the_run_is_refused(cut):
    model = Sequential(Affine(5, 8, generator=0), Affine(8, 3, generator=1))
    refused(cut, RunError, "the model has 0 generators, the checkpoint 1", model=model, optimizer=SGD(model, 0.1, 0.9))


def test_a_damaged_checkpoint_is_refused(cut):
    (path,) = checkpoints(cut)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match="is no whole checkpoint"):
        Trainer.resume(cut)


@pytest.mark.parametrize("place", [-1, -40, -1000, 700])
def test_a_checkpoint_with_a_flipped_bit_is_refused(cut, place):
    (path,) = checkpoints(cut)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="is no whole checkpoint"):
        Trainer.resume(cut)


def test_options_edited_in_the_configuration_change_nothing(tmp_path, whole):
    interrupted(tmp_path, 13)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"lr": 9.0, "reg": 5.0, "batch_size": 3}))
    Trainer.resume(tmp_path, reporter=False).fit(TRAIN, VALIDATION)
    assert bytes_of(tmp_path) == whole


def test_a_run_is_not_made_shorter_than_it_is(cut):
    before = bytes_of(cut)
    Trainer.resume(cut, reporter=False).fit(TRAIN, VALIDATION)
    with pytest.raises(OptionError, match="6 epochs of this run have ended already: epochs must be at least that"):
        Trainer.resume(cut, epochs=5, reporter=False).fit(TRAIN, VALIDATION)
    assert bytes_of(cut) != before
    assert len(load_run(cut).history) == 6


def test_a_checkpoint_of_another_version_is_refused(cut, monkeypatch):
    monkeypatch.setattr("tinygrad_cr.train.checkpoint.FORMAT", 2)
    with pytest.raises(RunError, match="has checkpoint format 1, this version reads 2"):
        Trainer.resume(cut)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        Trainer.resume(tmp_path)


def test_a_run_that_is_being_trained_is_refused(tmp_path):
    pytest.importorskip("fcntl")
    messages = []

    class Rival(Callback):
        def epoch(self, row):
            with pytest.raises(RunError) as caught:
                Trainer.resume(tmp_path, callbacks=[Rival()], reporter=False).fit(TRAIN, VALIDATION)
            messages.append(str(caught.value))

    trainer(tmp_path, callbacks=[Rival()], epochs=1).fit(TRAIN, VALIDATION)
    assert messages == [f"{tmp_path} is being trained by another process; wait for it, or stop it"]


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    trainer(tmp_path).fit(TRAIN, VALIDATION)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-0000000048.safetensors"]


def test_a_checkpoint_is_written_every_so_many_epochs_and_at_the_end(tmp_path):
    steps = []

    class Looking(Callback):
        def epoch(self, row):
            steps.append(checkpoints(tmp_path)[-1].stem)

    trainer(tmp_path, checkpoint_epochs=2, epochs=5, callbacks=[Looking()]).fit(TRAIN, VALIDATION)
    ends = [*steps, checkpoints(tmp_path)[-1].stem]
    assert [int(name.removeprefix("step-")) for name in ends] == [0, 0, 16, 16, 32, 40]


def test_the_model_of_an_interrupted_run_is_its_best(cut):
    run = load_run(cut)
    assert len(run.history) == 1
    twin = trainer(None, epochs=1)
    twin.fit(TRAIN, VALIDATION)
    np.testing.assert_equal(run.model.state_dict(), twin.model.state_dict())
