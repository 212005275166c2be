"""`Tensor`: what it holds, what it refuses, and how it behaves as a Python and as a NumPy object."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinygrad_cr import Tensor, ops
from tinygrad_cr.errors import (
    DeviceError,
    DTypeError,
    IndexingError,
    OptionError,
    ShapeError,
    TinygradError,
)

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]

DTYPES: dict[str, tuple[Any, str]] = {
    "Python floats": ([1.0, 2.0], "float32"),
    "a Python float": (1.0, "float32"),
    "Python integers": ([1, 2], "int64"),
    "Python bools": ([True], "bool"),
    "nothing": ([], "float32"),
    "float64 array": (np.ones(2), "float64"),
    "float32 array": (np.ones(2, np.float32), "float32"),
    "NumPy float64": (np.float64(1), "float64"),
    "uint8 array": (np.ones(2, np.uint8), "uint8"),
    "bool array": (np.ones(2, bool), "bool"),
    "big-endian array": (np.ones(2, ">f4"), "float32"),
    "Tensor": (Tensor(np.ones(2)), "float64"),
}


@pytest.mark.parametrize("name", DTYPES)
def test_the_dtype_of_a_tensor_follows_its_data(name: str) -> None:
    data, dtype = DTYPES[name]
    assert Tensor(data).dtype == dtype


def test_an_array_is_not_copied() -> None:
    array = np.zeros(3, np.float32)
    assert Tensor(array).data is array


def test_the_dtype_asked_for_is_taken() -> None:
    assert Tensor([1, 2], dtype="float64").dtype == np.float64


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize(
    "data", ["3", ["a"], None, [1, None], 1j, [[1.0], [1.0, 2.0]], pytest.param(object(), id="object")], ids=str
)
def test_what_is_no_number_is_refused(data: Any, dtype: Any) -> None:
    with pytest.raises(DTypeError):
        Tensor(data, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "longdouble", "complex64"])
def test_another_float_is_refused_with_the_remedy(dtype: str) -> None:
    with pytest.raises(DTypeError, match=r"float32, float64, integers or bools, got .*; convert with dtype='float32'"):
        Tensor(np.ones(2, dtype))


def test_a_float16_array_converts_when_asked() -> None:
    assert Tensor(np.ones(2, np.float16), dtype="float32").dtype == np.float32


@pytest.mark.parametrize("data", [[1, 2], [True]], ids=["int64", "bool"])
def test_integers_never_require_grad(data: Any) -> None:
    with pytest.raises(DTypeError, match=r"got (int64|bool); convert with Tensor\(data, dtype='float32'"):
        Tensor(data, requires_grad=True)


def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(DeviceError, match=r"'cuda': this machine has cpu, .*reference"):
        Tensor([1.0], device="cuda")


@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "value", [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2)], ids=lambda v: type(v).__name__
)
def test_a_number_takes_the_dtype_of_its_partner(op: Callable[..., Any], dtype: str, value: Any) -> None:
    x = Tensor([1.0, 3.0], dtype=dtype)
    assert {op(x, value).dtype, op(value, x).dtype} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_list_takes_the_dtype_of_its_partner(dtype: str) -> None:
    assert (Tensor([1.0, 3.0], dtype=dtype) * [1.5, 2.5]).dtype == dtype


@pytest.mark.parametrize("integers", [np.int64, np.int32, np.uint8, bool], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integer_arrays_join_floats(dtype: str, integers: Any) -> None:
    assert (Tensor([1.0, 3.0], dtype=dtype) * np.ones(2, integers)).dtype == dtype


@pytest.mark.parametrize("op", [*ARITHMETIC, *COMPARISONS, operator.matmul])
def test_float32_and_float64_do_not_mix(op: Callable[..., Any]) -> None:
    with pytest.raises(DTypeError, match=r"float32 and float64: .*convert one with \.astype\('float32'\)"):
        op(Tensor([1.0]), Tensor(np.ones(1)))


def test_a_float64_array_does_not_mix_with_a_float32_tensor() -> None:
    with pytest.raises(DTypeError, match=r"add of float64 and float32"):
        np.ones(2) + Tensor([1.0, 2.0])


@pytest.mark.parametrize("join", [ops.concatenate, ops.stack])
def test_joining_tensors_does_not_mix_dtypes(join: Callable[..., Any]) -> None:
    with pytest.raises(DTypeError, match="float32 and float64"):
        join([Tensor([1.0]), Tensor(np.ones(1))])


def test_affine_does_not_mix_dtypes() -> None:
    with pytest.raises(DTypeError, match="float32 and float64"):
        ops.affine(Tensor([[1.0]]), Tensor(np.ones((1, 1))), Tensor(np.ones(1)))


def test_tensors_on_two_devices_do_not_mix() -> None:
    with pytest.raises(DeviceError, match=r"'cpu' and 'reference': move one with \.to\('cpu'\)"):
        Tensor([1.0]) + Tensor([1.0], device="reference")


def test_a_result_stays_on_the_device_of_its_operands() -> None:
    assert (2 * Tensor([1.0], device="reference") + np.ones(1, "float32")).device == "reference"


@pytest.mark.parametrize("function", ["exp", "log", "sqrt", "tanh", "sigmoid", "relu", "mean", "var"])
def test_a_function_of_floats_refuses_integers_with_the_remedy(function: str) -> None:
    with pytest.raises(DTypeError, match=rf"{function} wants float32 or float64, got int64; convert with \.astype"):
        getattr(Tensor([1, 2]), function)()


@pytest.mark.parametrize("op", ARITHMETIC)
def test_an_array_on_the_left_reaches_the_tensor(op: Callable[..., Any]) -> None:
    array, x = np.array([[3.0, 2.0]]), Tensor(np.array([1.0, 2.0]), requires_grad=True)
    found = op(array, x)
    assert (type(found), found.requires_grad, found.numpy().tolist()) == (Tensor, True, op(array, x.numpy()).tolist())


def test_an_array_on_the_left_of_matmul_reaches_the_tensor() -> None:
    found = np.ones((2, 3)) @ Tensor(np.ones((3, 4)), requires_grad=True)
    assert (type(found), found.shape, found.requires_grad) == (Tensor, (2, 4), True)


@pytest.mark.parametrize("op", COMPARISONS)
def test_an_array_on_the_left_of_a_comparison_reaches_the_tensor(op: Callable[..., Any]) -> None:
    array, x = np.array([1.0, 2.0, 3.0]), Tensor(np.array([2.0, 2.0, 2.0]))
    found = op(array, x)
    assert (type(found), found.numpy().tolist()) == (Tensor, op(array, x.numpy()).tolist())


@pytest.mark.parametrize("op", ARITHMETIC)
def test_a_number_on_the_left_keeps_its_place(op: Callable[..., Any]) -> None:
    np.testing.assert_allclose(op(3.0, Tensor([2.0, 4.0])).numpy(), op(3.0, np.array([2.0, 4.0])))


@pytest.mark.parametrize("op", [operator.neg, abs])
def test_a_sign_operator_is_that_of_numpy(op: Callable[..., Any]) -> None:
    np.testing.assert_array_equal(op(Tensor([-1.0, 2.0])).numpy(), op(np.array([-1.0, 2.0])))


@pytest.mark.parametrize("op", COMPARISONS)
@pytest.mark.parametrize(
    "other", [2, 2.0, np.full(3, 2.0, "float32"), Tensor([2.0, 2.0, 2.0])], ids=lambda v: type(v).__name__
)
def test_a_comparison_gives_a_tensor_of_bools(op: Callable[..., Any], other: Any) -> None:
    found = op(Tensor([1.0, 2.0, 3.0]), other)
    assert (found.dtype, found.numpy().tolist()) == (bool, op(np.array([1.0, 2.0, 3.0]), 2.0).tolist())


def test_a_comparison_with_what_is_no_number_is_an_error() -> None:
    with pytest.raises(DTypeError):
        _ = Tensor([1.0]) == "a"


def test_a_tensor_is_a_key_by_identity() -> None:
    x, y = Tensor([1.0]), Tensor([1.0])
    table = {x: "x", y: "y"}
    assert (table[x], table[y]) == ("x", "y")


def test_iteration_goes_over_the_first_axis() -> None:
    assert [row.numpy().tolist() for row in Tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]


def test_gradients_flow_through_iteration() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    first, second = x
    (first * 10 + second).backward()
    np.testing.assert_array_equal(x.grad, [10, 1])


def test_the_length_is_that_of_the_first_axis() -> None:
    assert len(Tensor(np.zeros((3, 2)))) == 3


@pytest.mark.parametrize("function", [len, iter, list], ids=lambda f: f.__name__)
def test_a_number_has_no_length(function: Callable[..., Any]) -> None:
    with pytest.raises(ShapeError, match=r"0-d tensor has no length; use item\(\)"):
        function(Tensor(1.0))


@pytest.mark.parametrize(("data", "truth"), [(1.0, True), ([0.0], False), ([[True]], True)], ids=str)
def test_one_element_has_a_truth(data: Any, truth: bool) -> None:
    assert bool(Tensor(data)) is truth


@pytest.mark.parametrize("data", [[], [1.0, 2.0]], ids=str)
def test_more_or_fewer_elements_have_no_truth(data: Any) -> None:
    with pytest.raises(ShapeError, match="is ambiguous"):
        bool(Tensor(data))


@pytest.mark.parametrize("data", [2.5, [2.5], [[2.5]]], ids=str)
def test_item_gives_a_python_float(data: Any) -> None:
    assert type(Tensor(data).item()) is float


@pytest.mark.parametrize("convert", [Tensor.item, float, int], ids=["item", "float", "int"])
@pytest.mark.parametrize("data", [[], [1.0, 2.0]], ids=str)
def test_only_one_element_becomes_a_number(convert: Callable[..., Any], data: Any) -> None:
    with pytest.raises(ShapeError, match="wants exactly one element"):
        convert(Tensor(data))


@pytest.mark.parametrize(("convert", "value"), [(float, 2.75), (int, 2)], ids=["float", "int"])
def test_one_element_converts_to_a_number(convert: Callable[..., Any], value: Any) -> None:
    assert convert(Tensor([2.75])) == value


REPRS = {
    "Tensor([1., 2.], dtype=float32)": Tensor([1.0, 2.0]),
    "Tensor(1., dtype=float64)": Tensor(np.float64(1)),
    "Tensor([1, 2], dtype=int64)": Tensor([1, 2]),
    "Tensor([1.], dtype=float32, requires_grad=True)": Tensor([1.0], requires_grad=True),
    "Tensor([1.], dtype=float32, device='reference')": Tensor([1.0], device="reference"),
}


@pytest.mark.parametrize("text", REPRS)
def test_the_repr_shows_values_dtype_and_what_is_unusual(text: str) -> None:
    assert repr(REPRS[text]) == text


def test_a_tensor_tells_its_shape_ndim_size_and_device() -> None:
    x = Tensor(np.zeros((2, 3)))
    assert (x.shape, x.ndim, x.size, x.device) == ((2, 3), 2, 6, "cpu")


def test_an_operation_records_its_gradient_until_detached() -> None:
    y = Tensor([1.0], requires_grad=True) * 2
    assert (y.requires_grad, y.detach().requires_grad) == (True, False)


def test_a_detached_tensor_shares_its_memory() -> None:
    x = Tensor([1.0], requires_grad=True)
    assert x.detach().data is x.data


def test_nothing_flows_back_through_detach() -> None:
    x = Tensor([3.0], requires_grad=True)
    (x * x.detach()).backward()
    np.testing.assert_array_equal(x.grad, [3.0])


@pytest.mark.parametrize(("source", "target"), [("float32", "float64"), ("float64", "float32")])
def test_the_gradient_passes_astype_and_is_converted_back(source: str, target: str) -> None:
    x = Tensor([1.5, 2.0], dtype=source, requires_grad=True)
    (x.astype(target) * 3).sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (source, [3.0, 3.0])


def test_astype_to_integers_leaves_the_graph() -> None:
    assert not Tensor([1.5], requires_grad=True).astype("int64").requires_grad


def test_astype_to_the_same_dtype_is_the_tensor_itself() -> None:
    x = Tensor([1.0])
    assert x.astype("float32") is x


def test_to_another_device_and_back_keeps_values_and_requires_grad() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True).to("reference")
    assert (x.device, x.requires_grad, x.to("cpu").numpy().tolist()) == ("reference", True, [1.0, 2.0])


def test_to_the_same_device_is_the_tensor_itself() -> None:
    x = Tensor([1.0])
    assert x.to("cpu") is x


def test_numpy_sees_the_memory_of_a_tensor() -> None:
    x = Tensor([1.0, 2.0])
    np.asarray(x)[0] = 7.0
    assert x.data[0] == 7.0


def test_numpy_copies_a_tensor_when_asked() -> None:
    x = Tensor([1.0, 2.0])
    assert not np.shares_memory(np.array(x), x.data)


def test_numpy_converts_a_tensor_to_the_dtype_asked_for() -> None:
    assert np.asarray(Tensor([1.0]), "float64").dtype == np.float64


def test_numpy_takes_a_tensor_over_dlpack_without_a_copy() -> None:
    x = Tensor([1.0, 2.0])
    assert np.shares_memory(np.from_dlpack(x), x.data)


def test_a_numpy_function_takes_a_tensor_as_an_array() -> None:
    np.testing.assert_array_equal(np.concatenate([Tensor([1.0]), Tensor([2.0])]), [1, 2])


def test_an_index_may_be_a_tensor() -> None:
    np.testing.assert_array_equal(Tensor([1.0, 2.0, 3.0])[Tensor([2, 0])].numpy(), [3, 1])


INDICES: dict[str, Any] = {
    "True": True,
    "False": False,
    "NumPy integer": np.int64(1),
    "None": None,
    "list": [0, 0, 1],
    "0-d array": np.array(1),
    "all integers": (1, np.int64(0)),
    "integer and list": (0, [0, 2, 2]),
    "list and slice": ([1, 1], slice(None, None, -1)),
    "lists far apart": ([0, 1], None, [2, 2]),
    "mask of rows": np.array([False, True]),
    "nothing": slice(0, 0),
    "no rows": np.zeros(0, int),
}


@pytest.mark.parametrize("name", INDICES)
def test_the_gradient_of_an_index_lands_where_numpy_would_add(name: str) -> None:
    x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    y = x[INDICES[name]]
    y.backward(np.full(y.shape, 2.0))
    expected = np.zeros((2, 3))
    np.add.at(expected, INDICES[name], 2.0)
    np.testing.assert_array_equal(x.grad, expected)


@pytest.mark.parametrize("index", [2, (0, 3), "a", 1.0, [5], (0, 0, 0), np.ones(3, bool)], ids=str)
def test_an_index_that_does_not_fit_names_the_shape(index: Any) -> None:
    with pytest.raises(IndexingError, match=r"cannot index shape \(2, 3\)"):
        Tensor(np.zeros((2, 3)))[index]


X = Tensor(np.ones((2, 3)))
BAD_SHAPES: dict[str, tuple[Callable[[], Any], str]] = {
    "add": (lambda: X + np.ones(2), r"\(2, 3\) and \(2,\)"),
    "where": (lambda: ops.where(X > 0, X, np.ones(2)), r"\(2, 3\), \(2, 3\) and \(2,\)"),
    "matmul": (lambda: X @ X, r"\(2, 3\) and \(2, 3\)"),
    "matmul of a number": (lambda: ops.matmul(X, np.float64(2)), r"\(2, 3\) and \(\); use \*"),
    "reshape": (lambda: X.reshape(4), r"\(2, 3\) into"),
    "transpose, axis missing": (lambda: X.transpose(0), r"\(2, 3\) once, got \(0,\)"),
    "transpose, axis twice": (lambda: X.transpose(0, -2), r"\(2, 3\) once, got \(0, -2\)"),
    "transpose, axis too high": (lambda: X.transpose(0, 3), r"\(2, 3\) once, got \(0, 3\)"),
    "transpose, axis too low": (lambda: X.transpose(0, -3), r"\(2, 3\) once, got \(0, -3\)"),
    "expand_dims": (lambda: X.expand_dims(4), r"axis 4 does not fit shape \(2, 3\)"),
    "squeeze": (lambda: X.squeeze(0), r"\(2, 3\) are not all of length 1"),
    "concatenate": (lambda: ops.concatenate([X, np.ones((3, 2))]), r"\(2, 3\), \(3, 2\)"),
    "concatenate nothing": (lambda: ops.concatenate([]), "at least one tensor"),
    "stack": (lambda: ops.stack([X, np.ones((3, 2))]), r"\(2, 3\), \(3, 2\)"),
    "sum": (lambda: X.sum(2), r"axis 2 does not fit shape \(2, 3\)"),
    "sum, axis twice": (lambda: X.sum((0, -2)), r"axis \(0, -2\) does not fit shape \(2, 3\)"),
    "max of nothing": (lambda: X[:0].max(), r"no elements: shape \(0, 3\)"),
    "mean of nothing": (lambda: X[:0].mean(0), r"no elements: shape \(0, 3\), axis 0"),
    "var": (lambda: X.var(0, ddof=2), "over 2 elements with ddof=2"),
    "softmax of nothing": (lambda: ops.softmax(X[:, :0]), r"no elements: shape \(2, 0\)"),
    "mse": (lambda: ops.mse(X, X[:1]), r"\(2, 3\) and \(1, 3\)"),
    "affine": (lambda: ops.affine(X, X, np.ones(3)), r"\(2, 3\), \(2, 3\), \(3,\)"),
    "affine, bias": (lambda: ops.affine(X, X.T, np.ones(3)), r"\(2, 3\), \(3, 2\), \(3,\)"),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_shapes_that_do_not_fit_are_named(name: str) -> None:
    call, text = BAD_SHAPES[name]
    with pytest.raises(ShapeError, match=text):
        call()


BAD_OPTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "clip without a bound": (X.clip, "low=None, high=None"),
    "clip upside down": (lambda: X.clip(2, 1), "low=2, high=1"),
    "dropout of 1": (lambda: ops.dropout(X, 1.0), r"in \[0, 1\), got 1.0"),
    "dropout below 0": (lambda: ops.dropout(X, -0.1), r"in \[0, 1\), got -0.1"),
    "dropout of nan": (lambda: ops.dropout(X, float("nan")), r"in \[0, 1\), got nan"),
    "dropout without generator": (lambda: ops.dropout(X, 0.5), r"pass generator=Generator\(seed\)"),
    "dropout mode": (lambda: ops.dropout(X, 0.5, mode="invert"), "did you mean 'inverted'"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_an_option_out_of_range_is_named_with_its_value(name: str) -> None:
    call, text = BAD_OPTIONS[name]
    with pytest.raises(OptionError, match=text):
        call()


def test_a_condition_that_is_no_bool_is_refused_with_the_remedy() -> None:
    with pytest.raises(DTypeError, match="condition of bool, got float64; compare first"):
        ops.where(X, X, X)


@pytest.mark.parametrize("function", [operator.neg, lambda b: b - b], ids=["negative", "subtract"])
def test_arithmetic_that_bools_do_not_have_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(DTypeError, match="bool"):
        function(Tensor([True]))


ERRORS = {ShapeError: ValueError, DTypeError: TypeError, DeviceError: RuntimeError, IndexingError: IndexError}


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_an_error_is_also_the_built_in_one(error: type[Exception]) -> None:
    assert {TinygradError, ERRORS[error]} <= set(error.__mro__)


UNDEFINED: dict[str, tuple[Callable[[Tensor], Tensor], list[float], list[float]]] = {
    "relu at 0": (ops.relu, [0.0, 1.0], [0, 1]),
    "abs at 0": (ops.abs, [0.0, -1.0], [0, -1]),
    "a tie of max": (ops.max, [3.0, 3.0, 1.0], [0.5, 0.5, 0]),
    "a tie of min": (ops.min, [1.0, 3.0, 1.0], [0.5, 0, 0.5]),
    "a tie of maximum": (lambda x: ops.maximum(x, 2.0), [2.0, 3.0], [0.5, 1]),
    "a tie of minimum": (lambda x: ops.minimum(x, 2.0), [2.0, 3.0], [0.5, 0]),
    "clip at its bounds": (lambda x: ops.clip(x, 0.0, 1.0), [0.0, 1.0, 2.0], [1, 1, 0]),
    "power with exponent 0 at 0": (lambda x: x**0.0, [0.0, 2.0], [0, 0]),
    "exponent over a base of 0": (lambda x: Tensor([0.0, 1.0]) ** x, [2.0, 3.0], [0, 0]),
    "exponent over a negative base": (lambda x: Tensor([-2.0]) ** x, [2.0], [0]),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_an_undefined_gradient_is_the_documented_one(name: str) -> None:
    fn, data, expected = UNDEFINED[name]
    x = Tensor(data, requires_grad=True)
    fn(x).sum().backward()
    np.testing.assert_array_equal(x.grad, expected)


@pytest.mark.parametrize("fn", [ops.sqrt, ops.log], ids=["sqrt", "log"])
def test_the_gradient_at_0_is_infinite(fn: Callable[[Tensor], Tensor]) -> None:
    x = Tensor([0.0], requires_grad=True)
    with np.errstate(divide="ignore"):
        fn(x).backward()
    np.testing.assert_array_equal(x.grad, [np.inf])
