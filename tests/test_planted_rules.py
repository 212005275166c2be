"""A checker must be seen to fail: wrong rules, planted, and what `gradcheck` says about each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tinygrad_cr import Tensor, cli, nn, op_table, ops
from tinygrad_cr.errors import DTypeError, GradientError, OptionError, ShapeError, TinygradError
from tinygrad_cr.gradcheck import gradcheck
from tinygrad_cr.op_table import Case
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import record

SQUARE = [np.arange(9.0).reshape(3, 3) / 5, np.eye(3) + 0.3, np.array([0.1, -0.4, 0.2])]
"""x, w and b of one square affine map: a transposed gradient keeps its shape."""


def planted(name: str, value: Callable[..., Any], rule: Callable[..., Any]) -> Callable[..., Tensor]:
    """An operation of its own: `value` of the arrays, and `rule` from g and the arrays to the gradients."""

    def operation(x: Tensor, *more: Tensor) -> Tensor:
        arrays = [t.data for t in (x, *more)]
        return record(value(*arrays), (x, *more), lambda g: rule(g, *arrays))

    operation.__name__ = name
    return operation


def affine(rule: Callable[..., Any]) -> Callable[..., Tensor]:
    """x @ w + b with this rule."""

    def affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return record(x.data @ w.data + b.data, (x, w, b), lambda g: rule(g @ w.data.T, x.data.T @ g, g.sum(axis=0), g))

    return affine


def message(fn: Callable[..., Tensor], inputs: list[Any], **options: Any) -> str:
    with pytest.raises(GradientError) as caught:
        gradcheck(fn, inputs, **options)
    return str(caught.value)


def test_a_correct_rule_passes() -> None:
    assert gradcheck(affine(lambda dx, dw, db, g: (dx, dw, db)), SQUARE).ok


def test_a_rule_scaled_by_1_001_fails() -> None:
    wrong = planted("exponential", np.exp, lambda g, x: (1.001 * g * np.exp(x),))
    assert re.search(r"exponential .*\n.*argument 0 \(x\), index \(0,\): analytic", message(wrong, [[0.5, 1.0]]))


@pytest.mark.parametrize("db", [lambda _: None, np.zeros_like], ids=["None", "zeros"])
def test_a_missing_bias_gradient_fails(db: Callable[[Any], Any]) -> None:
    wrong = affine(lambda dx, dw, right, g: (dx, dw, db(right)))
    assert re.search(r"affine .*\n.*argument 2 \(b\), index \(0,\): analytic 0, ", message(wrong, SQUARE))


def test_a_transposed_weight_gradient_fails() -> None:
    wrong = affine(lambda dx, dw, db, g: (dx, dw.T, db))
    assert re.search(r"affine .*\n.*argument 1 \(w\), index \(0, 1\)", message(wrong, SQUARE))


def test_only_the_argument_with_a_wrong_gradient_is_named() -> None:
    wrong = affine(lambda dx, dw, db, g: (dx, dw.T, db))
    assert re.findall(r"argument \d \((\w+)\)", message(wrong, SQUARE)) == ["w"]


def test_every_argument_with_a_wrong_gradient_is_named() -> None:
    wrong = affine(lambda dx, dw, db, g: (-dx, dw, 2 * db))
    assert re.findall(r"argument \d \((\w+)\)", message(wrong, SQUARE)) == ["x", "b"]


def test_a_gradient_that_ignores_the_dropout_mask_fails() -> None:
    def dropped(x: Tensor) -> Tensor:
        y = ops.dropout(x, 0.5, generator=Generator(4))
        return record(y.data, (x,), lambda g: (2.0 * g,))

    # This mask drops the first element: its value is 0 whatever x is.
    assert re.search(r"dropped .*\n.*argument 0 \(x\), index \(0,\): .*numeric 0,", message(dropped, [np.ones(4)]))


def test_a_fused_layer_that_ignores_the_dropout_mask_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.AffineReLUDropout(5, 7, dropout=0.5, generator=0).to("float64")
    correct = ops.affine_relu_dropout

    def fused(x: Tensor, w: Tensor, b: Tensor, dropout: float, **options: Any) -> Tensor:
        right = correct(x, w, b, dropout, **options)
        active = x.data @ w.data + b.data > 0

        def rule(g: Any) -> Any:
            dz = 2 * g * active
            return dz @ w.data.T, x.data.T @ dz, dz.sum(axis=0)

        return record(right.data, (x, w, b), rule)

    monkeypatch.setattr(ops, "affine_relu_dropout", fused)
    report = op_table.check_layer("fused layer", layer, Generator(0).normal((4, 5)))
    assert {failure.argument for failure in report.failures} == {"0 (x)", "weight", "bias"}


def test_a_wrong_sign_fails() -> None:
    wrong = planted("difference", np.subtract, lambda g, a, b: (g, g))
    assert re.search(r"difference .*\n.*argument 1, index \(0,\)", message(wrong, [[1.0, 2.0], [0.5, 0.25]]))


def test_a_sum_in_place_of_a_mean_fails() -> None:
    wrong = planted("average", np.mean, lambda g, x: (np.broadcast_to(g, x.shape),))
    assert re.search(r"average .*\n.*argument 0 \(x\), index \(0, 0\)", message(wrong, [np.ones((2, 3))]))


@pytest.mark.parametrize("place", [(0, 0), (37, 62), (99, 99)], ids=str)
def test_one_wrong_element_of_10_000_is_found(place: tuple[int, int]) -> None:
    def rule(g: Any, x: Any) -> Any:
        d = 2 * g * x
        d[place] *= 1.01
        return (d,)

    wrong = planted("square", np.square, rule)
    x = np.random.default_rng(0).uniform(1, 2, (100, 100))
    assert f"argument 0 (x), index {place}: " in message(wrong, [x])


@pytest.mark.parametrize("place", [(0, 0), (41, 3)], ids=str)
def test_one_nan_in_a_large_gradient_fails(place: tuple[int, int]) -> None:
    def rule(g: Any, x: Any) -> Any:
        d = 2 * g * x
        d[place] = np.nan
        return (d,)

    assert "square DISAGREES" in message(planted("square", np.square, rule), [np.ones((100, 100))])


def test_a_gradient_missing_where_large_values_hide_it_fails() -> None:
    def rule(g: Any, x: Any) -> Any:
        d = 2 * g * x
        d[0] = 0
        return (d,)

    wrong = planted("square", np.square, rule)
    assert "index (0,): analytic 0, " in message(wrong, [np.array([0.1, 30.0])])


def test_a_gradient_of_a_wrong_shape_is_refused_with_both_shapes() -> None:
    wrong = planted("square", np.square, lambda g, x: ((2 * g * x)[:1],))
    with pytest.raises(ShapeError, match=re.escape("shape (1, 3) arrived at a tensor of shape (2, 3)")):
        gradcheck(wrong, [np.ones((2, 3))])


def test_a_wrong_gradient_of_a_parameter_is_named_by_the_parameter() -> None:
    model = nn.Affine(3, 3, generator=0, dtype="float64")
    wrong = affine(lambda dx, dw, db, g: (dx, dw.T, db))
    found = message(lambda x: wrong(x, model.weight, model.bias), SQUARE[:1], wrt=dict(model.named_parameters()))
    assert re.findall(r"argument (\S+),", found) == ["weight"]


def test_the_name_given_stands_in_the_message() -> None:
    wrong = planted("square", np.square, lambda g, x: (g * x,))
    assert "gradient of my operation DISAGREES" in message(wrong, [[1.0]], name="my operation")


def test_without_raising_the_report_holds_the_failure() -> None:
    wrong = planted("square", np.square, lambda g, x: (g * x,))
    report = gradcheck(wrong, [[1.0, 3.0]], raises=False)
    assert [(f.argument, f.index) for f in report.failures] == [("0 (x)", (0,))]


def test_a_function_that_is_random_is_refused() -> None:
    generator = Generator(0)
    with pytest.raises(OptionError, match="Generator inside the function, with a fixed seed"):
        gradcheck(lambda x: ops.dropout(x, 0.5, generator=generator), [np.ones(50)])


def test_a_float32_parameter_is_refused() -> None:
    model = nn.Affine(2, 2, generator=0)
    with pytest.raises(DTypeError, match=re.escape("weight is float32; convert a module with .to('float64')")):
        gradcheck(model, [np.ones((1, 2))], wrt=dict(model.named_parameters()))


def test_a_function_that_computes_in_float32_is_refused() -> None:
    with pytest.raises(DTypeError, match="returned float32 for float64 inputs"):
        gradcheck(lambda x: x.astype("float32"), [np.ones(2)])


def test_parameters_and_their_gradients_are_left_as_they_were() -> None:
    model = nn.Affine(2, 2, generator=0, dtype="float64")
    model(np.ones((3, 2))).sum().backward()
    before = [(p.data.copy(), p.grad.copy()) for p in model.parameters()]
    gradcheck(model, [np.ones((1, 2))], wrt=dict(model.named_parameters()))
    np.testing.assert_equal([(p.data, p.grad) for p in model.parameters()], before)


KINKS = {
    "relu at 0": (ops.relu, [[0.0, 1.0]], ["0 (x)[0]"]),
    "abs at 0": (ops.abs, [[2.0, 0.0]], ["0 (x)[1]"]),
    "a tie of max": (ops.max, [[1.0, 3.0, 3.0]], ["0 (x)[1]", "0 (x)[2]"]),
    "a tie of maximum": (ops.maximum, [[1.0, 2.0], [1.0, 0.0]], ["0 (a)[0]", "1 (b)[0]"]),
    "sqrt at 0": (ops.sqrt, [[0.0, 4.0]], ["0 (x)[0]"]),
    "log at 0": (ops.log, [[0.0]], ["0 (x)[0]"]),
    "clip at its bound": (lambda x: ops.clip(x, 0.0, 1.0), [[0.5, 1.0]], ["0 (x)[1]"]),
}


@pytest.mark.parametrize("name", KINKS)
def test_an_input_on_a_kink_is_moved_and_the_report_says_so(name: str) -> None:
    fn, inputs, moved = KINKS[name]
    report = gradcheck(fn, inputs)
    assert report.moved == moved


def test_a_large_input_on_a_kink_is_moved_and_the_report_says_so() -> None:
    assert "moved off a kink: 0 (x) (all elements)" in str(gradcheck(ops.relu, [np.zeros((30, 30))]))


def test_nothing_is_moved_where_there_is_no_kink() -> None:
    assert gradcheck(ops.relu, [[-1.0, 1.0]]).moved == []


def test_a_wrong_rule_beside_a_kink_fails() -> None:
    wrong = planted("relu", lambda x: np.maximum(x, 0), lambda g, x: (1.001 * g * (x > 0),))
    assert re.search(r"relu DISAGREES[^$]*moved off a kink: 0 \(x\)\[0\]", message(wrong, [[0.0, 1.0]]))


def broken_table(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = planted("square", np.square, lambda g, x: (g * x,))
    monkeypatch.setattr(
        op_table, "CASES", [Case("exp", "vector", ops.exp, ((3,),)), Case("square", "bad", wrong, ((3,),))]
    )


def test_the_command_exits_with_1_when_a_rule_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_table(monkeypatch)
    assert CliRunner().invoke(cli.app, ["gradcheck"]).exit_code == 1


def test_the_command_names_the_rule_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_table(monkeypatch)
    output = CliRunner().invoke(cli.app, ["gradcheck"]).output
    assert re.search(r"gradient of square DISAGREES.*\n.*argument 0 \(x\), index \(0,\)", output)


def test_the_command_finds_a_rule_broken_in_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = ops._sum_to
    monkeypatch.setattr(ops, "_sum_to", lambda g, shape, xp: 1.001 * correct(g, shape, xp))
    result = CliRunner().invoke(cli.app, ["gradcheck"])
    assert (result.exit_code, "gradient of multiply DISAGREES" in result.output) == (1, True)


def test_the_command_exits_with_0_when_all_rules_are_right() -> None:
    assert CliRunner().invoke(cli.app, ["gradcheck"]).exit_code == 0


def test_an_expected_error_on_the_command_line_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise TinygradError("what was wrong")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
