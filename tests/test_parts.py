"""A helper is compiled as a part of the kernels that call it."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from tinygrad_cr.kernels.cpu.compiling import helper, reordering_helper, separate_helper

PARTS = [helper, reordering_helper]


def add_up(values: Any) -> Any:
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


def inner_and_outer(decorator: Any) -> Any:
    """A helper that calls a helper, and a function that calls the outer one."""
    inner = decorator(add_up)

    def mean(values: Any) -> Any:
        if values.size == 0:
            raise ValueError("no values")
        return inner(values) / values.size

    outer = decorator(mean)
    return inner, outer, numba.njit(lambda values: 2 * outer(values))


@pytest.mark.parametrize("decorator", [*PARTS, separate_helper])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_kernel_holds_what_its_helpers_do(decorator: Any, dtype: str) -> None:
    _, _, twice = inner_and_outer(decorator)
    assert twice(np.arange(5, dtype=dtype)) == 4
    with pytest.raises(ValueError, match="no values"):
        twice(np.zeros(0, dtype))


@pytest.mark.parametrize("decorator", PARTS)
def test_a_helper_has_no_machine_code_of_its_own(decorator: Any) -> None:
    inner, outer, twice = inner_and_outer(decorator)
    twice(np.zeros(1))
    addresses = []
    for function in (inner, outer, twice):
        (result,) = function.overloads.values()
        addresses.append(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
    assert addresses[:2] == [0, 0]
    assert addresses[2]
