"""A Dask cluster of three worker processes; `python dask_program.py FOLDER` leaves result.json there."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from search_setting import After, plain, search, wait_for
from search_tasks import Diary, killed, stuck, tasks
from tinygrad_cr.errors import TaskError
from tinygrad_cr.search import run_tasks


def with_one_killed(executor: Any, folder: Path) -> dict[str, Any]:
    """Twenty tasks, and a worker killed in the middle of the seventh."""
    diary, found = Diary(folder), {}
    for task, rows in run_tasks(tasks(20), partial(stuck, folder, 6), executor):
        assert task.key not in found, f"task {task.key} came twice"
        found[task.key] = rows[0]["square"]
        if len(found) == 8:
            os.kill(wait_for(lambda: diary.begun(6), 1)[0], signal.SIGKILL)
    return {"squares": found, "begun": [len(diary.begun(i)) for i in range(20)]}


def searched(executor: Any, client: Client, folder: Path) -> dict[str, Any]:
    """A whole search, and a worker killed in the middle of a trial."""
    processes = client.run(os.getpid)
    victims = []

    def kill() -> None:
        busy = wait_for(lambda: [address for address, keys in client.processing().items() if keys], 1)
        victims.append(busy[0])
        os.kill(processes[busy[0]], signal.SIGKILL)

    result = search(executor, folder, reporter=After(4, kill))
    return {"victims": victims, "rows": plain(result)}


def poisoned(executor: Any, folder: Path) -> dict[str, Any]:
    """A task that kills every worker it comes to."""
    squares: dict[int, int] = {}
    error = ""
    try:
        for task, rows in run_tasks(tasks(6), partial(killed, folder, 3, 99), executor):
            squares[task.key] = rows[0]["square"]
    except TaskError as caught:
        error = str(caught)
    return {"squares": squares, "error": error}


if __name__ == "__main__":
    root = Path(sys.argv[1])
    with (
        # Any free port for the dashboard: by default, two clusters on one machine would want the same.
        LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        executor = client.get_executor()
        found: dict[str, Any] = {"workers": len(client.scheduler_info()["workers"])}
        found["tasks"] = with_one_killed(executor, root / "tasks")
        client.wait_for_workers(3)
        found["search"] = searched(executor, client, root / "search")
        # Give a task up when the first worker has died under it: the rest of this takes as many workers as it does.
        cluster.scheduler.allowed_failures = 0
        found["poison"] = poisoned(executor, root / "poison")
    (root / "result.json").write_text(json.dumps(found))
