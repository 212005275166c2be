"""The loop of a search: stages, rungs, groups; every trial that the ledger does not have yet is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from typing import Any, cast

from tinygrad_cr.errors import DivergenceError
from tinygrad_cr.search.edges import crowded_edges
from tinygrad_cr.search.executors import run_tasks
from tinygrad_cr.search.grouping import GROUP_SIZE, TASK_SIZE, GroupTask, by_shape
from tinygrad_cr.search.ledger import Ledger
from tinygrad_cr.search.narrowing import narrowed, show_ranges
from tinygrad_cr.search.plan import Plan
from tinygrad_cr.search.progress import Clock, SearchReporter, Silent
from tinygrad_cr.search.result import SearchResult, Stage, final_rows
from tinygrad_cr.search.spaces import LogUniform, Space, describe
from tinygrad_cr.search.trial import Row, Trial, scored

Run = Callable[[GroupTask], list[Row]]
DECADES = 1000.0


class Explorer:
    """A search that is under way.

    Args:
        plan: which trials.
        run: what trains a group and gives its rows.
        ledger: where finished trials are written down.
        ends: how many features and classes the data has.
        group_size: most trials in a group; None for a number that suits the executor.
        executor: where groups are trained; None for here.
        reporter: who is told.

    >>> from tinygrad_cr.search.spaces import Uniform
    >>> from tinygrad_cr.search.trial import Outcome, make_row
    >>> def run(task):
    ...     score = lambda trial: Outcome("finished", 1, 1 - (trial.point["momentum"] - 0.5) ** 2, 0.0)
    ...     return [make_row(trial, score(trial), trials=20, epochs=1, rung=None) for trial in task.trials]
    >>> plan = Plan(Space({"momentum": Uniform(0.0, 0.9)}), ((20, 1), (20, 1)))
    >>> 0.45 < Explorer(plan, run, Ledger(None, {})).explore().best["momentum"] < 0.55
    True
    """

    def __init__(
        self,
        plan: Plan,
        run: Run,
        ledger: Ledger,
        *,
        ends: tuple[int, int] = (1, 1),
        group_size: int | None = None,
        executor: Executor | None = None,
        reporter: SearchReporter | None = None,
    ) -> None:
        self.plan, self.run, self.ledger, self.ends = plan, run, ledger, ends
        self.group_size = group_size or (GROUP_SIZE if executor is None else TASK_SIZE)
        self.executor = executor
        self.reporter: SearchReporter = reporter or Silent()
        self.clock = Clock(plan.work())
        self.stages: list[Stage] = []
        self.warnings: list[str] = []

    def explore(self) -> SearchResult:
        """Make all trials; what came of them.

        Raises:
            DivergenceError: all trials of a stage diverged.
            RunError: the ledger cannot be written.
        """
        self._say_what_is_known()
        space = self.plan.space
        for number, (trials, epochs) in enumerate(self.plan.stages, 1):
            if self.stages:
                space = self._narrow(space)
            stage = Stage(number, space, trials, epochs)
            self.stages.append(stage)
            self._write()
            self.reporter.start(number, trials, epochs)
            self._explore_stage(stage)
            rows = self._rows(stage)
            if not scored(rows):
                raise DivergenceError(_all_diverged(stage, rows))
            for edge in crowded_edges(space, rows, number):
                self.warnings.append(str(edge))
                self.reporter.note(f"warning: {edge}")
        self._write()
        return SearchResult(self._all_rows(), self.stages, self.warnings)

    def _narrow(self, space: Space) -> Space:
        new = narrowed(space, self._rows(self.stages[-1]))
        self.reporter.note("the ranges from here on lie around the best trials:")
        for line in show_ranges(space, new):
            self.reporter.note(f"  {line}")
        return new

    def _explore_stage(self, stage: Stage) -> None:
        trials = [self.plan.trial(stage.space, stage.number, number) for number in range(1, stage.trials + 1)]
        rungs = self.plan.rungs(stage.epochs)
        for rung, epochs in enumerate(rungs, 1):
            if self.plan.halving is None:
                self._run_trials(stage, trials, epochs, None)
                continue
            self._run_trials(stage, trials, epochs, rung)
            if rung < len(rungs):
                rows = [cast(Row, self.ledger.find(stage.number, trial.number, rung)) for trial in trials]
                further = set(self.plan.halving.survivors(rows))
                trials = [trial for trial in trials if trial.number in further]
                self.reporter.note(
                    f"after {epochs} epochs the best {len(trials)} of {len(rows)} trials go on to {rungs[rung]}"
                )

    def _run_trials(self, stage: Stage, trials: Sequence[Trial], epochs: int, rung: int | None) -> None:
        """Make those of these trials that the ledger does not have."""
        missing = [trial for trial in trials if self.ledger.find(stage.number, trial.number, rung) is None]
        self.clock.skip(epochs * (len(trials) - len(missing)))
        tasks = [
            GroupTask(group, epochs, stage.trials, stage.epochs, rung)
            for group in by_shape(missing, self.group_size, self.ends)
        ]
        results = cast(Any, run_tasks(tasks, self.run, self.executor))
        with closing(results):
            for task, rows in cast(Iterator[tuple[GroupTask, list[Row]]], results):
                self.ledger.append(rows)
                self.clock.add(epochs * len(task.trials))
                for row in rows:
                    self.reporter.trial(row, stage.space)
                self.reporter.left(self.clock.done, self.clock.left())

    def _rows(self, stage: Stage) -> list[Row]:
        return [row for row in self._all_rows() if row["stage"] == stage.number]

    def _all_rows(self) -> list[Row]:
        return final_rows(self.ledger.rows.values(), self.plan.halving is not None)

    def _write(self) -> None:
        """Unless the ledger knows as much already."""
        stages = [vars(stage) | {"space": stage.space.to_dict()} for stage in self.stages]
        known = self.ledger.state["stages"][: len(stages)], self.ledger.state["warnings"][: len(self.warnings)]
        if known != (stages, self.warnings):
            self.ledger.write(stages=stages, warnings=self.warnings)

    def _say_what_is_known(self) -> None:
        if self.ledger.torn:
            self.reporter.note("the last line of the ledger was cut short by a crash: its trials are made again")
        if self.ledger.rows:
            self.reporter.note(f"going on after {len(self._all_rows())} trials")


def _all_diverged(stage: Stage, rows: Sequence[Row]) -> str:
    """What to do where no trial has a score."""
    tried = [f"{name}: {describe(stage.space[name])}" for name in stage.space.free]
    text = f"all {len(rows)} trials of stage {stage.number} diverged ({', '.join(tried) or 'nothing was varied'}): "
    rate = stage.space.get("lr")
    if isinstance(rate, LogUniform):
        low = float(f"{rate.low / DECADES:.1g}")
        return text + f"the range of lr is too high, search below it, such as LogUniform({low:g}, {rate.low:g})"
    return text + "lower learning rates, such as lr=LogUniform(1e-06, 0.001), or check the data with doctor.preflight"
