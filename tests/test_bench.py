"""The benchmark runs from end to end. Nothing is timed here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from at_root import ROOT
from bench import ensembles, kernels, limit, search, worker
from bench.contestants.ours import Compiled
from bench.inputs import make_inputs
from bench.process import ContestantError
from bench.rates import LIBRARIES, Rates, operands
from bench.report import bars, cliffs, ways
from bench.workloads import Task
from tinygrad_cr import get_num_threads, set_num_threads
from tinygrad_cr.kernels import KERNELS, backend


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_quick_run_writes_results_and_a_table(tmp_path: Path) -> None:
    peers = {"jax": "jax", "sklearn": "sklearn"}
    done = bench("--quick", "--only", "A", "--rounds", "1", "--peers", ",".join(peers), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    record, table = results["tasks"]["A"], (tmp_path / "table.md").read_text()
    assert record["failed"] == {}
    assert {*record["rounds"], "population"} == set(results["contestants"])
    assert record["limit"]["seconds"] > 0
    assert "A: 64-32-10, batch 32" in table
    absent = {name: f"{package} is not installed" for name, package in peers.items() if not find_spec(package)}
    assert results["skipped"] == absent
    assert table.count(": skipped, ") == len(absent)
    assert {"eager", "compiled", *(peers.keys() - absent.keys())} <= set(record["rounds"])
    if find_spec("matplotlib"):
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("option", "name", "known"),
    [("--only", "E", "A, B, C, D"), ("--peers", "tensorflow", "pytorch, torch-compile, jax")],
)
def test_an_unknown_name_is_refused_with_the_known_ones(option: str, name: str, known: str) -> None:
    done = bench(option, name)
    assert done.returncode == 2
    assert f"{name!r}; known: {known}" in " ".join(done.stderr.split())


@pytest.mark.parametrize("command", ["kernels", "report", "watching", "search", "ensembles"])
def test_a_command_says_what_it_takes_and_refuses_the_rest(command: str) -> None:
    told, refused = bench(command, "--help"), bench(command, "--quik")
    assert (told.returncode, refused.returncode) == (0, 2)
    assert f"python -m bench {command}" in told.stdout
    assert "usage: " in refused.stderr


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["forward", "dw", "dx"])
@pytest.mark.parametrize("size", [(5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1)])
def test_the_limit_is_that_of_the_very_products_of_a_step(library: str, kind: str, size: tuple[int, int, int]) -> None:
    pytest.importorskip(library)
    threads = get_num_threads()
    a, b, out = operands(kind, *size)
    out.fill(np.nan)
    try:
        Rates(library).library.product(kind, a, b, out)(1)
    finally:
        set_num_threads(threads)
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-5)


def test_our_products_are_measured_with_the_kernels_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    ours = LIBRARIES["tinygrad_cr"]()
    monkeypatch.setattr(
        ours, "kernels", SimpleNamespace(**{k: lambda *_, k=k: called.append(k) for k in ("affine", "affine_backward")})
    )
    for kind in ("forward", "dw", "dx"):
        # A row alone is contiguous either way.
        ours.product(kind, *operands(kind, 1, 7, 3))(1)
    assert called == ["affine", "affine_backward", "affine_backward"]


def test_the_limit_of_a_step_is_its_products_at_their_best_and_what_moves() -> None:
    task = Task("A", "A", "train", (64, 32, 10), 32, 320)
    assert [tuple(p) for p in limit.products(task)] == [
        ("forward", 32, 64, 32),
        ("dw", 32, 64, 32),
        ("forward", 32, 32, 10),
        ("dw", 32, 32, 10),
        ("dx", 32, 32, 10),
    ]
    # Weights and velocity there and back, the rows of a minibatch there and back: all of it fits into a cache.
    assert limit.moved_bytes(task) == {"cache": 4 * 4 * (65 * 32 + 33 * 10) + 2 * 4 * 32 * 64, "memory": 0}
    rounds = [{"a": [1.0, 9.0, 1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0, 2.0, 2.0]}, {"a": [3.0, 3.0, 0.5, 3.0, 3.0]}]
    found = limit.limit_seconds(
        task, rounds, [{"a": {"cache": 1e4, "memory": 1.0}, "b": {"cache": 1e5, "memory": 1.0}}]
    )
    assert [p["by"] for p in found["products"]] == ["a", "b", "a", "a", "a"]
    assert found["seconds"] == pytest.approx(1 + 2 + 0.5 + 1 + 1 + found["moved_bytes"]["cache"] / 1e5)


def test_a_library_that_dies_is_named_and_the_limit_is_that_of_the_others() -> None:
    def fine(what: str, **_: Any) -> dict[str, Any]:
        return {"seconds": [1.0], "bytes_per_second": [2.0, 3.0]}

    def dying(what: str, **_: Any) -> dict[str, Any]:
        raise ContestantError("it died")

    limits = limit.Limits(cast(Any, {"numpy": fine, "jax": dying}), {})
    assert limits.product_seconds([["forward", 1, 1, 1]]) == {"numpy": [1.0]}
    assert limits.bandwidths() == {"numpy": {"cache": 2.0, "memory": 3.0}}
    assert (limits.libraries, limits.failed) == (["numpy"], {"jax": "it died"})


def test_each_bar_is_printed_as_met_or_by_how_much_it_is_missed() -> None:
    def record(ours: float, theirs: float, least: float) -> dict[str, Any]:
        rounds = {"compiled": [[ours]], "eager": [[2 * ours]], "jax": [[theirs]]}
        return {"rounds": rounds, "limit": {"seconds": least}, "task": asdict(Task("B", "B", "train", (3, 2), 1, 9))}

    entries = {
        name: {"ours": name != "jax", "stepwise": True, "trains": True, "title": name}
        for name in ("compiled", "eager", "jax")
    }
    results = {"tasks": {"B": record(1e-5, 3e-5, 1e-5), "C": record(1e-5, 1.2e-5, 5e-6)}, "contestants": entries}
    lines = [line for line in bars(results).splitlines() if line.startswith("| ") and "promised" not in line]
    assert "| B | at least 2x faster | 3.00x faster | jax | yes |" in lines
    assert "| B | at most 1.6x the limit | 1.00x the limit | ours: compiled | yes |" in lines
    assert "| C | at least 1.8x faster | 1.20x faster | jax | no, by a factor of 1.50 |" in lines
    assert "| C | at most 1.5x the limit | 2.00x the limit | ours: compiled | no, by a factor of 1.33 |" in lines


def test_a_kernel_that_is_wrong_is_not_timed() -> None:
    known = kernels.cases(quick=True)
    assert set(known) == set(KERNELS)
    case, relu = known["relu"], backend("cpu").relu
    assert kernels.disagreement(relu, backend("reference").relu, case) is None

    def off_by_a_little(x: Any, out: Any) -> None:
        relu(x, out)
        out[3] += 1e-2

    def careless(x: Any, out: Any) -> None:
        relu(x, out)
        x[0] = 7

    assert "out is off by 0.01" in str(kernels.disagreement(off_by_a_little, backend("reference").relu, case))
    assert kernels.disagreement(careless, backend("reference").relu, case) == "changed its input x"


def test_blocks_of_steps_train_as_a_call_a_step_does_bit_for_bit() -> None:
    task = Task("A", "A", "train", (8, 6, 10), 16, 16 * 60 + 5)
    inputs = make_inputs(task)
    trainers = Compiled().trainers(task, inputs)
    block, single = trainers["blocks of steps"](), trainers["a call a step"]()
    for _ in range(2):
        assert block.epoch() == single.epoch()
    for name, value in block.model.state_dict().items():
        np.testing.assert_array_equal(value, single.model.state_dict()[name])


def test_a_moment_of_noise_chooses_no_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first turns of what is the fastest fall into it; one that fails once is out.
    taken = {"fast": [9.0, 9.0, 1.0], "slow": [2.0, 2.0, 2.0], "failing": [0.5]}
    session = worker.Session("eager")
    monkeypatch.setattr(session, "_block", lambda name: lambda: taken[name].pop(0))
    monkeypatch.setattr(worker, "blocks", lambda block, seconds, least: [block()])
    for times in taken.values():
        times.insert(0, 99.0)  # the block that compiles
    ways: Any = {name: lambda name=name: name for name in taken}
    ready, tuned, broken = session._tried(ways, 1.0)
    assert tuned == {"fast": 1.0, "slow": 2.0}
    assert set(broken) == {"failing"}
    assert ready["fast"][0] == "fast"


def test_each_way_of_calling_ours_is_printed_with_its_time() -> None:
    tried = {"blocks of steps": 9e-6, "a call a step": 16e-6}
    record = {"variants": {"compiled": {"tuned": tried}, "jax": {"tuned": {"a": 1.0, "b": 2.0}}}}
    results = {
        "tasks": {"A": record},
        "contestants": {"compiled": {"ours": True, "title": "ours"}, "jax": {"ours": False, "title": "JAX"}},
    }
    text = ways(results)
    assert "blocks of steps: 9.0; a call a step: 16.0" in text
    assert "JAX" not in text
    del record["variants"]["compiled"]["tuned"]["blocks of steps"]
    assert ways(results) == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ((10.0, 0.87), (41.0, 0.87), "4.10 times as fast (4.10 to 4.10)"),
        ((10.0, 0.87), (41.0, 0.87), "was promised: met."),
        ((10.0, 0.87), (20.0, 0.87), "was promised: missed by a factor of 2.00."),
        ((10.0, 0.85), (41.0, 0.87), "was promised: missed in accuracy."),
    ],
)
def test_a_search_is_held_against_its_bar(ours: Any, theirs: Any, verdict: str) -> None:
    def turns(seconds: float, accuracy: float) -> list[dict[str, float]]:
        return [{"seconds": seconds, "validation": 0.88, "test": accuracy}]

    results = {"trials": 100, "epochs": 5, "rows": 50000, "test_rows": 10000}
    assert verdict in search.markdown(results | {"ours": turns(*ours), "sklearn": turns(*theirs)})


def test_ensembles_are_held_against_their_bars() -> None:
    def row(seed: int, name: str, accuracy: float, loss: float, seconds: float) -> dict[str, Any]:
        return {"seed": seed, "name": name, "accuracy": accuracy, "log_loss": loss, "seconds": seconds, "ece": 0.01}

    rows = []
    for seed in range(5):
        rows.append(row(seed, "one network", 0.88, 0.34, 1.0))
        # In one seed the members are no better in accuracy, in two the snapshots in log loss.
        rows.append(row(seed, "5 members", 0.88 if seed == 3 else 0.89, 0.31, 3.0 + 0.2 * seed))
        rows.append(row(seed, "5 snapshots", 0.89, 0.35 if seed < 2 else 0.33, 1.0))
    text = ensembles.markdown(rows)
    assert "4 of 5 seeds; all were promised: missed." in text
    assert "takes 3.40 times that of one network (median; 3.00 to 3.80); below 3.5 was promised: met." in text
    assert "log loss: 3 of 5 seeds; 4 of 5 were promised: missed." in text


def test_a_sweep_in_which_more_work_takes_less_time_has_a_cliff() -> None:
    def record(batch: int, seconds: float) -> dict[str, Any]:
        task = Task(f"batch {batch}", "batches", "train", (784, 256, 10), batch, batch * 10)
        return {"task": asdict(task), "rounds": {"compiled": [[seconds]]}}

    def found(*points: tuple[int, float]) -> list[str]:
        return cliffs({"tasks": {str(batch): record(batch, seconds) for batch, seconds in points}})

    assert found((1, 80e-6), (2, 90e-6), (4, 190e-6)) == []
    assert found((1, 130e-6), (2, 90e-6)) == ["batch 1 takes 1.4x as long as batch 2, which is more work"]
    assert found((1, 18e-6), (2, 90e-6)) == ["from batch 1 to batch 2 the step grows 2.5x beyond its work"]
