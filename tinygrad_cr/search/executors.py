"""Where groups of trials are trained: here and now, or wherever an executor sends them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, as_completed

from tinygrad_cr.search.grouping import GroupTask
from tinygrad_cr.search.trial import Row

Run = Callable[[GroupTask], list[Row]]


def run_tasks(
    tasks: Iterable[GroupTask], run: Run, executor: Executor | None = None
) -> Iterator[tuple[GroupTask, list[Row]]]:
    """Run each task, and yield it with its rows as soon as it is done.

    >>> from tinygrad_cr.search.trial import Trial
    >>> task = GroupTask((Trial(1, 1, {}, 0),), 1, 1, 1)
    >>> [rows for _, rows in run_tasks([task], lambda task: [{"trial": 1}], None)]
    [[{'trial': 1}]]
    """
    if executor is None:
        yield from ((task, run(task)) for task in tasks)
        return
    futures = {executor.submit(run, task): task for task in tasks}
    for future in as_completed(futures):
        yield futures[future], future.result()
