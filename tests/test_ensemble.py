"""An ensemble answers with the average of its members, and says how far they differ and how far it can be believed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.ensemble import Ensemble, Member, averaged, calibration
from tinygrad_cr.errors import DataError, DTypeError, OptionError, ShapeError
from tinygrad_cr.nn import MLP, Affine, Module, ReLU, Sequential
from tinygrad_cr.train import Run, evaluate, predict_proba
from tinygrad_cr.train.history import History

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2500, 4))  # more than a chunk of rows
DATA = Dataset(X, RNG.integers(0, 3, len(X)))


def networks(count: int = 4, dtype: str = "float64", **options: Any) -> list[MLP]:
    return [MLP([4, 8, 3], generator=i, dtype=dtype, **options) for i in range(count)]


# Averages


def test_the_mean_of_probabilities_is_that_of_the_members():
    members = networks()
    alone = np.array([predict_proba(model, X) for model in members])
    np.testing.assert_allclose(Ensemble(members).predict_proba(X), alone.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(Ensemble(members).member_proba(X), alone, rtol=1e-12)


def test_the_mean_of_logarithms_is_the_normalised_geometric_mean():
    members = networks()
    product = np.prod([predict_proba(model, X) for model in members], axis=0) ** (1 / len(members))
    wanted = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Ensemble(members).predict_proba(X, average="log"), wanted, rtol=1e-12)


@pytest.mark.parametrize("average", ["probabilities", "log"])
def test_one_member_is_its_own_average(average):
    (model,) = networks(1)
    np.testing.assert_allclose(Ensemble([model]).predict_proba(X, average), predict_proba(model, X), rtol=1e-12)


@given(st.integers(1, 5), st.floats(0, 1e4), st.integers(0, 2**32 - 1))
def test_averages_are_probabilities_for_logits_of_any_size(members, size, seed):
    logits = size * np.random.default_rng(seed).standard_normal((members, 3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for average in ("probabilities", "log"):
            logs = averaged(logits, average)
            assert np.isfinite(logs).all()
            np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, rtol=1e-9)


def test_members_that_rule_each_others_classes_out_leave_a_finite_loss():
    # float32 softmax gives 0 for both: the average is made of logits.
    sure = [Affine(1, 2, init=0.0) for _ in range(2)]
    for model, logits in zip(sure, ([1e4, 0], [0, 1e4]), strict=True):
        model.bias.data[:] = logits
    ensemble, data = Ensemble(sure), Dataset([[0.0]], [1])
    assert ensemble.predict_proba(data.x, "log").tolist() == [[0.5, 0.5]]
    assert ensemble.evaluate(data)[0] == pytest.approx(np.log(2))
    assert ensemble[:1].evaluate(data)[0] == 1e4


@pytest.mark.parametrize("average", ["probabilities", "log"])
def test_predictions_loss_and_accuracy_belong_to_the_probabilities(average):
    ensemble = Ensemble(networks())
    p = ensemble.predict_proba(X, average)
    loss, accuracy = ensemble.evaluate(DATA, average)
    assert (ensemble.predict(X, average) == p.argmax(axis=1)).all()
    assert loss == pytest.approx(-np.log(p[np.arange(len(X)), DATA.y]).mean(), rel=1e-12)
    assert accuracy == (p.argmax(axis=1) == DATA.y).mean()


def test_the_loss_of_the_ensemble_is_at_most_the_mean_loss_of_its_members():
    ensemble = Ensemble(networks())
    alone = np.mean([evaluate(member.model, DATA)[0] for member in ensemble])
    assert ensemble.evaluate(DATA)[0] < alone
    assert ensemble.evaluate(DATA, "log")[0] < alone


def test_an_unknown_average_is_refused_with_the_nearest_name():
    with pytest.raises(OptionError, match="unknown average 'probability': did you mean 'probabilities'"):
        Ensemble(networks()).predict_proba(X, "probability")


# Members


def test_each_member_sees_the_rows_as_its_own_standardizer_makes_them():
    models = networks(2)
    members = [Member(m, Standardizer("per-feature").fit(scale * X)) for m, scale in zip(models, (1, 10), strict=True)]
    wanted = np.mean([predict_proba(each.model, X, each.standardizer) for each in members], axis=0)
    np.testing.assert_allclose(Ensemble(members).predict_proba(X), wanted, rtol=1e-12)


def test_a_common_standardizer_is_for_those_that_have_none():
    own, common = (Standardizer("per-feature").fit(scale * X) for scale in (1, 10))
    first, second = networks(2)
    ensemble = Ensemble([Member(first, own), second], standardizer=common)
    assert [member.standardizer for member in ensemble] == [own, common]


def test_members_may_have_different_depths_dtypes_and_layers():
    members = [*networks(1), MLP([4, 5, 5, 3], generator=1), Sequential(Affine(4, 6), ReLU(), Affine(6, 3))]
    assert Ensemble(members).predict_proba(X).shape == (len(X), 3)


def test_members_answer_in_evaluation_mode_and_keep_the_mode_they_had():
    model = MLP([4, 8, 3], dropout=0.5, generator=0)
    state = model.generator.state()
    ensemble = Ensemble([model.train()])
    assert (ensemble.predict_proba(X) == ensemble.predict_proba(X)).all()
    assert [module.training for module in model.modules()] == [True] * 3
    assert model.generator.state() == state


def test_runs_bring_their_standardizer_and_class_names():
    standardizer = Standardizer("per-feature").fit(X)
    run = Run(networks(1)[0], standardizer, ["a", "b", "c"], {}, History())
    ensemble = Ensemble([run, run])
    assert (ensemble.class_names, ensemble[0].standardizer) == (("a", "b", "c"), standardizer)


def test_a_population_is_an_ensemble_of_its_members():
    population = MLP([4, 8, 3], members=3, generator=5)
    ensemble = Ensemble(population)
    np.testing.assert_allclose(ensemble.member_proba(X), predict_proba(population, X), rtol=1e-5)
    population.layers[0].weight.data[1] = 0  # a member is a view
    np.testing.assert_allclose(ensemble.member_proba(X)[1], predict_proba(population[1], X), rtol=1e-5)


def test_a_slice_is_an_ensemble_of_those_members():
    ensemble = Ensemble(networks(), class_names=["a", "b", "c"])
    assert [member.model for member in ensemble[1:3]] == [member.model for member in ensemble.members[1:3]]
    assert (repr(ensemble[:1]), ensemble[:1].class_names) == ("Ensemble(1 member, 3 classes)", ("a", "b", "c"))


def broken() -> MLP:
    (model,) = networks(1)
    model.layers[0].weight.data[0, 0] = np.nan
    return model


class Silent(Module):
    """Says nothing about the shape it takes."""

    def __init__(self, outputs: int) -> None:
        self.layer = Affine(4, outputs, generator=0)

    def forward(self, x: Any) -> Any:
        return self.layer(x)


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "none": ([], {}, OptionError, "at least one member, got none"),
    "no module": (["model"], {}, OptionError, "a Module, a Member or a Run, got str"),
    "one network": (networks(1)[0], {}, OptionError, "one network is no ensemble: give a list of networks"),
    "a population": ([MLP([4, 3], members=2)], {}, OptionError, "a population is a whole ensemble: give it alone"),
    "a run of a population": (
        [Run(MLP([4, 3], members=2), None, [], {}, History())],
        {},
        OptionError,
        "a population is a whole ensemble: give it alone",
    ),
    "features": ([*networks(1), MLP([5, 3])], {}, ShapeError, "member 1 has 5 features, member 0 has 4"),
    "classes": ([*networks(1), MLP([4, 2])], {}, ShapeError, "member 1 has 2 classes, member 0 has 3"),
    "standardizer": (
        networks(1),
        {"standardizer": Standardizer("none").fit([[1.0, 2.0]])},
        ShapeError,
        "member 0 does not take what its standardizer gives",
    ),
    "names": (
        [Member(networks()[i], None, names) for i, names in enumerate([("a", "b", "c"), ("a", "c", "b")])],
        {},
        DataError,
        "member 1 has the classes a, c, b, member 0 has a, b, c",
    ),
    "how many names": (networks(1), {"class_names": ["a", "b"]}, ShapeError, "2 class names for members with 3"),
    "NaN": ([*networks(1), broken()], {}, DataError, "member 1: layers.0.weight holds inf or NaN"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_members_that_do_not_fit_together_are_refused(kind):
    members, options, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        Ensemble(members, **options)


def test_members_that_do_not_say_what_they_take_are_checked_when_they_answer():
    ensemble = Ensemble([Silent(3), Silent(2)])
    with pytest.raises(ShapeError, match="logits of different shapes"):
        ensemble.predict_proba(X)


def test_rows_of_another_width_and_with_holes_are_refused():
    ensemble = Ensemble(networks(), standardizer=Standardizer("per-feature").fit(X))
    with pytest.raises(ShapeError):
        ensemble.predict_proba(X[:, :3])
    with pytest.raises(DataError, match="nan"):
        ensemble.predict_proba([[0, 1, 2, np.nan]])


def test_data_without_labels_or_with_too_many_classes_is_refused():
    ensemble = Ensemble(networks())
    for measure in (ensemble.evaluate, ensemble.calibration):
        with pytest.raises(DataError, match="labelled data"):
            measure(Dataset(X))
        with pytest.raises(DataError, match=r"label 3, the members have outputs for 0\.\.2"):
            measure(Dataset(X[:1], [3]))


# Disagreement


def test_pairwise_disagreement_is_the_part_of_pairs_with_different_predictions():
    ensemble = Ensemble(networks(5))
    votes = ensemble.member_proba(X).argmax(axis=2)
    pairs = [(a, b) for a in range(5) for b in range(a)]
    wanted = np.mean([votes[a] != votes[b] for a, b in pairs], axis=0)
    np.testing.assert_allclose(ensemble.disagreement(X).pairwise, wanted, atol=1e-12)


def test_the_variance_is_what_averaging_takes_off_the_brier_score():
    ensemble, truth = Ensemble(networks()), np.eye(3)[DATA.y]
    alone = ((ensemble.member_proba(X) - truth) ** 2).sum(axis=2).mean(axis=0)
    together = ((ensemble.predict_proba(X) - truth) ** 2).sum(axis=1)
    np.testing.assert_allclose(ensemble.disagreement(X).variance, alone - together, atol=1e-12)


def test_mutual_information_is_the_entropy_of_the_mean_less_the_mean_entropy():
    ensemble = Ensemble(networks())
    p, found = ensemble.member_proba(X), ensemble.disagreement(X)
    mean = p.mean(axis=0)
    np.testing.assert_allclose(found.entropy, -(mean * np.log(mean)).sum(axis=1), atol=1e-12)
    # The same as the mean divergence of the members from their mean.
    divergence = (p * np.log(p / mean)).sum(axis=2).mean(axis=0)
    np.testing.assert_allclose(found.mutual_information, divergence, atol=1e-12)


def test_members_that_agree_do_not_disagree():
    (model,) = networks(1)
    for ensemble in (Ensemble([model]), Ensemble([model] * 3)):
        found = ensemble.disagreement(X).mean()
        assert (found["pairwise"], found["variance"]) == (0, pytest.approx(0, abs=1e-30))
        assert 0 <= found["mutual_information"] < 1e-12
        assert found["entropy"] > 0.1


# Calibration


def test_the_bins_of_a_calibration_hold_what_falls_into_them():
    p = [[0.6, 0.4], [0.3, 0.7], [0.95, 0.05], [1.0, 0.0], [0.5, 0.5]]
    found = calibration(p, [0, 0, 0, 0, 1], bins=4)
    assert [row["count"] for row in found] == [0, 1, 2, 2]
    assert found[0] == {"low": 0.0, "high": 0.25, "count": 0, "confidence": None, "accuracy": None}
    assert found[2] == {"low": 0.5, "high": 0.75, "count": 2, "confidence": pytest.approx(0.65), "accuracy": 0.5}
    gaps = [abs(0.5 - 0), abs(0.65 - 0.5), abs(0.975 - 1)]
    assert found.ece == pytest.approx((gaps[0] + 2 * gaps[1] + 2 * gaps[2]) / 5)
    assert found.mce == gaps[0]


def test_a_classifier_that_is_right_as_often_as_it_says_has_a_small_error():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 200_000)
    y = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert calibration(p, y).ece < 0.005
    # One that is surer than it should be is found out.
    sharp = p**2 / (p**2).sum(axis=1, keepdims=True)
    assert calibration(sharp, y).ece > 0.05


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_every_row_is_in_one_bin_and_its_confidence_between_the_ends(bins, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(3, 0.3), 50)
    found = calibration(p, rng.integers(0, 3, 50), bins)
    assert (len(found), sum(row["count"] for row in found)) == (bins, 50)
    assert all(row["low"] < row["confidence"] <= row["high"] + 1e-12 for row in found if row["count"])
    assert 0 <= found.ece <= found.mce + 1e-12 <= 1


def test_an_ensemble_is_calibrated_on_its_own_probabilities():
    ensemble = Ensemble(networks())
    assert list(ensemble.calibration(DATA, bins=7)) == list(calibration(ensemble.predict_proba(X), DATA.y, bins=7))


@pytest.mark.parametrize(
    ("p", "y", "bins", "error", "message"),
    [
        ([[1.0, 0.0]], [0, 1], 15, ShapeError, r"got \(1, 2\), \(2,\)"),
        (np.empty((0, 2)), np.empty(0), 15, DataError, "at least one row"),
        ([[3.0, -1.0]], [0], 15, DataError, "give softmax"),
        ([[1.0, 0.0]], [2], 15, DataError, r"label 2, the probabilities are those of classes 0\.\.1"),
        ([[1.0, 0.0]], [-1], 15, DataError, "label -1"),
        ([[1.0, 0.0]], [0.0], 15, DTypeError, "labels must be integers, got dtype float64"),
        ([[1.0, 0.0]], [0], 0, OptionError, "bins must be an integer of at least 1"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(p, y, bins, error, message):
    with pytest.raises(error, match=message):
        calibration(p, y, bins)
