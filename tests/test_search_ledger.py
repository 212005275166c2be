"""The ledger: nothing that was written down is lost, nothing foreign is taken for one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from search_objectives import SPACE, objective, peak
from tinygrad_cr.errors import RunError, RunTakenError
from tinygrad_cr.search import Choice, Space, read
from tinygrad_cr.search.explore import Explorer
from tinygrad_cr.search.grouping import GroupTask
from tinygrad_cr.search.ledger import SEARCH, TRIALS, Ledger, read_rows
from tinygrad_cr.search.plan import Plan
from tinygrad_cr.search.progress import Lines
from tinygrad_cr.search.trial import Row

PLAN = Plan(SPACE, ((12, 5), (9, 5)))
SETTINGS = PLAN.settings()
SCORE = peak(lr=0.4, reg=0.6)


class Recorder:
    """Trains, and remembers what it was asked to; breaks down when it has been asked so often."""

    def __init__(self, breaks_after: int | None = None) -> None:
        self.left, self.trained = breaks_after, []

    def __call__(self, task: GroupTask) -> list[Row]:
        if self.left == len(self.trained):
            raise KeyboardInterrupt
        self.trained += [(trial.stage, trial.number) for trial in task.trials]
        return objective(SCORE, noise=0.01)(task)


def search(path: Path | None, run: Any = None, plan: Plan = PLAN, **options: Any) -> Any:
    with Ledger(path, plan.settings()) as ledger:
        return Explorer(plan, run or Recorder(), ledger, group_size=options.pop("group_size", 1), **options).explore()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "whole"
    search(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A finished search of one's own to damage."""
    return Path(shutil.copytree(whole, tmp_path / "search"))


# Going on


@pytest.mark.parametrize("trials", [0, 1, 5, 12, 13, 20])
def test_a_search_that_broke_off_goes_on_without_repeating_or_losing_a_trial(tmp_path, whole, trials):
    first, second = Recorder(trials), Recorder()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, first)
    result = search(tmp_path, second)
    assert sorted(first.trained + second.trained) == [(s, n) for s, m in ((1, 12), (2, 9)) for n in range(1, m + 1)]
    assert result.rows == search(None).rows == read(whole).rows
    assert (tmp_path / SEARCH).read_text() == (whole / SEARCH).read_text()


def test_a_finished_search_trains_nothing(folder, whole):
    run = Recorder()
    result = search(folder, run)
    assert (run.trained, result.rows, result.warnings) == ([], read(whole).rows, read(whole).warnings)


def test_a_crash_may_cut_the_last_line_anywhere(folder, whole):
    content = (whole / TRIALS).read_bytes()
    last = content[:-1].rindex(b"\n") + 1
    for end in [*range(last, len(content) - 1, 29), len(content) - 1]:
        (folder / TRIALS).write_bytes(content[:end])
        assert len(read(folder)) == 20
        run = Recorder()
        assert search(folder, run).rows == read(whole).rows
        assert run.trained == [(2, 9)]
        assert (folder / TRIALS).read_bytes() == content


def test_a_line_that_was_cut_short_is_told(folder, capsys):
    with (folder / TRIALS).open("ab") as file:
        file.write(b'{"trial": 3')
    search(folder, reporter=Lines())
    assert "cut short by a crash" in capsys.readouterr().out
    assert (folder / TRIALS).read_bytes().endswith(b"}\n")


def test_a_trial_that_was_written_twice_counts_once(folder, whole):
    lines = (whole / TRIALS).read_text().splitlines(keepends=True)
    (folder / TRIALS).write_text("".join([*lines, lines[3]]))
    assert search(folder).rows == read(whole).rows == read(folder).rows


def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_changed(folder):
    lines = (folder / TRIALS).read_text().splitlines(keepends=True)
    lines[4] = lines[4][:30] + "\n"
    (folder / TRIALS).write_text("".join(lines))
    for go_on in (search, read):
        with pytest.raises(RunError, match=r"line 5 of .*trials.jsonl is damaged"):
            go_on(folder)
    assert (folder / TRIALS).read_text() == "".join(lines)


def test_the_line_that_was_taken_out_is_made_again(folder, whole):
    lines = (folder / TRIALS).read_text().splitlines(keepends=True)
    (folder / TRIALS).write_text("".join(lines[:4] + lines[5:]))
    run = Recorder()
    assert search(folder, run).rows == read(whole).rows
    assert run.trained == [(1, 5)]


@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_search_goes_on_in_groups_of_another_size(tmp_path, whole, size):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Recorder(7))
    assert search(tmp_path, group_size=size).rows == read(whole).rows


def test_the_rows_of_a_group_are_written_at_once(tmp_path, monkeypatch):
    import os

    writes, write = [], os.write
    monkeypatch.setattr(os, "write", lambda handle, content: writes.append(content) or write(handle, content))
    search(tmp_path, group_size=6)
    assert [content.count(b"\n") for content in writes] == [6, 6, 5, 4]
    assert all(content.endswith(b"}\n") for content in writes)


def test_rows_are_safe_when_the_append_returns(tmp_path, monkeypatch):
    import os

    order = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("sync") or fsync(handle))
    with Ledger(tmp_path, {}) as ledger:
        order.clear()
        ledger.append([{"stage": 1, "trial": 1}])
    assert order == ["sync"]


def test_a_full_disk_is_no_torn_ledger(tmp_path, monkeypatch):
    import os

    with Ledger(tmp_path, {}) as ledger:
        ledger.append([{"stage": 1, "trial": 1}])
        write = os.write
        monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[:5]))
        with pytest.raises(RunError, match="the disk is full"):
            ledger.append([{"stage": 1, "trial": 2}])
    monkeypatch.undo()
    with Ledger(tmp_path, {}) as ledger:
        assert (ledger.torn, list(ledger.rows)) == (True, [(1, 1, 0)])


def test_with_halving_a_search_that_broke_off_goes_on(tmp_path):
    plan = Plan.from_settings(SETTINGS | {"stages": [[20, 9]], "halving": {"eta": 3, "first": 1}})
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Recorder(23), plan)
    run = Recorder()
    result = search(tmp_path, run, plan)
    assert result.rows == search(None, plan=plan).rows == read(tmp_path).rows
    assert len(run.trained) == 20 + 7 + 3 - 23


# Whose it is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"stages": [[12, 6], [9, 5]]}, r"stages is \[\[12, 5\], \[9, 5\]\] there and \[\[12, 6\]"),
        ({"space": SPACE.replace(lr=0.1).to_dict()}, r"space.lr is .*1e-06.* there and 0.1 here"),
        ({"halving": {"eta": 3, "first": 1}}, "halving is null there"),
        ({"seed": 1, "data": {"train": "0a"}}, "data is null there .*; seed is 0 there"),
    ],
)
def test_the_ledger_of_another_search_is_refused_with_what_differs(folder, change, message):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RunError, match=f"another search: .*{message}"):
        Ledger(folder, SETTINGS | change)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_grid_in_another_order_is_another_search(tmp_path):
    def grid(*names):
        values = {name: [0.1, 0.2] for name in names}
        return Plan(Space(dict.fromkeys(names, Choice([0.1, 0.2]))), ((4, 1),), grid=values).settings()

    Ledger(tmp_path, grid("lr", "reg")).close()
    with pytest.raises(RunError, match="grid is"):
        Ledger(tmp_path, grid("reg", "lr"))
    assert Plan.from_settings(grid("lr", "reg")).grid == {"lr": [0.1, 0.2], "reg": [0.1, 0.2]}


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds other files; nothing was written"):
        Ledger(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", [".search.json.123", ".winner.safetensors.9"])
def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path, name):
    (tmp_path / name).write_text("half a fi")
    with Ledger(tmp_path, SETTINGS):
        assert sorted(path.name for path in tmp_path.iterdir()) == [SEARCH, TRIALS]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot keep a search in"):
        Ledger(tmp_path / "file", SETTINGS)


def test_two_searches_cannot_use_one_ledger(tmp_path):
    with Ledger(tmp_path, SETTINGS), pytest.raises(RunTakenError, match="another process is searching"):
        Ledger(tmp_path, SETTINGS)
    Ledger(tmp_path, SETTINGS).close()


def test_a_search_of_another_format_is_refused(folder):
    state = json.loads((folder / SEARCH).read_text())
    (folder / SEARCH).write_text(json.dumps(state | {"format": 99}))
    with pytest.raises(RunError, match="search format 99, this version reads 2"):
        read(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}'])
def test_a_broken_description_is_refused(folder, content):
    (folder / SEARCH).write_text(content)
    with pytest.raises(RunError, match=r"search.json is broken"):
        read(folder)


def test_a_folder_without_a_search_cannot_be_read(tmp_path):
    with pytest.raises(RunError, match="is no search"):
        read(tmp_path)


def test_a_search_can_be_read_while_it_runs(tmp_path):
    seen = []

    def run(task: GroupTask) -> list[Row]:
        seen.append(len(read(tmp_path)))
        return objective(SCORE)(task)

    search(tmp_path, run, group_size=3)
    assert seen == [0, 3, 6, 9, 12, 15, 18]
    assert len(read_rows(tmp_path)) == 21
