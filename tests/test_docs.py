"""What is documented is true: every example runs, and nothing public goes without a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import tinygrad_cr
import tinygrad_cr.kernels

EXEMPT = ("tinygrad_cr.kernels.cpu.", "tinygrad_cr.kernels.gpu.", "tinygrad_cr.kernels.reference")
"""Versions of kernels: what they do is written once, in `kernels/interface.py`."""


def module_names() -> list[str]:
    """Every module of the package but the one that runs the command line when it is imported."""
    names = {"tinygrad_cr", "tinygrad_cr.kernels"}
    # A source checkout keeps the kernels beside the package, an installation inside: look in both places.
    for package in (tinygrad_cr, tinygrad_cr.kernels):
        names |= {info.name for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".")}
    return sorted(names - {"tinygrad_cr.__main__"})


MODULES = module_names()


def own(module: ModuleType, value: Any) -> bool:
    """Whether a class or function was written in this module."""
    return (inspect.isclass(value) or inspect.isroutine(value)) and getattr(value, "__module__", "") == module.__name__


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions, classes, methods and properties whose names do not begin with an underscore."""
    for name, value in vars(module).items():
        if name.startswith("_") or not own(module, value):
            continue
        yield name, value
        if inspect.isclass(value):
            for member, inner in vars(value).items():
                documented = inspect.isroutine(inner) or isinstance(inner, property | classmethod | staticmethod)
                if not member.startswith("_") and documented:
                    yield f"{name}.{member}", getattr(value, member)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_a_docstring(name: str) -> None:
    assert (importlib.import_module(name).__doc__ or "").strip()


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith(EXEMPT)])
def test_everything_public_has_a_docstring(name: str) -> None:
    assert [key for key, value in public(importlib.import_module(name)) if not inspect.getdoc(value)] == []


@pytest.mark.parametrize(
    "name",
    [
        f"tinygrad_cr.{n}"
        for n in (
            *("ops", "optim", "schedules", "options", "compile", "gradcheck", "nn.layers", "nn.mlp"),
            *("doctor.preflight", "doctor.rates", "doctor.verdict"),
        )
    ],
)
def test_everything_that_people_call_has_an_example(name: str) -> None:
    own = vars(importlib.import_module(name)).items()
    called = [
        (key, value) for key, value in own if not key.startswith("_") and getattr(value, "__module__", "") == name
    ]
    without = [key for key, value in called if callable(value) and ">>>" not in (value.__doc__ or "")]
    internal = {"Optimizer", "Program", "capture", "Comparison", "GradcheckReport", "Examination", "Trial", "find"}
    assert set(without) <= internal


def test_the_modules_are_found() -> None:
    assert {"tinygrad_cr.ops", "tinygrad_cr.kernels.cpu.affine", "tinygrad_cr.train.trainer"} <= set(MODULES)
