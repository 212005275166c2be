"""Training on a GPU: the CPU's histories to rounding, few waits, and a run folder that belongs to no device."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_cr import cli, doctor, ensemble, search
from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.errors import DeviceError, DeviceMemoryError, OptionError
from tinygrad_cr.kernels import available
from tinygrad_cr.nn import MLP
from tinygrad_cr.optim import SGD
from tinygrad_cr.train import Callback, Trainer, evaluate, load_run, predict_proba
from tinygrad_cr.train.evaluate import Evaluation


def pictures(n: int, seed: int = 0) -> Dataset:
    """uint8 rows, as images are kept."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Dataset((rng.integers(0, 90, (n, 12)) + 120 * np.eye(3, 12)[y]).astype("uint8"), y)


TRAIN, VALIDATION = pictures(133), pictures(40, seed=1)
"""34 steps of 4 rows, the last of one."""
EAGER: dict[str, Any] = {"compile": False}
COMPILED: dict[str, Any] = {}


def network(**options: Any) -> MLP:
    return MLP([12, 16, 3], **{"dropout": 0.3, "generator": 0} | options)


def fit(model: Any, **options: Any) -> Any:
    wanted = {"lr": 0.02, "epochs": 2, "batch_size": 4, "generator": 1, "reporter": False}
    trainer = Trainer(model, **wanted | options)
    return trainer, trainer.fit(TRAIN, VALIDATION)


def assert_close(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):
        for key in row.keys() - {"seconds"}:
            assert row[key] == pytest.approx(other[key], rel=2e-4, abs=1e-6), key


OPTIONS = [
    {},
    {"reg": 0.01, "validate_steps": 10},
    {"optimizer": "adamw", "clip_norm": 0.5},
    {"schedule": lambda step: 0.1 / (1 + step)},
]


@pytest.mark.parametrize("how", [EAGER, COMPILED], ids=["eager", "compiled"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
def test_a_run_on_the_gpu_has_the_history_of_one_on_the_cpu(gpu, options, how):
    _, expected = fit(network(), **options)
    trainer, history = fit(network(), device="gpu", **options, **how)
    assert trainer.model.parameters()[0].device == "gpu"
    assert_close(history, expected)


@pytest.mark.parametrize("how", [EAGER, COMPILED], ids=["eager", "compiled"])
@pytest.mark.parametrize("shuffle", ["members", "shared"])
def test_a_population_on_the_gpu_has_the_history_of_one_on_the_cpu(gpu, shuffle, how):
    options = {"lr": [0.01, 0.02, 0.05], "reg": [0.0, 0.01, 0.001], "shuffle": shuffle}
    _, expected = fit(network(members=3), **options)
    _, history = fit(network(members=3), device="gpu", **options, **how)
    assert_close(history, expected)


def test_a_model_that_is_on_the_gpu_is_trained_there(gpu):
    model = network()
    model.to("gpu")
    optimizer = SGD(model, lr=0.02, momentum=0.9)
    _, history = fit(model, optimizer=optimizer, **EAGER)
    _, expected = fit(network())
    assert_close(history, expected)


@pytest.mark.parametrize("how", [EAGER, COMPILED], ids=["eager", "compiled"])
@pytest.mark.parametrize("members", [None, 3])
def test_the_gpu_is_waited_for_once_a_block_and_not_once_a_step(simulated_gpu, members, how):
    waits = []
    for batch_size in (64, 2):  # 3 steps, and 67
        model = network(members=members)
        trainer = Trainer(
            model, device="gpu", epochs=1, batch_size=batch_size, generator=0, monitors=False, reporter=False, **how
        )
        before = simulated_gpu.waits
        trainer.fit(TRAIN, VALIDATION)
        waits.append(simulated_gpu.waits - before)
    # Two blocks more, each with a step of its own whose norms are measured.
    assert waits[1] <= waits[0] + 8


def test_a_look_at_a_part_waits_once(simulated_gpu):
    model = network()
    model.to("gpu")
    look = Evaluation(model, TRAIN, Standardizer().fit(TRAIN.x))
    before = simulated_gpu.waits
    look.measure()
    assert simulated_gpu.waits == before + 1


def test_where_memory_does_not_suffice_the_error_says_so_and_the_model_stays_what_it_was(simulated_gpu):
    model = network()
    expected = model.state_dict()
    trainer = Trainer(model, device="gpu", batch_size=133, reporter=False)
    simulated_gpu.memory = 4000
    with pytest.raises(DeviceMemoryError, match=r"the GPU was asked for .* are free"):
        trainer.fit(TRAIN, VALIDATION)
    simulated_gpu.memory = 2**34
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("members", [None, 2])
def test_where_memory_runs_out_on_the_way_the_model_holds_its_best_parameters(simulated_gpu, tmp_path, members):
    class Watching(Callback):
        def epoch(self, row: Any) -> None:
            if row["epoch"] == 2:
                simulated_gpu.memory = 0

    model = network(members=members)
    options = {"lr": 0.02, "schedule": lambda step: 0.02 if step < 34 else 3.0, "monitors": False, "epochs": 4}
    with pytest.raises(DeviceMemoryError, match=r"the GPU was asked for .* are free"), np.errstate(all="ignore"):
        fit(model, device="gpu", out=tmp_path, callbacks=[Watching()], **options)
    simulated_gpu.memory = 2**34
    best = network(members=members)
    fit(best, **options | {"epochs": 1})
    saved = load_run(tmp_path).model.state_dict()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, saved[name])
        np.testing.assert_allclose(value, best.state_dict()[name], rtol=2e-4, atol=1e-5)


def test_the_command_line_trains_and_predicts_on_the_gpu(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tinygrad-cr", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
        return capsys.readouterr().out

    np.savez("pictures.npz", x=TRAIN.x, y=TRAIN.y)
    train = ("train", "--data", "pictures.npz", "--hidden", "8", "--batch-size", "16", "--no-report", "--out", "run")
    run(*train, "--epochs", "1", "--device", "gpu")
    assert json.loads(Path("run/config.json").read_text())["device"] == "gpu"
    assert "test accuracy" in run("train", "--resume", "run", "--epochs", "2", "--device", "cpu", "--no-report")
    np.savez("rows.npz", x=TRAIN.x)
    answers = [
        np.loadtxt(io.StringIO(run("predict", "--model", "run", "--data", "rows.npz", "--device", device)), str)
        for device in ("cpu", "gpu")
    ]
    assert answers[0].shape == answers[1].shape


def test_the_command_line_says_that_there_is_no_gpu(tmp_path, monkeypatch, capsys):
    if "gpu" in available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tinygrad-cr", "train", "--device", "gpu"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    assert "this machine has cpu, reference" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rows_of_bytes_lie_on_the_gpu_as_bytes(gpu):
    from tinygrad_cr.train.loop import Loop

    trainer = Trainer(network(), device="gpu", reporter=False)
    loop = Loop(trainer, TRAIN, VALIDATION, None, None)
    assert loop.updates.data.dtype == np.uint8
    assert not isinstance(loop.updates.data, np.ndarray)


@pytest.mark.parametrize(("first", "second"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_a_run_goes_on_on_another_device(gpu, tmp_path, first, second):
    _, expected = fit(network(), epochs=4)
    fit(network(), device=first, out=tmp_path, **EAGER)
    assert json.loads((tmp_path / "config.json").read_text())["device"] == first
    trainer = Trainer.resume(tmp_path, epochs=4, device=second, reporter=False, **EAGER)
    history = trainer.fit(TRAIN, VALIDATION)
    assert_close(history, expected)
    assert json.loads((tmp_path / "config.json").read_text())["device"] == second


def test_the_run_folder_of_the_gpu_is_read_without_one(gpu, tmp_path):
    trainer, _ = fit(network(), device="gpu", out=tmp_path, **EAGER)
    run = load_run(tmp_path)
    assert run.model.parameters()[0].device == "cpu"
    ours = predict_proba(run.model, VALIDATION.x, run.standardizer)
    theirs = predict_proba(trainer.model, VALIDATION.x, trainer.standardizer)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert evaluate(trainer.model, VALIDATION, trainer.standardizer) == pytest.approx(
        evaluate(run.model, VALIDATION, run.standardizer), rel=1e-4
    )


def test_divergence_on_the_gpu_leaves_what_it_leaves_on_the_cpu(gpu):
    late = {"schedule": lambda step: 1e30 if step == 40 else 0.02}
    with np.errstate(all="ignore"):
        trainer, history = fit(network(), device="gpu", **late, **EAGER)
    other, expected = fit(network(), **late)
    assert [(e.kind, e.step) for e in history.events] == [(e.kind, e.step) for e in expected.events]
    assert trainer.optimizer.steps == other.optimizer.steps
    assert_close(history, expected)


def test_a_search_trains_where_it_is_told(gpu):
    space = {"lr": search.LogUniform(1e-3, 1e-1), "hidden": 8}
    options = {"trials": 3, "epochs": 2, "reporter": False, "seed": 0}
    found, expected = (
        search.random_search(TRAIN, VALIDATION, space, device=device, **options) for device in ("gpu", "cpu")
    )
    assert [row["val_accuracy"] for row in found.rows] == pytest.approx([r["val_accuracy"] for r in expected.rows])


def test_an_ensemble_and_the_doctor_work_with_a_model_on_the_gpu(gpu):
    options: dict[str, Any] = {"hidden": [8], "epochs": 2, "generator": 0, "reporter": False}
    found, expected = (
        ensemble.train_ensemble(2, TRAIN, VALIDATION, device=device, **options) for device in ("gpu", "cpu")
    )
    np.testing.assert_allclose(found.predict_proba(VALIDATION.x), expected.predict_proba(VALIDATION.x), atol=1e-5)
    model = network()
    model.to("gpu")
    report = doctor.preflight(model, TRAIN, VALIDATION, generator=0)
    assert {check.name: check.status for check in report.checks} == {
        check.name: check.status for check in doctor.preflight(network(), TRAIN, VALIDATION, generator=0).checks
    }


def test_an_optimizer_of_a_model_elsewhere_is_refused(gpu):
    model = network()
    with pytest.raises(OptionError, match=r"move the model with model.to\('gpu'\) and make the optimizer afterwards"):
        Trainer(model, optimizer=SGD(model, lr=0.1), device="gpu")


def test_without_a_gpu_the_device_is_refused_before_anything_is_written(tmp_path: Path):
    if "gpu" in available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="CUDA"):
        Trainer(network(), device="gpu", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_backend_of_the_host_trains_the_same():
    _, expected = fit(network(), epochs=1)
    _, history = fit(network(), epochs=1, device="reference")
    assert_close(history, expected)
