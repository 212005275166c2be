"""Every task's rows come back exactly once, whatever executor does the work and whichever worker dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from search_setting import TRIALS, After, environment, expected, ledger, plain, search, wait_for
from search_tasks import (
    Awkward,
    Diary,
    Task,
    by_key,
    failing,
    failing_awkwardly,
    killed,
    leaving,
    square,
    stuck,
    tasks,
    threads,
    training,
)
from tinygrad_cr.errors import DataError, ExecutorError, OptionError, TaskError
from tinygrad_cr.search import process_pool, run_tasks

SQUARES = {i: [{"square": i * i}] for i in range(12)}


@pytest.fixture(scope="module")
def pool() -> Iterator[Any]:
    """Two workers; whoever is killed is replaced."""
    with process_pool(2) as pool:
        yield pool


# In this process


def test_without_an_executor_tasks_run_here_one_after_another_when_they_are_asked_for():
    begun = []

    def run(task: Task) -> list[dict[str, Any]]:
        begun.append(task.key)
        return square(task)

    results = run_tasks(iter(tasks(3)), run)
    assert begun == []
    assert next(results) == (Task(0), [{"square": 0}])
    assert begun == [0]
    assert [task.key for task, _ in results] == [1, 2]


def test_an_error_in_a_task_keeps_its_type_and_names_the_task():
    results = run_tasks(tasks(4), failing)
    assert [next(results)[0].key for _ in range(2)] == [0, 1]
    with pytest.raises(DataError) as caught:
        next(results)
    assert caught.value.__notes__ == ["in task 2"]


@pytest.mark.parametrize(
    ("given", "hint"), [(2, r"process_pool\(2\)"), ("dask", "process_pool"), (get_context("spawn"), "process_pool")]
)
def test_what_is_no_executor_is_refused_at_once(given, hint):
    with pytest.raises(OptionError, match=hint):
        run_tasks(tasks(1), square, given)


def test_of_a_client_the_executor_is_wanted():
    class Client:
        def get_executor(self) -> None: ...

    with pytest.raises(OptionError, match="get_executor"):
        run_tasks(tasks(1), square, Client())


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_a_pool_wants_a_number_of_workers(workers):
    with pytest.raises(OptionError, match="workers"):
        process_pool(workers)


# How much is under way


def test_no_more_tasks_are_taken_than_the_window_holds():
    taken, most = 0, 0

    def source() -> Iterator[Task]:
        nonlocal taken
        for task in tasks(40):
            taken += 1
            yield task

    with ThreadPoolExecutor(2) as executor:
        for done, _ in enumerate(run_tasks(source(), square, executor, window=5)):
            most = max(most, taken - done)
    # One landed and was handed over, and another took its place.
    assert (taken, most <= 6) == (40, True)


def test_whoever_stops_early_cancels_what_has_not_begun():
    go, begun = Event(), []

    def run(task: Task) -> list[dict[str, Any]]:
        begun.append(task.key)
        if task.key:
            go.wait(10)
        return square(task)

    with ThreadPoolExecutor(1) as executor:
        results = run_tasks(tasks(20), run, executor)
        assert next(results)[0] == Task(0)
        results.close()
        go.set()
    assert begun in ([0], [0, 1])


def test_the_window_wants_a_positive_number():
    with pytest.raises(OptionError, match="window"):
        run_tasks(tasks(1), square, window=0)


# Processes


def test_a_network_trained_in_a_worker_has_the_bits_of_one_trained_here(pool):
    run = training()
    assert by_key(run_tasks(tasks(4), run, pool)) == by_key(run_tasks(tasks(4), run))


def test_each_worker_computes_with_one_thread_in_a_process_of_its_own(pool, tmp_path):
    rows = [row for _, rows in run_tasks(tasks(8), threads, pool) for row in rows]
    assert {row["threads"] for row in rows} == {1}
    assert os.getpid() not in {row["process"] for row in rows}


def test_workers_of_another_executor_compute_with_one_thread_too(monkeypatch):
    monkeypatch.delenv("TINYGRAD_CR_NUM_THREADS", raising=False)
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        assert [rows[0]["threads"] for _, rows in run_tasks(tasks(2), threads, executor)] == [1, 1]


def test_an_error_in_a_worker_keeps_its_type_and_names_task_and_place(pool):
    with pytest.raises(DataError, match="nothing to learn from") as caught:
        by_key(run_tasks(tasks(4), failing, pool))
    first, second = caught.value.__notes__
    assert first == "in task 2"
    assert "process " in second
    assert "search_tasks.py" in second
    assert by_key(run_tasks(tasks(12), square, pool)) == SQUARES


def test_an_error_that_cannot_travel_is_told_in_words(pool):
    with pytest.raises(RuntimeError, match="Awkward: 1 and 0") as caught:
        by_key(run_tasks(tasks(1), failing_awkwardly, pool))
    assert not isinstance(caught.value, Awkward | ExecutorError)
    assert caught.value.__notes__[0] == "in task 0"


@pytest.mark.parametrize("run", [lambda task: [], leaving], ids=["no pickle", "sys.exit"])
def test_a_task_that_cannot_be_run_ends_the_search_and_is_named(pool, run):
    with pytest.raises(ExecutorError, match=r"task 0 could not be run: .*0 tasks .* finished"):
        by_key(run_tasks(tasks(1), run, pool))


def test_a_killed_worker_is_replaced_and_every_result_is_there_once(pool, tmp_path):
    assert by_key(run_tasks(tasks(12), partial(killed, tmp_path, 4, 1), pool)) == SQUARES
    # Who did not die was not disturbed.
    assert [len(Diary(tmp_path).begun(i)) for i in range(12)] == [1, 1, 1, 1, 2, *[1] * 7]


def test_a_worker_killed_from_outside_loses_nothing(pool, tmp_path):
    found = {}
    for task, rows in run_tasks(tasks(12), partial(stuck, tmp_path, 2), pool):
        assert task.key not in found
        found[task.key] = rows
        if len(found) == 4:
            os.kill(wait_for(lambda: Diary(tmp_path).begun(2), 1)[0], signal.SIGKILL)
    assert dict(sorted(found.items())) == SQUARES
    assert len(Diary(tmp_path).begun(2)) == 2


def test_a_task_that_always_kills_its_worker_is_named(pool, tmp_path):
    finished = {}
    results = run_tasks(tasks(12), partial(killed, tmp_path, 3, 99), pool)
    with pytest.raises(TaskError, match=r"task 3 was lost with its worker") as caught:
        finished.update((task.key, rows) for task, rows in results)
    assert len(Diary(tmp_path).begun(3)) == 3
    assert finished.items() <= SQUARES.items()
    assert f"{len(finished)} tasks ({len(finished)} trials) finished" in str(caught.value)


def test_a_pool_that_somebody_else_made_and_that_breaks_is_an_error_that_says_how_to_go_on(tmp_path):
    finished: list[int] = []
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        results = run_tasks(tasks(6), partial(killed, tmp_path, 3, 99), executor)
        with pytest.raises(ExecutorError, match="executor has ended") as error:
            finished.extend(task.key for task, _ in results)
    assert finished == [0, 1, 2]
    assert "3 tasks (3 trials) finished" in str(error.value)
    assert "the same call with a working executor goes on" in str(error.value)


def test_an_executor_that_was_shut_down_is_an_error():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(ExecutorError, match="after shutdown"):
        by_key(run_tasks(tasks(1), square, executor))


# A whole search


def test_a_search_on_two_workers_finds_what_one_process_finds(pool):
    assert plain(search(pool, group_size=2)) == expected()


def test_a_search_one_of_whose_workers_is_killed_is_the_search_of_one_process(pool, tmp_path):
    def kill() -> None:
        os.kill(active_children()[0].pid, signal.SIGKILL)

    assert plain(search(pool, tmp_path, reporter=After(4, kill))) == expected()
    assert plain(ledger(tmp_path)) == expected()


def test_a_search_whose_executor_breaks_goes_on_with_another(pool, tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn")) as broken:
        process = broken.submit(os.getpid).result()
        with pytest.raises(ExecutorError, match=r"Before that, \d+ tasks"):
            search(broken, tmp_path, reporter=After(4, lambda: os.kill(process, signal.SIGKILL)))
    before = ledger(tmp_path)
    assert 4 <= len(before) < TRIALS
    assert plain(search(pool, tmp_path)) == expected()
    after = ledger(tmp_path)
    assert (after[: len(before)], plain(after)) == (before, expected())


# Programs


def program(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(text)
    return path


def test_a_program_without_a_guard_is_told_so(tmp_path):
    path = program(
        tmp_path,
        "from tinygrad_cr.search import process_pool, run_tasks\n"
        "from search_tasks import square, tasks\n"
        "with process_pool(2) as pool:\n"
        "    list(run_tasks(tasks(3), square, pool))\n",
    )
    done = subprocess.run([sys.executable, path], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if line.startswith("tinygrad_cr.errors.ExecutorError")]
    assert 'if __name__ == "__main__"' in last[-1]
    assert "program.py" in last[-1]


SLOW = """
import sys
from functools import partial
from tinygrad_cr.search import process_pool, run_tasks
from search_tasks import noted, tasks

if __name__ == "__main__":
    with process_pool(2) as pool:
        for task, rows in run_tasks(tasks(8), partial(noted, sys.argv[1], 600.0 if len(sys.argv) > 1 else 0), pool):
            print(task, rows)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("how", ["Ctrl-C", pytest.param("SIGINT to it alone", marks=pytest.mark.slow), "SIGKILL"])
def test_a_program_that_is_stopped_leaves_no_worker_behind(how, tmp_path):
    diary = Diary(tmp_path / "diary")
    path = program(tmp_path, SLOW)
    running = subprocess.Popen(
        [sys.executable, path, diary.folder], env=environment(), start_new_session=True, stderr=subprocess.PIPE
    )
    try:
        workers = wait_for(lambda: [*diary.begun(0), *diary.begun(1)], 2)
        if how == "Ctrl-C":
            os.killpg(running.pid, signal.SIGINT)
        else:
            running.send_signal(signal.SIGINT if how.startswith("SIGINT") else signal.SIGKILL)
        told = running.communicate(timeout=30)[1].decode()
        wait_for(lambda: [worker for worker in workers if not alive(worker)], 2)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    assert told.count("KeyboardInterrupt") == (0 if how == "SIGKILL" else 1), told
    assert [diary.begun(i) for i in range(2, 8)] == [[]] * 6


def alive(process: int) -> bool:
    """Whether a process still works; the dead wait for whoever adopted them to notice."""
    status = Path(f"/proc/{process}/stat")
    if Path("/proc/self/stat").exists():
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
