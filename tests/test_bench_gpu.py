"""The benchmark of the GPU backend works wherever it can be tried: on a CPU, in tiny sizes. Nothing is timed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from at_root import ROOT
from bench.gpu_suite import bars, kernels, parity, peer, report, suite
from bench.gpu_suite.clock import Clock
from bench.gpu_suite.field import Field
from bench.gpu_suite.workloads import networks
from bench.process import ContestantError
from tinygrad_cr.kernels import KERNELS, available


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), *arguments]
    own = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=own, check=False)


@pytest.mark.skipif("gpu" in available(), reason="there is a GPU: the benchmark would run")
def test_without_a_gpu_it_says_why_in_one_line(tmp_path: Path) -> None:
    done = script("--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("nothing was measured: ")
    assert "CUDA" in line or "CuPy" in line
    assert list(tmp_path.iterdir()) == []


def test_the_plan_names_all_that_is_measured() -> None:
    done = script("--plan")
    assert done.returncode == 0, done.stderr
    for what in ("tests/test_kernels.py", "784-4096-4096-10, batch 4096, TF32", "1, 32, 256, 1024", "reduce-overhead"):
        assert what in done.stdout


def test_an_unknown_phase_is_refused_with_the_known_ones() -> None:
    done = script("--only", "network")
    assert done.returncode == 2
    assert "unknown phase 'network'; known: tests, networks" in " ".join(done.stderr.split())


def test_without_an_installed_package_it_and_its_children_import_the_checkout() -> None:
    program = f"""
import os, subprocess, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "ditable" not in repr(finder)]
sys.path.insert(0, {str(ROOT)!r})
from bench import checkout
checkout.use()
where = "import tinygrad_cr.kernels.gpu.batch as m; print(m.__file__, flush=True)"
exec(where, {{}})
subprocess.run([sys.executable, "-P", "-c", where], check=True, cwd=os.sep)
"""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120, env=own, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {Path(line).resolve() for line in done.stdout.split()} == {ROOT / "kernels" / "gpu" / "batch.py"}


@pytest.mark.slow
def test_every_kernel_has_a_case_that_fits_its_contract_and_agrees() -> None:
    session = kernels.Kernels("cpu")
    names = session.names()
    assert names["uncovered"] == []
    assert {call.kernel for call in session.calls.values()} == set(KERNELS)
    assert [name for name in names["names"] if session.kernel(name)["problem"]] == []


def test_on_a_gpu_the_launches_of_a_kernel_are_found_and_can_be_made_again(
    simulated_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "SIDE", 16)
    session = kernels.Kernels("gpu")
    alone = []
    for name, call in session.calls.items():
        launches, _, problem = session.check(call)
        assert problem is None, name
        for launch, arguments, named in launches:
            launch(*arguments, **named)
        alone += [name] if launches else []
    assert {"affine_relu_dropout", "affine_relu_dropout_backward", "sgd", "adam"} <= set(alone)


def test_a_kernel_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    session = kernels.Kernels("cpu")

    class Wrong:
        xp = session.own.xp

        @staticmethod
        def relu(x: Any, out: Any) -> None:
            out[...] = x

    monkeypatch.setattr(session, "own", Wrong())
    record = session.kernel("relu")
    assert "out is off by" in record["problem"]
    assert "whole" not in record


def test_a_kernel_that_leaves_nan_behind_is_wrong() -> None:
    session = kernels.Kernels("cpu")
    call = session.calls["relu"]
    wanted = session._copied(call)
    session.reference.relu(*wanted.values())
    assert kernels.disagreement(session._copied(call), wanted, call, session.own.xp) is not None
    assert kernels.disagreement(wanted, wanted, call, session.own.xp) is None


def test_launches_of_a_family_are_recorded_and_its_module_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    family = type(sys)("tinygrad_cr.kernels.gpu.family")
    family.launch = original = lambda *arguments, shared=0: made.append((*arguments, shared))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, family.__name__, family)
    with kernels.recorded() as launches:
        family.launch("affine", "epilogue", shared=3)
    assert family.launch is original
    for launch, arguments, named in launches:
        launch(*arguments, **named)
    assert made == [("affine", "epilogue", 3)] * 2


@pytest.mark.slow
def test_a_process_that_fails_a_command_goes_on_and_one_that_hangs_is_ended() -> None:
    process = peer.Peer("ours", "cpu", 60)
    try:
        with pytest.raises(ContestantError, match="KeyError"):
            process.ask("measure", 30, case="B", variant="eager", seconds=0.0)
        case = networks(True)[0].to_json()
        assert len(process.ask("prepare", 60, case=case, variant="eager")["losses"]) == 2
        reply = process.ask("measure", 30, case="B", variant="eager", seconds=0.0)
        assert reply["steps"] == case["rows"] // case["batch"]
        with pytest.raises(ContestantError, match="gave no answer"):
            process.ask("measure", 0.0, case="B", variant="eager", seconds=5.0)
        assert not process.alive
        with pytest.raises(ContestantError, match="ended with status"):
            process.ask("measure", 30, case="B", variant="eager", seconds=0.0)
    finally:
        process.close()


@pytest.mark.slow
def test_a_contestant_that_cannot_start_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ("torch", "jax")
    real = peer.Peer

    def start(name: str, device: str, patience: float) -> peer.Peer:
        if name in absent:
            raise ContestantError(f"No module named {name!r}")
        return real(name, device, patience)

    monkeypatch.setattr("bench.gpu_suite.field.Peer", start)
    said: list[str] = []
    field = Field("cpu", said.append)
    kept: list[Any] = []
    try:
        field.prepare(networks(True)[:1], lambda: 60.0, lambda: 60.0)
        ready = [("B", variant) for variant in field.prepared["B"]]
        field.rounds(ready, Clock(60.0, {}), 2, 0.0, lambda times: kept.append(json.loads(json.dumps(times))))
    finally:
        field.close()
    assert field.absent == {name: f"No module named {name!r}" for name in absent}
    assert {name: len(rounds) for name, rounds in kept[-1]["B"].items()} == {"eager": 2, "compiled": 2}
    assert "torch does not take part: No module named 'torch'" in said


def results(**changed: Any) -> dict[str, Any]:
    """What a run might have measured."""
    machine: dict[str, Any] = {"cpu": "a processor", "cores": 2, "python": "3", "commit": "0"}
    return {
        "dry_run": False,
        "date": "",
        "seconds": 1.0,
        "machine": machine | {"versions": {}},
        "titles": {"B": "B", "C": "C"},
        "members": {"256 x B": 256},
        "bar_members": 256,
        "absent": {},
        "failed": {},
        "networks": {"B": {"compiled": [2e-5, 1e-5, 3e-5], "torch": [9e-5], "torch-graph": [5e-5], "jax": [6e-5]}},
        "populations": {
            "256 x B": {"population": [1e-3], "vmap": [4e-3], "vmap-graph": [1.5e-3], "torch-graph": [5e-5]}
        },
        "kernels": {
            "copy": {"rate": 1e12},
            "records": {
                "affine_relu_dropout": {"moved": 9 * 10**8, "alone": [1e-3], "whole": [9.0], "launches": 1},
                "sgd": {"moved": 5 * 10**8, "whole": [1e-3]},
                "adam": {"problem": "param is off by 3"},
            },
        },
    } | changed


def test_bars_are_held_against_the_fastest_peer() -> None:
    found = {(bar.name, bar.unit): bar for bar in bars.verdicts(results())}
    b = found["B, compiled", "x the fastest peer"]
    assert (b.measured, b.against, b.outcome) == (2.5, "PyTorch, graph of a step", "met, by a factor of 1.25")
    together = found["256 members of B", "x vmap"]
    assert (together.measured, together.outcome) == (1.5, "MISSED, by a factor of 1.33")
    assert found["256 members of B", "x one after another"].measured == pytest.approx(12.8)
    assert found["fused epilogue", "of the copy bandwidth"].measured == pytest.approx(0.9)
    assert found["update (SGD)", "of the copy bandwidth"].outcome == "MISSED, by a factor of 1.60"
    for name in ("C, compiled", "E, compiled"):
        assert found[name, "x the fastest peer"].outcome == "not measured"
    assert found["update (Adam)", "of the copy bandwidth"].met is None


def test_the_report_shows_what_there_is_and_names_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    broken = results(
        absent={"jax": "No module named 'jax'"},
        failed={"B": {"inductor": "ended with status -9"}},
        tracebacks={"memory": "Traceback: boom"},
    )
    report.show(broken, Console(width=report.WIDTH))
    shown = capsys.readouterr().out
    for what in ("jax does not take part", "ended with status -9", "boom", "MISSED", "param is off by 3", "50.0*"):
        assert what in shown
    report.show(results(networks={}, populations={}, kernels={}), Console(width=report.WIDTH))
    assert "not measured" in capsys.readouterr().out


def test_a_phase_that_breaks_off_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: suite.Run) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(suite.Run, "_kernels", broken)
    monkeypatch.setattr(suite.Run, "_memory", lambda self: self.results.update(memory={}))
    kept: list[dict[str, Any]] = []
    options = suite.Options(True, 60.0, ("kernels", "memory"))
    found = suite.Run(options, lambda line: None, lambda part: kept.append(dict(part)))()
    assert "boom" in found["tracebacks"]["kernels"]
    assert found["memory"] == {}
    assert [part["finished"] for part in kept] == [False, False, True]


def test_unused_time_goes_to_later_phases() -> None:
    clock = Clock(100.0, {"a": 1, "b": 1, "c": 2})
    assert clock.begin("a") == pytest.approx(25, abs=1)
    assert clock.begin("b") == pytest.approx(100 / 3, abs=1)
    assert clock.begin("c") == pytest.approx(100, abs=1)
    assert Clock(-1.0, {"a": 1}).begin("a") == 0


PROBE = """
import pytest
@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("value", range(3))
def test_probe(device, value):
    if value == 1:
        pytest.skip("no reason")
    assert value == 0, "it is two"
def test_endless_gpu():
    import time
    {end}
"""


def test_the_chosen_tests_are_run_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "test_probe.py"
    file.write_text(PROBE.format(end="pass"))
    found = parity.run(60.0, among=["-c", os.devnull, "--rootdir", str(tmp_path), str(file)])
    assert (found["passed"], found["failed"], found["skipped"], found["complete"]) == (2, 1, 1, True), found["output"]
    assert found["why_skipped"] == {"no reason": 1}
    (failure,) = found["failures"]
    assert "test_probe[2-gpu]" in failure
    assert "it is two" in failure


@pytest.mark.slow
def test_those_that_take_too_long_are_stopped_and_what_they_did_is_known(tmp_path: Path) -> None:
    file = tmp_path / "test_probe.py"
    file.write_text(PROBE.format(end="time.sleep(600)"))
    found = parity.run(4.0, among=["-c", os.devnull, "--rootdir", str(tmp_path), str(file)])
    assert (found["passed"], found["failed"], found["complete"]) == (1, 1, False), found["output"]


def test_the_files_of_the_parity_suite_are_there_and_the_important_ones_first() -> None:
    found = parity.files()
    assert found[:2] == ["tests/test_kernels.py", "tests/test_gradients.py"]
    assert all((ROOT / name).is_file() for name in found)
    assert "tests/test_bench_gpu.py" not in found


@pytest.mark.slow
def test_a_dry_run_goes_through_every_phase(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    done = script("--dry-run", "--out", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["finished"]
    assert "tracebacks" not in found
    assert found["tests"]["passed"] > 0
    assert all({"eager", "compiled"} <= set(times) for times in found["networks"].values())
    assert len(found["networks"]) == 5
    assert all("population" in times for times in found["populations"].values())
    assert [r["problem"] for r in found["kernels"]["records"].values() if r["problem"]] == []
    assert all("in_use" in record["compiled"] for record in found["memory"].values())
    assert "means nothing" in done.stdout
