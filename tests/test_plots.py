"""Pictures: what is drawn, read back from the Axes; that words never cover each other; what is refused."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from tinygrad_cr import ops, plots
from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, ExtraError, OptionError, ShapeError, TinygradError
from tinygrad_cr.nn import MLP
from tinygrad_cr.plots.weights import tiled
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train import Event, Histograms, History, Trainer, predict_proba

STEPS = 10
"""Steps in an epoch of a made-up run."""


def event(kind: str, epoch: int, level: str = "warn", step: int | None = None) -> Event:
    return Event(level, kind, epoch, epoch * STEPS if step is None else step, 1.0, f"{kind} in epoch {epoch}")


def rows(epochs: int = 8, validation: bool = True) -> list[dict[str, Any]]:
    """A run that learns and then overfits."""
    return [
        {
            "epoch": e,
            "step": e * STEPS,
            "loss": 2.3 / e,
            "accuracy": 1 - 0.9 / e,
            "val_loss": 2.4 / e + 0.02 * e if validation else None,
            "val_accuracy": 0.9 - 0.8 / e if validation else None,
            "update_ratio.layers.0.weight": 1e-2 / e,
            "update_ratio.layers.0.bias": None if e == 1 else 2e-2 / e,
            "update_ratio.layers.1.weight": 1e-3,
            "update_ratio.layers.1.bias": 0.0,
        }
        for e in range(1, epochs + 1)
    ]


def rates(**other: Any) -> dict[str, Any]:
    lr = np.logspace(-5, 1, 25)
    costs = 2.3 - 1.5 / (1 + (0.02 / lr) ** 1.5) + (lr / 0.5) ** 2
    costs[-3:] = np.inf
    found = {"rates": lr, "costs": costs, "initial": 2.3, "low": 1e-3, "high": 0.5, "suggestion": 0.03}
    return found | other


def record(epoch: int, counts: list[int], **other: Any) -> dict[str, Any]:
    made = {"epoch": epoch, "step": epoch * STEPS, "kind": "activation", "name": "layers.0", "low": -1.0, "high": 1.0}
    return made | {"counts": counts, "zeros": 0.0} | other


def digit_like(n: int = 40, shape: tuple[int, ...] = (6, 5), seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    names = [f"some class {i}" for i in range(4)]
    return Dataset(rng.integers(0, 255, (n, *shape)).astype("uint8"), rng.integers(0, 4, n), class_names=names)


def guesses(data: Dataset, right: float = 0.5, seed: int = 1) -> np.ndarray[Any, Any]:
    """Probabilities that are right for about so many of the rows."""
    rng = np.random.default_rng(seed)
    sure = np.where(rng.random(len(data)) < right, data.y, (data.y + 1) % data.classes)
    p = rng.random((len(data), data.classes)) + 3 * np.eye(data.classes)[sure]
    return p / p.sum(axis=1, keepdims=True)


LEVELS = ("note", "warn", "fail")
KINDS = ["slow", "plateau", "update_ratio", "overfitting", "capacity", "dead_units", "loss_spike", "resumed"]
PLACES = [1 + (i * 7) % (8 * STEPS) for i in range(60)]
MANY = [event(KINDS[i % 8], -(-step // STEPS), LEVELS[i % 3], step) for i, step in enumerate(PLACES)]
DEEP = [
    {"epoch": e}
    | {f"update_ratio.layers.{i}.{kind}": 10.0 ** -(i % 5) for i in range(15) for kind in ("weight", "bias")}
    for e in (1, 2, 3)
]
HUNDRED = np.arange(500) % 100
DATA = digit_like()

PICTURES: dict[str, Callable[[Axes | None], Axes]] = {
    "curves": lambda ax: plots.curves(History(rows(), [event("plateau", 3), event("overfitting", 5)]), ax=ax),
    "accuracy": lambda ax: plots.curves(History(rows()), "accuracy", ax=ax),
    "many events": lambda ax: plots.curves(History(rows(), MANY), ax=ax),
    "one epoch": lambda ax: plots.curves(History(rows(1), [event("slow", 1)]), ax=ax),
    "no epoch": lambda ax: plots.curves(History([], [event("divergence", 1, "fail")]), ax=ax),
    "rates": lambda ax: plots.learning_rate_range(rates(), ax=ax),
    "ratios": lambda ax: plots.update_ratios(rows(), ax=ax),
    "deep": lambda ax: plots.update_ratios(DEEP, ax=ax),
    "ridges": lambda ax: plots.histograms(
        [record(e, [1, 5, 9 * e, 5, 1], zeros=0.2) for e in range(1, 31)], "activation", "layers.0", ax=ax
    ),
    "weights": lambda ax: plots.first_layer_weights(np.random.default_rng(0).normal(size=(30, 80)), (6, 5), ax=ax),
    "colour weights": lambda ax: plots.first_layer_weights(
        np.random.default_rng(0).normal(size=(48, 9)), (4, 4, 3), ax=ax
    ),
    "confusion": lambda ax: plots.confusion_matrix(
        DATA.y, guesses(DATA).argmax(axis=1), [f"quite a long name {i}" for i in range(4)], ax=ax
    ),
    "a hundred classes": lambda ax: plots.confusion_matrix(
        HUNDRED, HUNDRED[::-1], [f"class {i}" for i in range(100)], ax=ax
    ),
    "mistakes": lambda ax: plots.worst_mistakes(DATA, guesses(DATA), ax=ax),
    "no mistakes": lambda ax: plots.worst_mistakes(DATA, np.eye(4)[DATA.y], ax=ax),
    "dropout": lambda ax: plots.dropout_mask(DATA.x[0], image_shape=(6, 5), ax=ax),
    "strips": lambda ax: plots.dropout_mask(np.arange(20.0), 0.25, mode="vanilla", ax=ax),
}

drawn = pytest.mark.parametrize("name", PICTURES)


def half_width() -> Axes:
    return Figure((3, 2.5), layout="constrained").add_subplot()


def texts(ax: Axes) -> Iterator[Text]:
    """All words of a picture that has been drawn."""
    yield from (t for t in ax.figure.findobj(Text) if t.get_visible() and t.get_text().strip() and shown(t))


def shown(text: Text) -> bool:
    """Ticks beyond the limits, or of Axes without them, exist and are not drawn."""
    axis = next((a for ax in text.figure.axes for a in (ax.xaxis, ax.yaxis) if text in a.get_ticklabels()), None)
    if axis is None:
        return True
    if not axis.axes.axison:
        return False
    low, high = sorted(axis.get_view_interval())
    place = text.get_position()[0 if axis.axis_name == "x" else 1]
    return bool(low - 1e-9 <= place <= high + 1e-9)


# What holds for every picture


@drawn
@pytest.mark.parametrize("place", [lambda: None, half_width], ids=["6 by 4 inches", "half width"])
def test_no_word_covers_another_and_none_is_cut_off(name, place):
    ax = PICTURES[name](place())
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    boxes = {t: t.get_window_extent(canvas.get_renderer()) for t in texts(ax)}
    page = ax.figure.bbox.padded(1)
    assert [t.get_text() for t, box in boxes.items() if not page.fully_containsx(box.x0) or box.x1 > page.x1] == []
    assert [t.get_text() for t, box in boxes.items() if box.y0 < page.y0 or box.y1 > page.y1] == []
    covering = [
        (a.get_text(), b.get_text())
        for (a, p), (b, q) in itertools.combinations(boxes.items(), 2)
        # A pixel of two boxes is the white around the letters.
        if p.padded(-1).overlaps(q.padded(-1))
    ]
    assert covering == []


@drawn
def test_an_ax_that_is_given_is_drawn_into_and_returned(name):
    figure = Figure(layout="constrained")
    ax = figure.add_subplot()
    assert PICTURES[name](ax) is ax
    assert ax.lines or ax.images or ax.patches or ax.texts


@drawn
def test_a_picture_of_its_own_is_six_inches_wide(name):
    assert PICTURES[name](None).figure.get_figwidth() == 6


@drawn
def test_a_picture_renders_without_warnings(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = BytesIO()
        PICTURES[name](None).figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


def test_nothing_is_left_in_pyplot_and_no_setting_changes():
    matplotlib.use("Agg")
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    for draw in PICTURES.values():
        draw(None)
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_a_picture_does_not_show_itself(monkeypatch):
    shows = []
    monkeypatch.setattr(Figure, "show", lambda self, *_: shows.append(self))
    PICTURES["curves"](None)
    assert shows == []


@drawn
def test_what_is_no_ax_is_refused(name):
    with pytest.raises(OptionError, match="ax must be the Axes to draw into, or None for new ones; got 3"):
        PICTURES[name](3)


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_plots_does_not_import_matplotlib():
    assert "matplotlib" not in python("import tinygrad_cr.plots, sys; print(*sys.modules)").split()


def test_without_matplotlib_the_error_names_the_extra():
    program = """
import sys
sys.modules["matplotlib"] = None
from tinygrad_cr import plots
from tinygrad_cr.errors import TinygradError
try:
    plots.curves([{"epoch": 1, "loss": 1.0}])
except ImportError as error:
    print(type(error).__name__, isinstance(error, TinygradError), error)
"""
    words = python(program)
    assert words.startswith("ExtraError True")
    assert "matplotlib" in words
    assert "pip install 'tinygrad_cr[plot]'" in words


def test_an_extra_error_is_an_import_error_that_names_the_module():
    error = ExtraError("message", name="matplotlib")
    assert isinstance(error, ImportError)
    assert (error.name, str(error)) == ("matplotlib", "message")


def test_words_with_dollars_are_no_mathematics():
    names = ["$x", "y$_{", "plain"]
    ax = plots.confusion_matrix([0, 1, 2], [0, 1, 2], names)
    FigureCanvasAgg(ax.figure).draw()
    assert [t.get_text() for t in ax.get_xticklabels()] == [r"\$x", r"y\$_{", "plain"]


# Curves


def line(ax: Axes, label: str) -> Any:
    return next(each for each in ax.lines if each.get_label() == label)


def data(ax: Axes, label: str) -> list[tuple[float, float]]:
    return list(zip(*line(ax, label).get_data(), strict=True))


def badges(ax: Axes) -> dict[float, str]:
    return {note.xy[0]: note.get_text() for note in ax.texts if hasattr(note, "xy")}


def below(ax: Axes) -> list[str]:
    """The lists below a picture."""
    return [t.get_text() for legend in ax.findobj(matplotlib.legend.Legend) for t in legend.get_texts()]


@pytest.mark.parametrize("key", ["loss", "accuracy"])
def test_curves_hold_what_was_observed(key):
    ax = plots.curves(History(rows(5)), key)
    assert data(ax, "training") == [(row["epoch"], row[key]) for row in rows(5)]
    assert data(ax, "validation") == [(row["epoch"], row[f"val_{key}"]) for row in rows(5)]


def test_axes_are_named_with_units():
    ax = plots.curves(History(rows()))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss (nats)")
    assert plots.curves(History(rows()), "accuracy").get_ylabel() == "accuracy (fraction right)"


def test_training_and_validation_differ_without_colour():
    ax = plots.curves(History(rows()))
    training, validation = line(ax, "training"), line(ax, "validation")
    assert training.get_linestyle() != validation.get_linestyle()
    assert training.get_marker() != validation.get_marker()


def test_the_gap_is_what_lies_between_the_lines():
    ax = plots.curves(History(rows(3)))
    corners = {tuple(np.round(point, 9)) for point in ax.collections[0].get_paths()[0].vertices}
    wanted = {(row["epoch"], round(row[key], 9)) for row in rows(3) for key in ("loss", "val_loss")}
    assert corners == wanted


def test_without_validation_there_is_one_line_and_no_gap():
    ax = plots.curves(History(rows(validation=False)))
    assert ([each.get_label() for each in ax.lines], list(ax.collections)) == (["training"], [])


def test_validation_every_second_epoch_is_a_line_through_those_epochs():
    made = rows(6)
    for row in made[::2]:
        row["val_loss"] = None
    assert [x for x, _ in data(plots.curves(History(made)), "validation")] == [2, 4, 6]


def test_infinite_and_undefined_losses_are_left_out():
    made = rows(4)
    made[2]["loss"], made[3]["loss"] = float("inf"), float("nan")
    assert [x for x, _ in data(plots.curves(History(made)), "training")] == [1, 2]


def test_rows_within_epochs_stand_at_their_fraction_of_one():
    made = [{"epoch": -(-s // 8), "step": s, "loss": 1.0 / s} for s in (2, 4, 6, 8, 10, 12, 14, 16)]
    assert [x for x, _ in data(plots.curves(made), "training")] == [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]


def test_one_epoch_is_a_point_inside_the_picture():
    ax = plots.curves(History(rows(1)))
    assert ax.get_xlim()[0] < 1 < ax.get_xlim()[1]
    assert line(ax, "training").get_marker() == "o"
    assert [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]] == [1]


def test_a_history_without_rows_says_so_and_keeps_its_events():
    ax = PICTURES["no epoch"](None)
    assert "no loss was recorded" in [t.get_text() for t in ax.texts]
    assert badges(ax) == {1.0: "1"}


def test_a_loss_that_explodes_gets_a_logarithmic_axis():
    made = rows(4)
    made[3]["loss"] = 1e6
    assert plots.curves(History(made)).get_yscale() == "log"
    assert plots.curves(History(rows(4))).get_yscale() == "linear"


def test_events_are_numbered_by_kind_at_their_place():
    seen = [event("overfitting", 5), event("plateau", 2), event("overfitting", 7), event("slow", 1, step=5)]
    ax = plots.curves(History(rows(), seen))
    assert badges(ax) == {0.5: "1", 2: "2", 5: "3", 7: "3"}
    assert below(ax)[-3:] == ["1  slow: epoch 1", "2  plateau: epoch 2", "3  overfitting: epochs 5, 7"]


def test_kinds_at_one_place_share_a_badge():
    seen = [event(kind, 2) for kind in ("a", "b", "c", "e")] + [event("d", 1)]
    assert badges(plots.curves(History(rows(), seen))) == {1: "1", 2: "2-5"}


def test_levels_differ_without_colour():
    ax = plots.curves(History(rows(), [event(level, i + 1, level) for i, level in enumerate(LEVELS)]))
    styles = [each.get_linestyle() for each in ax.lines if len(each.get_xdata()) == 2]
    assert len(set(styles)) == 3


def test_badges_never_cover_each_other_nor_the_curves():
    ax = plots.curves(History(rows(), MANY))
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    notes = [note for note in ax.texts if hasattr(note, "xy")]
    boxes = [note.get_bbox_patch().get_window_extent(canvas.get_renderer()) for note in notes]
    assert len(boxes) > 15
    assert [(a, b) for a, b in itertools.combinations(boxes, 2) if a.padded(-1).overlaps(b.padded(-1))] == []
    highest = max(ax.transData.transform((x, y))[1] for name in ("training", "validation") for x, y in data(ax, name))
    assert min(box.y0 for box in boxes) > highest


def test_of_too_many_events_the_first_of_a_kind_and_the_worst_keep_their_badges():
    spikes = [event("loss_spike", e, "note") for e in range(1, 1001)]
    seen = [*spikes, event("plateau", 505, "note"), event("explosion", 501, "fail")]
    ax = plots.curves(History(rows(1000), seen))
    assert (badges(ax)[1], badges(ax)[501], badges(ax)[505]) == ("1", "1 2", "1 3")
    assert len(badges(ax)) < 150
    assert below(ax)[-3] == "1  loss spike: 1000 epochs from 1 to 1000"


def test_an_event_after_the_last_row_is_inside_the_picture():
    ax = plots.curves(History(rows(3), [event("divergence", 6, "fail")]))
    assert badges(ax) == {6: "1"}
    assert ax.get_xlim()[1] > 6


def test_what_does_not_fit_below_a_small_picture_is_counted():
    ax = plots.curves(History(rows(), [event(f"a_kind_of_its_own_{i}", i + 1) for i in range(8)]), ax=half_width())
    assert re.fullmatch(r"and \d more", below(ax)[-1])


@pytest.mark.parametrize(
    ("given", "key", "error", "message"),
    [
        (rows(), "los", OptionError, "unknown curve 'los': did you mean 'loss'"),
        (rows(), "val_loss", OptionError, "unknown curve 'val_loss': .*Known: accuracy, loss"),
        ([{"epoch": 1, "loss": 1.0}], "accuracy", OptionError, "unknown observation 'accuracy'"),
        ([{"loss": 1.0}], "loss", DataError, "row 0 has no epoch"),
        ([1.0, 2.0], "loss", DataError, "row 0 has no epoch"),
        ("runs/digits-1", "loss", OptionError, "wants rows, such as the History .*; got 'runs/digits-1'"),
        (None, "loss", OptionError, "wants rows, such as the History .*; got None"),
    ],
)
def test_what_is_no_history_is_refused(given, key, error, message):
    with pytest.raises(error, match=message):
        plots.curves(given, key)


# Learning rates


def test_the_costs_of_all_rates_are_drawn_and_what_is_above_stands_at_the_edge():
    found = rates()
    ax = plots.learning_rate_range(found)
    inside = found["costs"] <= 3.6 * 2.3
    x, y = line(ax, "cost").get_data()
    np.testing.assert_array_equal(x, found["rates"])
    np.testing.assert_array_equal(y[inside], found["costs"][inside])
    assert np.isnan(y[~inside]).all()
    edge = line(ax, "above, inf or NaN")
    np.testing.assert_array_equal(edge.get_xdata(), found["rates"][~inside])
    assert (edge.get_ydata() < ax.get_ylim()[1]).all()


def test_the_bracket_is_shaded_and_suggestion_and_limits_are_marked():
    ax = plots.learning_rate_range(rates())
    span = ax.patches[0].get_bbox()
    assert (span.x0, span.x1) == (1e-3, 0.5)
    assert line(ax, "suggestion 0.03").get_xdata()[0] == 0.03
    assert line(ax, "initial cost 2.3").get_ydata()[0] == 2.3
    assert line(ax, "3 × initial cost").get_ydata()[0] == pytest.approx(6.9)
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "learning rate", "cost (nats)")


@pytest.mark.parametrize(
    ("edges", "span"),
    [
        ({"low": None}, (1e-5, 0.5)),
        ({"high": None}, (1e-3, 10.0)),
        ({"low": None, "high": None, "suggestion": None}, None),
        ({"low": 0.5}, (0.5, 0.5)),
    ],
    ids=["no low", "no high", "nothing", "no width"],
)
def test_edges_that_were_not_found_are_not_drawn(edges, span):
    ax = plots.learning_rate_range(rates(**edges))
    boxes = [patch.get_bbox() for patch in ax.patches]
    assert [(pytest.approx(box.x0), pytest.approx(box.x1)) for box in boxes] == ([] if span is None else [span])
    assert any("suggestion" in text for text in below(ax)) == ("suggestion" not in edges)


def test_an_object_with_attributes_is_as_good_as_a_dict_and_none_is_an_explosion():
    found = rates()
    found["costs"] = [cost if np.isfinite(cost) else None for cost in found["costs"]]
    ax = plots.learning_rate_range(types.SimpleNamespace(**found))
    assert len(line(ax, "above, inf or NaN").get_xdata()) >= 3


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"costs": [1.0]}, ShapeError, r"one cost for each rate is wanted: rates \(25,\), costs \(1,\)"),
        ({"rates": [], "costs": []}, DataError, "positive, finite and ascending"),
        ({"rates": [1.0, 0.1], "costs": [1.0, 1.0]}, DataError, "positive, finite and ascending"),
        ({"rates": [0.0, 0.1], "costs": [1.0, 1.0]}, DataError, "positive, finite and ascending"),
        ({"rates": ["a"], "costs": [1.0]}, DataError, "must be numbers"),
        ({"initial": float("nan")}, DataError, "initial must be the positive cost before training, got nan"),
        ({"low": 0.7}, DataError, r"low <= high, got low 0\.7 and high 0\.5"),
        ({"suggestion": -1}, DataError, "suggestion must be a positive learning rate or None, got -1"),
    ],
)
def test_rates_that_do_not_fit_are_refused(other, error, message):
    with pytest.raises(error, match=message):
        plots.learning_rate_range(rates(**other))


def test_a_missing_entry_is_named():
    with pytest.raises(DataError, match=r"^rates has no 'initial': it holds rates, costs"):
        plots.learning_rate_range({"rates": [1.0], "costs": [1.0]})


# Update ratios


def test_each_tensor_has_a_line_and_none_is_left_out():
    ax = plots.update_ratios(rows(4))
    assert data(ax, "layers.0.weight") == [(e, pytest.approx(1e-2 / e)) for e in (1, 2, 3, 4)]
    assert [x for x, _ in data(ax, "layers.0.bias")] == [2, 3, 4]


def test_the_band_and_its_middle_are_marked_on_a_logarithmic_axis():
    ax = plots.update_ratios(rows())
    box = ax.patches[0].get_bbox()
    assert (box.y0, box.y1, ax.get_yscale()) == (1e-4, 1e-2, "log")
    assert line(ax, "best near 1e-3").get_ydata()[0] == 1e-3
    assert ax.get_ylim()[0] < 1e-4 < 1e-2 < ax.get_ylim()[1]


def test_biases_are_thin_and_dashed_in_the_colour_of_their_weight():
    ax = plots.update_ratios(rows())
    weight, bias = line(ax, "layers.0.weight"), line(ax, "layers.0.bias")
    assert (weight.get_linestyle(), bias.get_linestyle()) == ("-", "--")
    assert bias.get_linewidth() < weight.get_linewidth()
    assert bias.get_color() == weight.get_color() != line(ax, "layers.1.weight").get_color()


def test_a_ratio_of_zero_is_a_triangle_on_the_lower_edge():
    still = [each for each in plots.update_ratios(rows(3)).lines if each.get_marker() == "v"]
    assert [list(each.get_xdata()) for each in still] == [[1, 2, 3]]


def test_of_a_deep_network_all_tensors_are_drawn_and_some_are_named():
    ax = plots.update_ratios(DEEP)
    assert sum(each.get_label().startswith("layers.") for each in ax.lines) == 30
    looks = {(each.get_color(), each.get_marker()) for each in ax.lines if each.get_label().endswith("weight")}
    assert len(looks) == 15
    assert "and 3 more tensors" in below(ax)


def test_ratios_that_are_all_none_are_said_to_be_missing():
    ax = plots.update_ratios([{"epoch": 1, "update_ratio.layers.0.weight": None}])
    assert "no update ratio was recorded" in [t.get_text() for t in ax.texts]


def test_a_history_without_ratios_is_refused():
    with pytest.raises(OptionError, match=r"no update ratios: none of its rows has a key update_ratio\.NAME"):
        plots.update_ratios([{"epoch": 1, "loss": 2.3}])


# Histograms


def ridges(ax: Axes) -> list[Any]:
    return [patch.get_data() for patch in ax.patches]


def test_a_ridge_has_the_shape_of_its_counts():
    ax = plots.histograms([record(1, [1, 4, 2]), record(2, [2, 2, 8])], "activation", "layers.0")
    shapes = [np.asarray(values) - base for values, _, base in ridges(ax)]
    np.testing.assert_allclose(shapes[0] / shapes[0].max(), [0.25, 1, 0.5])
    np.testing.assert_allclose(shapes[1] / shapes[1].max(), [0.25, 0.25, 1])
    np.testing.assert_allclose(ridges(ax)[0][1], np.linspace(-1, 1, 4))


def test_exact_zeros_are_taken_out_of_their_bin_and_written_beside_it():
    ax = plots.histograms([record(1, [10, 90, 0, 0], zeros=0.8, low=-1, high=1)], "activation", "layers.0")
    assert "80 %" in [t.get_text() for t in ax.texts]
    shapes = [np.asarray(values) - base for values, _, base in ridges(ax)]
    # Zero belongs to the third bin, which begins there; the count that numpy gave to its neighbour is left alone.
    assert shapes[0].tolist() == pytest.approx([1.7 / 9, 1.7, 0, 0])
    relu = plots.histograms([record(1, [90, 10], zeros=0.8, low=0.0, high=1.0)], "activation", "layers.0")
    assert (np.asarray(ridges(relu)[0][0])).tolist() == pytest.approx([1.7, 1.7])


def test_at_most_twelve_epochs_are_shown_the_first_and_the_last_among_them():
    ax = plots.histograms([record(e, [1, 2]) for e in range(1, 101)], "activation", "layers.0")
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert (len(labels), labels[0], labels[-1]) == (12, "1", "100")


def test_records_within_epochs_are_named_by_their_fraction():
    made = [record(e, [1, 2], step=s) for e, s in ((1, 5), (1, 10), (2, 15), (2, 20))]
    ax = plots.histograms(made, "activation", "layers.0")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0.5", "1", "1.5", "2"]


def test_one_outlier_does_not_set_the_scale():
    ax = plots.histograms([record(1, [5000, *[0] * 98, 1], low=0.0, high=100.0)], "activation", "layers.0")
    assert ax.get_xlim()[1] < 3


def test_a_dead_layer_is_a_flat_line_and_all_zeros():
    dead = record(1, [0, 100, 0], zeros=1.0, low=0.0, high=0.0)
    ax = plots.histograms([dead], "activation", "layers.0")
    assert "100 %" in [t.get_text() for t in ax.texts]
    assert np.ptp(np.asarray(ridges(ax)[0][0])) == 0


def test_only_the_records_of_that_kind_and_name_are_drawn():
    made = [record(1, [1]), record(2, [1], name="layers.1"), record(3, [1], kind="gradient")]
    ax = plots.histograms(made, "activation", "layers.1")
    assert ([t.get_text() for t in ax.get_yticklabels()], ax.get_title()) == (["2"], "layers.1")


def test_the_records_of_training_are_taken_as_they_are():
    watching, model = Histograms(), MLP([4, 3, 2], generator=0)
    rng = np.random.default_rng(0)
    watching.model, watching.x, watching.y = model, rng.normal(size=(50, 4)).astype("float32"), np.arange(50) % 2
    watching.stride, watching.seen = 1, 0
    for epoch in (1, 2, 3):
        watching.epoch({"epoch": epoch, "step": 5 * epoch})
    records = json.loads(json.dumps(watching.records))
    for kind, name in {(r["kind"], r["name"]) for r in records}:
        assert len(ridges(plots.histograms(records, kind, name))) == 3


@pytest.mark.parametrize(
    ("records", "kind", "name", "error", "message"),
    [
        ([], "activation", "layers.0", DataError, "no histograms were recorded: train.Histograms"),
        ([record(1, [1])], "activations", "layers.0", OptionError, "did you mean 'activation'"),
        ([record(1, [1])], "gradient", "layers.0", OptionError, "hold no gradients"),
        ([record(1, [1])], "activation", "layers.1", OptionError, "did you mean 'layers.0'"),
        ([{"epoch": 1}], "activation", "layers.0", DataError, "record 0 is no histogram: it wants counts, epoch"),
    ],
)
def test_records_that_are_not_there_are_refused(records, kind, name, error, message):
    with pytest.raises(error, match=message):
        plots.histograms(records, kind, name)


# First-layer weights


def test_grey_weights_are_tiles_on_a_scale_symmetric_about_zero():
    w = np.linspace(-1, 2, 24).reshape(4, 6)
    ax = plots.first_layer_weights(w, (2, 2))
    image = ax.images[0]
    low, high = image.get_clim()
    assert low == -high < 0
    whole = image.get_array()
    first = whole[:2, :2]
    np.testing.assert_array_equal(first, w[:, 0].reshape(2, 2))
    assert whole.mask[:, 2].all()
    assert "6 hidden units" in ax.get_xlabel()


def test_each_colour_tile_reaches_from_its_least_weight_to_its_greatest():
    w = np.random.default_rng(0).normal(size=(12, 4)) * [1, 10, 100, 1000]
    whole = plots.first_layer_weights(w, (2, 2, 3)).images[0].get_array()
    tile = w[:, 0].reshape(2, 2, 3)
    np.testing.assert_allclose(whole[:2, :2], (tile - tile.min()) / np.ptp(tile))
    assert (whole.min(), whole.max()) == (0, 1)


def test_no_more_units_than_asked_for():
    ax = plots.first_layer_weights(np.ones((4, 10)), (2, 2), limit=3)
    assert "3 of 10 hidden units" in ax.get_xlabel()
    assert (~np.ma.getmaskarray(ax.images[0].get_array())).sum() == 12


def test_the_weights_of_a_model_and_constant_ones_are_drawn():
    model = MLP([12, 5, 2], generator=0)
    assert plots.first_layer_weights(model.layers[0].weight, (3, 4)).images
    assert np.isfinite(plots.first_layer_weights(np.zeros((12, 2)), (2, 2, 3)).images[0].get_array()).all()


def test_a_last_axis_of_one_channel_is_grey():
    assert plots.first_layer_weights(np.eye(4), (2, 2, 1)).images[0].get_array().ndim == 2


def test_large_tiles_have_wide_gaps():
    assert tiled(np.ones((2, 32, 32)), 2, 0.0).shape == (32, 67)


@pytest.mark.parametrize(
    ("weights", "shape", "options", "error", "message"),
    [
        (np.ones((5, 2)), (2, 2), {}, ShapeError, r"shape \(2, 2\) holds 4 values, these rows hold 5"),
        (np.ones(4), (2, 2), {}, ShapeError, r"are \[in, hidden\], got shape \(4,\)"),
        (np.ones((0, 4)), (2, 2), {}, ShapeError, r"are \[in, hidden\], got shape \(0, 4\)"),
        (np.ones((4, 2)), (4,), {}, DataError, r"must be \(height, width\) or \(height, width, 3\), got \(4,\)"),
        (np.ones((4, 2)), (1, 2, 2), {}, DataError, r"must be \(height, width\) or \(height, width, 3\)"),
        (np.ones((4, 2)), None, {}, DataError, r"no image_shape.*Dataset\(x, y, image_shape=\(height, width\)\)"),
        (np.full((4, 2), np.nan), (2, 2), {}, DataError, "inf or NaN"),
        (np.full((4, 2), "a"), (2, 2), {}, DataError, "finite numbers"),
        (np.ones((4, 2)), (2, 2), {"limit": 0}, OptionError, "limit must be an integer of at least 1, got 0"),
    ],
)
def test_weights_that_are_no_images_are_refused(weights, shape, options, error, message):
    with pytest.raises(error, match=message):
        plots.first_layer_weights(weights, shape, **options)


# Confusion


def test_rows_are_true_classes_and_columns_predicted_ones():
    ax = plots.confusion_matrix([0, 0, 0, 1, 2], [0, 1, 1, 1, 0], ["a", "b", "c"])
    np.testing.assert_allclose(ax.images[0].get_array(), [[1 / 3, 2 / 3, 0], [0, 1, 0], [1, 0, 0]])
    counts = {t.get_position(): t.get_text() for t in ax.texts}
    assert (counts[(1, 0)], counts[(0, 1)], counts[(0, 2)]) == ("2", "0", "1")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]


def test_counts_stand_out_from_their_cells():
    truth = np.repeat([0, 1, 2], 100)
    ax = plots.confusion_matrix(truth, np.r_[np.zeros(150, int), np.ones(90, int), np.full(60, 2)], "abc")
    image = ax.images[0]
    for text in ax.texts:
        column, row = text.get_position()
        contrast = ratio(
            image.cmap(image.norm(image.get_array()[row, column])), matplotlib.colors.to_rgba(text.get_color())
        )
        assert contrast > 4.5


def ratio(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_of_a_hundred_classes_some_are_named_and_no_count_is_written():
    ax = PICTURES["a hundred classes"](None)
    assert list(ax.texts) == []
    assert [t.get_text() for t in ax.get_yticklabels()][:3] == ["class 0", "class 5", "class 10"]


def test_a_class_without_rows_is_white():
    ax = plots.confusion_matrix([0, 1], [1, 1], ["a", "b", "c"])
    assert ax.images[0].get_array()[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("labels", "predicted", "error", "message"),
    [
        ([0, 1], [0, 2], DataError, r"predicted\[1\] is 2, outside the 2 classes that have a name"),
        ([-1, 1], [0, 1], DataError, r"labels\[0\] is -1"),
        ([0, 1], [0], ShapeError, r"one prediction a label is wanted: labels \(2,\), predicted \(1,\)"),
        ([], [], DataError, "labels is empty"),
        ([0.0], [0], DataError, "labels must be class numbers, got dtype float64"),
        ([0], [[0.5, 0.5]], ShapeError, r"predicted must be class numbers \[n\], got shape \(1, 2\); .*argmax"),
    ],
)
def test_labels_that_cannot_be_counted_are_refused(labels, predicted, error, message):
    with pytest.raises(error, match=message):
        plots.confusion_matrix(labels, predicted, ["a", "b"])


# Mistakes


def test_the_mistakes_with_the_least_probability_for_the_truth_come_first():
    made = Dataset(np.arange(16.0).reshape(4, 2, 2), [0, 1, 0, 1], class_names=["cat", "dog"])
    p = [[0.4, 0.6], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]
    ax = plots.worst_mistakes(made, p)
    assert [image.get_array().ravel()[0] for image in ax.images] == [4, 12, 0]
    words = sorted(((t.get_position(), t.get_text()) for t in ax.texts), key=lambda each: each[0])
    assert [text for _, text in words if text.startswith("→")] == ["→ cat (0.90)", "→ cat (0.70)", "→ dog (0.60)"]
    assert [text for _, text in words if not text.startswith("→")] == ["dog", "dog", "cat"]


def test_no_more_mistakes_than_asked_for():
    assert len(plots.worst_mistakes(DATA, guesses(DATA, right=0), count=5).images) == 5


def test_a_small_picture_shows_fewer_mistakes_and_larger_ones():
    ax = plots.worst_mistakes(DATA, guesses(DATA, right=0), ax=half_width())
    assert 1 < len(ax.images) < 12
    FigureCanvasAgg(ax.figure).draw()
    assert min(image.get_window_extent().width / ax.figure.dpi for image in ax.images) > 0.3


def test_a_network_without_mistakes_is_told_so():
    ax = plots.worst_mistakes(DATA, np.eye(4)[DATA.y])
    assert [t.get_text() for t in ax.texts] == ["no mistakes: all 40 rows are right"]


def test_colour_images_keep_their_colours():
    made = digit_like(8, (4, 4, 3))
    image = plots.worst_mistakes(made, guesses(made, right=0), count=1).images[0]
    assert image.get_array().shape == (4, 4, 3)
    assert image.get_array().dtype == np.uint8


@pytest.mark.parametrize(
    ("made", "p", "error", "message"),
    [
        (Dataset(np.ones((2, 4)), [0, 1]), np.eye(2), DataError, "no image_shape.*make the data with Dataset"),
        (Dataset(np.ones((2, 2, 2))), np.eye(2), DataError, "this data has none"),
        (Dataset(np.ones((2, 2, 2)), [0, 1]), np.eye(3), ShapeError, r"\[2, 2\], a row for each row .* got \(3, 3\)"),
        (Dataset(np.ones((2, 2, 2)), [0, 1]), np.ones((2, 3)), ShapeError, "3 columns, the data has 2 class names"),
        (Dataset(np.ones((2, 2, 2)), [0, 1]), [[5.0, -3.0]] * 2, DataError, r"in \[0, 1\]; logits become .*softmax"),
        (Dataset(np.ones((2, 2, 2)), [0, 1]), [[np.nan, 0.5]] * 2, DataError, r"in \[0, 1\]"),
        (np.ones((2, 2, 2)), np.eye(2), OptionError, "data must be a Dataset, got ndarray"),
    ],
)
def test_data_without_images_or_probabilities_is_refused(made, p, error, message):
    with pytest.raises(error, match=message):
        plots.worst_mistakes(made, p)


def test_probabilities_of_a_network_are_taken_as_they_are():
    made = digit_like(20)
    model = MLP([30, 4], generator=0)
    assert plots.worst_mistakes(made, predict_proba(model, made.x)).images


# Dropout


@pytest.mark.parametrize("mode", ["inverted", "vanilla"])
def test_mask_and_result_are_those_of_the_operation(mode):
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    generator = Generator(7, stream=3, draw=11)
    example, mask, result = (
        image.get_array() for image in plots.dropout_mask(x, 0.3, generator=generator, mode=mode).images
    )
    wanted = ops.dropout(Tensor(x.ravel()), 0.3, generator=Generator(7, stream=3, draw=11), mode=mode).numpy()
    np.testing.assert_array_equal(example, x)
    np.testing.assert_array_equal(result, wanted.reshape(5, 6))
    np.testing.assert_array_equal(mask, (wanted != 0).reshape(5, 6))


def test_the_generator_is_left_as_it_is():
    generator = Generator(7)
    plots.dropout_mask(np.ones(8), generator=generator)
    assert generator.draw == 0


def test_example_and_result_share_one_scale():
    images = plots.dropout_mask(np.arange(16.0).reshape(4, 4)).images
    assert images[0].get_clim() == images[2].get_clim()


def test_a_vector_is_drawn_as_strips_or_in_the_shape_given():
    assert plots.dropout_mask(np.ones(12)).images[0].get_array().shape == (1, 12)
    assert plots.dropout_mask(np.ones(12), image_shape=(3, 4)).images[0].get_array().shape == (3, 4)
    assert plots.dropout_mask(np.ones(12, "uint8"), image_shape=(2, 2, 3)).images[0].get_array().shape == (2, 2, 3)


def test_words_say_how_many_were_kept_and_what_becomes_of_them():
    words = [t.get_text() for t in plots.dropout_mask(np.ones(64), 0.75).texts]
    kept = int((ops.dropout(Tensor(np.ones(64)), 0.75, generator=Generator(0)).numpy() != 0).sum())
    assert f"mask: {kept} of 64 kept" in words
    assert "result: kept × 4" in words
    assert "result: kept as they are" in [t.get_text() for t in plots.dropout_mask(np.ones(64), mode="vanilla").texts]


@pytest.mark.parametrize(
    ("example", "options", "error", "message"),
    [
        (np.ones((1, 2, 2, 3)), {}, DataError, r"a vector \[d\] or an image"),
        (np.ones((2, 2, 4)), {}, DataError, "image_shape must be"),
        (np.ones(5), {"image_shape": (2, 2)}, ShapeError, "holds 4 values, these rows hold 5"),
        (np.array([1.0, np.nan]), {}, DataError, "nan"),
        (np.ones(4), {"dropout": 1.0}, OptionError, "dropout must be"),
        (np.ones(4), {"mode": "inverse"}, OptionError, "did you mean 'inverted'"),
        (np.ones(4), {"generator": -1}, OptionError, "seed must be"),
        (np.array(["a"]), {}, TinygradError, "numbers are needed"),
    ],
)
def test_an_example_that_cannot_be_dropped_from_is_refused(example, options, error, message):
    with pytest.raises(error, match=message):
        plots.dropout_mask(example, **options)


# From training to pictures


def test_a_run_is_drawn_as_the_trainer_gives_it():
    data = digit_like(60)
    model = MLP([30, 8, 4], dropout=0.2, generator=0)
    history = Trainer(model, epochs=3, generator=0, reporter=False).fit(data, data)
    assert [x for x, _ in zip(*line(plots.curves(history), "training").get_data(), strict=True)] == [1, 2, 3]
    assert line(plots.update_ratios(history), "layers.1.bias").get_xdata().tolist() == [1, 2, 3]


DOCUMENT = Path(__file__).parents[1] / "docs" / "plots.md"


def test_the_programs_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    drawn = []
    for program in programs:
        exec(compile(program, str(DOCUMENT), "exec"), {})
        drawn.append(len(list(tmp_path.glob("*.png"))))
    assert drawn == [6, 9, 12]


def test_the_documentation_names_every_picture():
    assert [name for name in plots.__all__ if f"`{name}" not in DOCUMENT.read_text()] == []
