"""Searches with real networks, from the call to the winner."""

from __future__ import annotations

import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.errors import DataError, DivergenceError, OptionError, RunError, ShapeError
from tinygrad_cr.nn import MLP
from tinygrad_cr.random import Generator
from tinygrad_cr.search import (
    Choice,
    LogUniform,
    SearchResult,
    Uniform,
    coarse_to_fine,
    explore,
    grid_search,
    random_search,
    read,
    resume,
)
from tinygrad_cr.search.grouping import GroupTask, by_shape, largest_group
from tinygrad_cr.search.plan import Plan
from tinygrad_cr.search.spaces import Space
from tinygrad_cr.search.training import STOP, Material, run_group, train_group
from tinygrad_cr.search.trial import Trial, make_row
from tinygrad_cr.search.winner import make_winner
from tinygrad_cr.train import Trainer, evaluate, predict_proba


def blobs(n: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Dataset(rng.standard_normal((n, 5)) + 1.2 * np.eye(3, 5)[y], y)


TRAIN, VALIDATION, TEST = blobs(120, 0), blobs(90, 1), blobs(400, 2)
SPACE = {"lr": LogUniform(1e-4, 1e-1), "reg": LogUniform(1e-5, 1e-1), "hidden": 8}
MIXED = {
    "lr": LogUniform(1e-4, 1e4),
    "dropout": Uniform(0.0, 0.5),
    "hidden": Choice([4, 8, [6, 4], []]),
    "optimizer": Choice(["sgd", "adam"]),
    "batch_size": Choice([16, 32]),
    "init": Choice(["he", 0.1]),
    "lr_decay": 0.9,
}


def search(space: Any = SPACE, **options: Any) -> SearchResult:
    wanted = {"trials": 6, "epochs": 3, "reporter": False}
    return random_search(TRAIN, VALIDATION, space, **wanted | options)


def comparable(rows: Any) -> list[dict[str, Any]]:
    """Rows without the one entry that may differ."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def mixed() -> SearchResult:
    return search(MIXED, trials=16, test=TEST)


# Trials


def test_the_rows_are_flat_and_complete(mixed):
    keys = [*("trial", "stage", "trials", "epochs", "epoch", "seed", "status")]
    keys += ["val_accuracy", "val_loss", "accuracy", "loss", "seconds"]
    assert all(list(row) == keys + list(MIXED) for row in mixed)
    assert [row["trial"] for row in mixed] == list(range(1, 17))
    assert {"finished", "diverged"} <= {row["status"] for row in mixed} <= {"finished", "diverged", "stopped"}


def test_a_trial_is_what_the_trainer_makes_of_its_row(mixed):
    for row in [row for row in mixed if row["status"] == "finished"][:4]:
        generator = Generator(row["seed"], stream=row["trial"])
        model = MLP([5, *row["hidden"], 3], dropout=row["dropout"], init=row["init"], generator=generator)
        same = {name: row[name] for name in ("lr", "optimizer", "batch_size", "lr_decay", "epochs")}
        shuffles = Generator(row["seed"] + 1)
        history = Trainer(model, **same, generator=shuffles, reporter=False).fit(TRAIN, VALIDATION)
        observed = ("val_accuracy", "val_loss", "accuracy", "loss")
        assert [history.best()[key] for key in observed] == [row[key] for key in observed]


def test_a_rate_that_diverges_costs_no_further_epochs(mixed):
    lost = [row for row in mixed if row["status"] == "diverged"]
    assert max(row["epoch"] for row in lost) < 3
    assert min(row["lr"] for row in lost) > max(row["lr"] for row in mixed.top(3))


def test_a_trial_that_diverged_before_its_first_epoch_has_no_score():
    rows = search({"lr": Choice([1e30, 0.01])}, trials=8)
    row = next(row for row in rows if row["lr"] == 1e30)
    assert (row["epoch"], row["val_accuracy"], row["loss"]) == (0, None, None)


@pytest.mark.parametrize("options", [{"group_size": 1}, {"group_size": 3}, {"group_size": 100}])
def test_groups_change_no_trial(mixed, options):
    assert comparable(search(MIXED, trials=16, **options)) == comparable(mixed)


def test_the_order_in_which_groups_finish_changes_nothing(mixed, monkeypatch):
    def backwards(tasks, run, executor):
        yield from ((task, run(task)) for task in reversed(list(tasks)))

    monkeypatch.setattr(explore, "run_tasks", backwards)
    again = search(MIXED, trials=16, group_size=3)
    assert comparable(again) == comparable(mixed)


def test_several_workers_change_nothing(mixed):
    with ThreadPoolExecutor(3) as executor:
        assert comparable(search(MIXED, trials=16, group_size=2, executor=executor)) == comparable(mixed)


def test_another_seed_gives_other_trials():
    assert search(seed=1)[0]["lr"] != search(seed=0)[0]["lr"]


def test_patience_ends_a_trial():
    rows = search({"lr": Choice([1e-9, 0.02]), "hidden": 8}, trials=8, epochs=12, patience=2)
    slow = [row for row in rows if row["lr"] == 1e-9]
    assert {(row["status"], row["epoch"]) for row in slow} == {("stopped", 3)}


def test_halving_with_networks_keeps_the_best():
    rows = search({"lr": LogUniform(1e-5, 1e-1), "hidden": Choice([4, 8])}, trials=12, epochs=4, halving=2)
    assert {row["epoch"]: row["status"] for row in rows} == {1: "stopped", 2: "stopped", 4: "finished"}
    full = search({"lr": LogUniform(1e-5, 1e-1), "hidden": Choice([4, 8])}, trials=12, epochs=4)
    assert comparable([rows.best])[0]["val_loss"] == comparable([full[rows.best["trial"] - 1]])[0]["val_loss"]


def test_the_winner_of_a_lower_rung_is_the_network_that_was_chosen():
    material = Material(TRAIN, VALIDATION, Standardizer().fit(TRAIN.x))
    trial = Trial(1, 1, {"lr": 1e-3, "hidden": [8]}, 4)
    (short,) = train_group([trial], material, 1)
    row = make_row(trial, short, trials=1, epochs=9, rung=1)
    winner = make_winner([row], material, None, seed=0, repeats=0)
    assert train_group([trial], material, 9)[0].val_accuracy > short.val_accuracy
    assert (winner.val_accuracy, winner.val_loss) == (short.val_accuracy, short.val_loss)


def test_a_report_hears_of_each_epoch_and_may_stop_a_trial():
    material = Material(TRAIN, VALIDATION, Trainer(MLP([5, 3])).standardizer.fit(TRAIN.x))
    heard = []

    def report(trial, row):
        heard.append((trial.number, row["epoch"], row["val_accuracy"]))
        return STOP if trial.number == 2 and row["epoch"] == 2 else None

    trials = [Trial(1, number, {"hidden": [4]}, 0) for number in (1, 2, 3)]
    outcomes = train_group(trials, material, 4, report)
    assert [(outcome.status, outcome.epoch) for outcome in outcomes] == [
        ("finished", 4),
        ("stopped", 2),
        ("finished", 4),
    ]
    assert sorted(each[:2] for each in heard) == [(1, e) for e in (1, 2, 3, 4)] + [(2, 1), (2, 2)] + [
        (3, e) for e in (1, 2, 3, 4)
    ]


def test_a_task_and_what_runs_it_can_be_pickled():
    task = GroupTask((Trial(1, 1, {"hidden": [4], "lr": 0.1}, 2),), 3, 1, 3)
    assert pickle.loads(pickle.dumps((task, run_group))) == (task, run_group)


# Groups


def test_trials_of_one_shape_share_a_group_of_about_equal_size():
    trials = [Plan(Space(SPACE), ((100, 1),)).trial(Space(SPACE), 1, number) for number in range(1, 101)]
    groups = list(by_shape(trials, 16, (5, 3)))
    assert [len(group) for group in groups] == [15, 14, 14, 15, 14, 14, 14]
    assert [trial for group in groups for trial in group] == trials


def test_only_one_shape_is_in_a_group():
    space = Space(MIXED)
    trials = [Plan(space, ((60, 1),)).trial(space, 1, number) for number in range(1, 61)]
    groups = list(by_shape(trials, 16, (5, 3)))
    assert {len({trial.shape() for trial in group}) for group in groups} == {1}
    assert sorted(trial.number for group in groups for trial in group) == list(range(1, 61))
    assert len(groups) == len({trial.shape() for trial in trials})


def test_wide_networks_make_groups_that_memory_can_hold():
    wide = Trial(1, 1, {"hidden": [20_000, 20_000]}, 0)
    assert largest_group(wide, (784, 10)) == 1
    assert largest_group(Trial(1, 1, {"hidden": [50]}, 0), (784, 10)) > 1000


# The grid, and from coarse to fine


def test_a_grid_is_covered_exactly():
    space = {"lr": LogUniform(1e-3, 1e-1), "momentum": Choice([0.0, 0.9]), "hidden": 4}
    result = grid_search(TRAIN, VALIDATION, space, points=3, epochs=1, reporter=False)
    wanted = [(lr, momentum) for lr in (1e-3, 1e-2, 1e-1) for momentum in (0.0, 0.9)]
    assert [(row["lr"], row["momentum"]) for row in result] == [pytest.approx(each) for each in wanted]


def test_from_coarse_to_fine_with_networks():
    space = {"lr": LogUniform(1e-7, 1e-1), "hidden": 8}
    result = coarse_to_fine(TRAIN, VALIDATION, space, stages=[(12, 2), (5, 3)], test=TEST, reporter=False)
    assert [(row["stage"], row["trials"], row["epochs"]) for row in result] == [(1, 12, 2)] * 12 + [(2, 5, 3)] * 5
    old, new = (stage.space["lr"] for stage in result.stages)
    assert old.low < new.low < result.best["lr"] < new.high <= old.high
    assert result.space == result.stages[0].space


# The winner


def test_the_winner_is_the_best_trial_made_again(mixed):
    winner = mixed.winner
    assert (
        winner.row
        == mixed.best
        == max(
            (row for row in mixed if row["status"] == "finished"),
            key=lambda row: (row["val_accuracy"], -row["val_loss"]),
        )
    )
    loss, accuracy = evaluate(winner.model, VALIDATION, winner.standardizer)
    assert (winner.val_accuracy, accuracy) == (winner.row["val_accuracy"],) * 2
    assert (winner.val_loss, loss) == (winner.row["val_loss"],) * 2


def test_the_winner_is_tested_on_data_that_did_not_choose_it(mixed):
    winner = mixed.winner
    assert (winner.test_loss, winner.test_accuracy) == evaluate(winner.model, TEST, winner.standardizer)
    assert winner.optimism == winner.row["val_accuracy"] - winner.test_accuracy
    assert 0 < winner.expected_optimism < winner.optimism_bound


def test_what_chose_the_winner_does_not_depend_on_the_test_part(mixed):
    assert comparable(search(MIXED, trials=16)) == comparable(mixed)


def test_without_a_test_part_the_report_says_that_the_score_is_not_to_be_trusted():
    result = search()
    assert (result.winner.test_accuracy, result.winner.optimism) == (None, None)
    assert "too high by an amount that is not known, as no test part was given" in str(result)
    assert f"about {result.winner.expected_optimism:.4f} is expected of the best of 6 scores on 90 rows" in str(result)


def test_with_a_test_part_the_report_states_the_optimism(mixed):
    assert f"Optimism {mixed.winner.optimism:+.4f}, give or take 0.0" in str(mixed)


def test_the_winner_is_repeated_from_other_seeds():
    winner = search(test=TEST, repeats=3).winner
    seeds = {row["seed"] for row in winner.repeats}
    assert (len(seeds), winner.row["seed"] in seeds) == (3, False)
    assert len({row["test_loss"] for row in winner.repeats}) == 3
    mean = np.mean([row["test_accuracy"] for row in winner.repeats])
    assert "from 3 other seeds: validation accuracy 0." in winner.summary()
    assert f", test accuracy {mean:.4f} (standard deviation" in winner.summary()


def test_the_optimism_that_is_expected_is_that_of_the_searches_which_happen():
    """Over many searches of networks that are alike, with few rows to choose by."""
    few = blobs(30, 7)
    results = [
        random_search(
            TRAIN, few, {"momentum": 0.5, "hidden": 4}, test=TEST, trials=12, epochs=1, seed=s, reporter=False
        )
        for s in range(12)
    ]
    measured = np.mean([result.winner.optimism for result in results])
    expected = np.mean([result.winner.expected_optimism for result in results])
    error = np.std([result.winner.optimism for result in results]) / math.sqrt(len(results))
    assert 0 < measured < np.mean([result.winner.optimism_bound for result in results]) + 3 * error
    assert abs(measured - expected) < 3 * error + 0.5 * expected


# In a folder


def test_a_folder_gives_the_result_back(tmp_path):
    result = coarse_to_fine(
        TRAIN, VALIDATION, MIXED, stages=[(8, 2), (4, 2)], test=TEST, repeats=2, out=tmp_path, reporter=False
    )
    again = read(tmp_path)
    assert (again.rows, again.stages, again.warnings) == (result.rows, result.stages, result.warnings)
    assert again.winner.to_dict() == result.winner.to_dict()
    np.testing.assert_array_equal(
        predict_proba(again.winner.model, TEST.x, again.winner.standardizer),
        predict_proba(result.winner.model, TEST.x, result.winner.standardizer),
    )
    assert str(again) == str(result)


def test_a_search_goes_on_by_its_folder_alone(tmp_path):
    whole = search(MIXED, trials=9, test=TEST, repeats=1, patience=2, halving=3, out=tmp_path)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "trials.jsonl").write_text("".join(lines[:5]))
    again = resume(tmp_path, TRAIN, VALIDATION, test=TEST, reporter=False)
    assert comparable(again) == comparable(whole)
    assert again.winner.to_dict() == whole.winner.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 7}, r"stages is \[\[6, 3\]\] there and \[\[7, 3\]\] here"),
        ({"epochs": 4}, "stages is"),
        ({"seed": 5}, "seed is 0 there and 5 here"),
        ({"patience": 3}, "patience is null there and 3 here"),
        ({"test": TEST}, "data.test is null there"),
        ({"standardize": "none"}, 'standardize is "per-feature" there and "none" here'),
    ],
)
def test_the_folder_of_another_search_is_refused(tmp_path, change, message):
    search(out=tmp_path)
    with pytest.raises(RunError, match=message):
        search(out=tmp_path, **change)


def test_a_folder_of_a_search_on_other_data_is_refused(tmp_path):
    search(out=tmp_path)
    with pytest.raises(RunError, match=r"another search: data\.train is"):
        random_search(blobs(120, 9), VALIDATION, SPACE, trials=6, epochs=3, out=tmp_path, reporter=False)


def test_a_winner_whose_file_is_gone_is_an_error(tmp_path):
    search(out=tmp_path)
    (tmp_path / "winner.safetensors").unlink()
    with pytest.raises(RunError, match="does not hold a whole winner"):
        read(tmp_path)


# What a person sees


def test_the_lines_are_those_of_the_lecture(capsys):
    result = random_search(TRAIN, VALIDATION, SPACE | {"lr": LogUniform(1e-4, 1e4)}, trials=8, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stage 1: 8 trials, 2 epochs"
    for line, row in zip(lines[1:9], result, strict=True):
        score = "diverged" if row["status"] == "diverged" else f"{row['val_accuracy']:f}"
        assert line == f"val_acc: {score}, lr: {row['lr']:e}, reg: {row['reg']:e}, ({row['trial']} / 8)"
    assert lines[9].startswith("winner: validation accuracy ")


def test_silence_is_silent(capsys):
    search()
    assert capsys.readouterr() == ("", "")


def test_the_text_of_a_result_shows_stages_and_best_trials(mixed):
    text = str(mixed).splitlines()
    lost = sum(row["status"] == "diverged" for row in mixed)
    assert text[0] == f"stage 1: 16 of 16 trials, 3 epochs; {lost} diverged"
    assert text[1] == "  lr: 1.000000e-04 to 1.000000e+04"
    assert f"val_acc: {mixed.best['val_accuracy']:f}" in text[1 + len(mixed.space.free)]


def test_a_slice_of_a_result_is_a_result(mixed):
    assert (list(mixed[2:4]), mixed[2:4].stages) == (mixed.rows[2:4], mixed.stages)


# Refused


def test_if_all_trials_diverge_the_range_that_did_is_named(tmp_path):
    with pytest.raises(
        DivergenceError, match=r"all 4 trials of stage 1 diverged \(lr: 1.0+e\+10 to 1.0+e\+20\)"
    ) as error:
        search({"lr": LogUniform(1e10, 1e20)}, trials=4, out=tmp_path)
    assert "search below it, such as LogUniform(1e+07, 1e+10)" in str(error.value)
    assert {row["status"] for row in read(tmp_path)} == {"diverged"}
    with pytest.raises(OptionError, match="none of these 4 trials has a score"):
        read(tmp_path).top(1)


def test_a_single_stage_that_diverges_is_an_error_in_coarse_to_fine_too():
    with pytest.raises(DivergenceError, match="stage 1"):
        coarse_to_fine(TRAIN, VALIDATION, {"lr": 1e30}, stages=[(2, 1), (2, 1)], reporter=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials of a stage must be an integer of at least 1"),
        ({"epochs": 0}, "epochs of a stage"),
        ({"seed": -1}, "seed"),
        ({"patience": 0}, "patience"),
        ({"group_size": 0}, "group_size"),
        ({"repeats": -1}, "repeats"),
        ({"halving": 1}, "eta"),
        ({"dtype": "float16"}, "dtype 'float16'"),
        ({"standardize": "per-featur"}, "did you mean 'per-feature'"),
        ({"space": {"rg": 0.1}}, "did you mean 'reg'"),
        ({"space": {"lr": LogUniform}}, "lr must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        search(**options)


@pytest.mark.parametrize("stages", [[], [(5,)], [5], [(5, 0)], 5, None, "5x5"])
def test_stages_that_are_none_are_refused(stages):
    with pytest.raises(OptionError, match="stage"):
        coarse_to_fine(TRAIN, VALIDATION, SPACE, stages=stages, reporter=False)


@pytest.mark.parametrize(
    ("validation", "error"),
    [
        (Dataset(VALIDATION.x), DataError),
        (Dataset(VALIDATION.x[:, :4], VALIDATION.y), ShapeError),
        (Dataset(VALIDATION.x, VALIDATION.y + 2), DataError),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path, validation, error):
    with pytest.raises(error):
        random_search(TRAIN, validation, SPACE, out=tmp_path / "search", reporter=False)
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize("reporter", [3, None, print])
def test_what_is_no_reporter_is_refused(reporter):
    with pytest.raises(OptionError, match="reporter must be True"):
        search(reporter=reporter)


def test_stages_may_be_an_array():
    assert Plan(Space(SPACE), np.array([[3, 2], [4, 1]])).stages == ((3, 2), (4, 1))
