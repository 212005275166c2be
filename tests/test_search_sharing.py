"""Data that many tasks need travels to each worker once, or not at all."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_tasks import Task, by_key, tasks
from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import ExecutorError
from tinygrad_cr.search import SharedData, process_pool, run_tasks
from tinygrad_cr.search.sharing import KEPT, Reference

ROWS = 4000


def dataset(rows: int = ROWS) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(rng.standard_normal((rows, 50)), np.arange(rows) % 3, "made up", ("a", "b", "c"))


def look(shared: SharedData[Any], task: Task) -> list[dict[str, Any]]:
    """What a worker sees of the data: its numbers, and whether it is the same object as before."""
    data = shared.value
    again = shared.value is data
    sums = {"sum": float(data.x.sum()), "labels": data.y.tolist()[:5], "names": data.class_names}
    writeable = data.x.flags.writeable and data.x.flags.c_contiguous
    return [sums | {"again": again, "writeable": writeable, "process": os.getpid(), "object": id(data)}]


def scribble(shared: SharedData[Any], task: Task) -> list[dict[str, Any]]:
    before = float(shared.value.x[0, 0])
    shared.value.x[0, 0] = 1e6 + task.key
    return [{"before": before}]


def seen(results: Any) -> list[dict[str, Any]]:
    return [row for rows in by_key(results).values() for row in rows]


@pytest.fixture(scope="module")
def pool() -> Iterator[Any]:
    with process_pool(2) as pool:
        yield pool


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_here_the_value_is_the_object_itself_and_nothing_is_written(tmp_path):
    data = dataset()
    shared = SharedData(data, tmp_path)
    assert shared.value is data
    assert seen(run_tasks(tasks(2), partial(look, shared)))[0]["object"] == id(data)
    assert list(tmp_path.iterdir()) == []


def test_pickled_it_is_small_and_its_arrays_lie_in_one_file(tmp_path):
    shared = SharedData(dataset(), tmp_path)
    sizes = [len(pickle.dumps(shared)) for _ in range(3)]
    assert max(sizes) < 1000
    (file,) = files(tmp_path)
    assert file.stat().st_size == pytest.approx(ROWS * 50 * 8 + ROWS * 8, abs=256)


def test_a_worker_sees_the_same_numbers_in_one_object_that_kernels_take(tmp_path, pool):
    data = dataset()
    rows = seen(run_tasks(tasks(6), partial(look, SharedData(data, tmp_path)), pool))
    for row in rows:
        assert (row["sum"], row["labels"]) == (float(data.x.sum()), [0, 1, 2, 0, 1])
        assert (row["names"], row["again"], row["writeable"]) == (("a", "b", "c"), True, True)
    assert len({(row["process"], row["object"]) for row in rows}) == len({row["process"] for row in rows})


def test_who_writes_into_it_changes_neither_the_file_nor_others(tmp_path):
    data = dataset()
    shared = SharedData(data, tmp_path)
    first = float(data.x[0, 0])
    for _ in range(2):
        with process_pool(1) as pool:
            assert seen(run_tasks(tasks(1), partial(scribble, shared), pool)) == [{"before": first}]
    assert data.x[0, 0] == first


@pytest.mark.parametrize(("trouble", "more"), [("gone", 1), ("damaged", 2), ("never written", 3)])
def test_a_worker_that_cannot_read_the_file_gets_the_data_with_a_task(trouble, more, pool, tmp_path):
    folder = tmp_path / "folder"
    if trouble == "never written":
        folder.write_text("a file, where a folder was wanted")
    data = dataset(ROWS + more)
    shared = SharedData(data, folder)
    pickle.dumps(shared)
    if trouble == "gone":
        files(folder)[0].unlink()
    elif trouble == "damaged":
        content = bytearray(files(folder)[0].read_bytes())
        content[1000] ^= 1
        files(folder)[0].write_bytes(content)
    rows = seen(run_tasks(tasks(8), partial(look, shared), pool))
    assert {row["sum"] for row in rows} == {float(data.x.sum())}
    assert all(row["writeable"] for row in rows)
    # Sent once to each process: from then on it is the same object.
    assert len({(row["process"], row["object"]) for row in rows}) == len({row["process"] for row in rows})


def test_two_values_are_sent_to_a_worker_that_sees_neither(pool, tmp_path):
    one, two = SharedData(dataset(ROWS + 4), tmp_path), SharedData(dataset(30), tmp_path)
    pickle.dumps((one, two))
    for file in files(tmp_path):
        file.unlink()
    rows = seen(run_tasks(tasks(2), partial(both, one, two), pool))
    assert rows == [{"rows": (ROWS + 4, 30)}] * 2


def both(one: SharedData[Any], two: SharedData[Any], task: Task) -> list[dict[str, Any]]:
    return [{"rows": (len(one.value), len(two.value))}]


def test_data_that_its_owner_has_dropped_is_an_error_that_names_the_task(pool, tmp_path):
    shared = SharedData(dataset(31), tmp_path)
    reference = pickle.loads(pickle.dumps(shared))
    assert isinstance(reference, Reference)
    del shared
    gc.collect()
    with pytest.raises(ExecutorError, match="task 0 has no way to its shared data"):
        seen(run_tasks(tasks(1), partial(look, reference), pool))


def test_the_file_goes_with_the_object(tmp_path):
    shared = SharedData(dataset(30), tmp_path)
    pickle.dumps(shared)
    assert len(files(tmp_path)) == 1
    del shared
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_the_file_of_a_process_that_was_killed_goes_when_another_is_written(tmp_path):
    program = (
        "import os, pickle, signal, sys; from tinygrad_cr.search import SharedData\n"
        "shared = SharedData(b'', sys.argv[1]); pickle.dumps(shared); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], timeout=60)
    (left,) = tmp_path.iterdir()
    mine = SharedData(b"", tmp_path)
    # Of another machine, of one whose name begins with ours and the number of a process that is not there, of nobody.
    dead = left.name.rsplit("-", 2)[1]
    names = ("elsewhere-1-x", f"{socket.gethostname()}-{dead}-1-x", socket.gethostname())
    others = [tmp_path / f"tinygrad_cr-{name}" for name in names]
    for folder in others:
        folder.mkdir()
    pickle.dumps(mine)
    assert left not in tmp_path.iterdir()
    assert len(files(tmp_path)) == 1
    assert all(folder.exists() for folder in others)
    assert pickle.loads(pickle.dumps(mine)).value == b""


def test_a_reference_is_handed_on_as_it_is(tmp_path):
    shared = SharedData(dataset(30), tmp_path)
    reference = pickle.loads(pickle.dumps(shared))
    again = pickle.loads(pickle.dumps(reference))
    assert again.value is reference.value


@pytest.mark.parametrize("value", [{}, {"x": np.zeros((0, 3))}, (np.arange(3), np.zeros(0), np.arange(5.0))], ids=str)
def test_values_with_no_or_empty_arrays_travel_too(value, tmp_path):
    shared = SharedData(value, tmp_path)
    found = pickle.loads(pickle.dumps(shared)).value
    assert repr(found) == repr(value)


def test_a_worker_keeps_the_last_few_values(tmp_path):
    shared = [SharedData(np.full(10, i), tmp_path) for i in range(KEPT + 1)]
    references = [pickle.loads(pickle.dumps(each)) for each in shared]
    values = [reference.value for reference in references]
    assert [reference.value is value for reference, value in zip(references[1:], values[1:], strict=True)] == [True] * 4
    assert references[0].value is not values[0]
    assert references[0].value.tolist() == [0] * 10
