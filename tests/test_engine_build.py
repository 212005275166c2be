"""The engine as compiled code: which modules setup.py has compiled, and that it is the same engine."""

from __future__ import annotations

import importlib
import inspect
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools

import tinygrad_cr
from tinygrad_cr import Tensor, nn, ops, tape
from tinygrad_cr.nn.feed_forward import FeedForward

ROOT = Path(__file__).resolve().parents[1]
"""Where setup.py lies."""
COMPILED = not str(tape.__file__).endswith(".py")


def set_up(monkeypatch: pytest.MonkeyPatch, *arguments: str, plain: str = "") -> dict[str, Any]:
    """What setup.py tells setuptools for a command."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    monkeypatch.setattr(sys, "argv", ["setup.py", *arguments])
    monkeypatch.setenv("TINYGRAD_CR_PLAIN", plain)
    told["engine"] = runpy.run_path(str(ROOT / "setup.py"))["ENGINE"]
    return told


def test_all_of_the_engine_is_compiled_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = set_up(monkeypatch, "bdist_wheel")["engine"]
    files = [str(importlib.import_module(f"tinygrad_cr.{name}").__file__) for name in engine]
    assert {file.endswith(".py") for file in files} == {not COMPILED}


def test_what_is_compiled_has_its_source_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = set_up(monkeypatch, "bdist_wheel")
    assert [extension.name for extension in told["ext_modules"]] == [f"tinygrad_cr.{name}" for name in told["engine"]]
    assert all(extension.optional for extension in told["ext_modules"])
    sources = [source for extension in told["ext_modules"] for source in extension.sources]
    assert all((ROOT / source).is_file() for source in sources)
    package = Path(tinygrad_cr.__file__).parents[1]
    assert all((package / source).is_file() for source in sources)


@pytest.mark.parametrize(("arguments", "plain"), [(["editable_wheel"], ""), (["develop"], ""), (["bdist_wheel"], "1")])
def test_whoever_edits_the_sources_runs_them(monkeypatch: pytest.MonkeyPatch, arguments: list[str], plain: str) -> None:
    assert set_up(monkeypatch, *arguments, plain=plain)["ext_modules"] == []


def test_signatures_are_those_that_were_written() -> None:
    assert list(inspect.signature(ops.cross_entropy).parameters) == ["logits", "labels", "weights"]


def test_parts_of_the_engine_are_structures_where_they_are_compiled() -> None:
    attributes = [(tape.Node, "vjp"), (Tensor, "data"), (nn.FlatParameters, "values"), (FeedForward, "layers")]
    found = [inspect.isgetsetdescriptor(getattr(part, name, None)) for part, name in attributes]
    assert found == [COMPILED] * 4


LONG = """
import threading
import numpy as np
from tinygrad_cr import Tensor, ops

def build():
    y, w, b = Tensor([[1.0, 1.0]], requires_grad=True), np.eye(2, dtype="float32"), np.zeros(2, "float32")
    for _ in range(20_000):
        y = ops.affine(y, w, b)[:]
    print(y.shape)

threading.stack_size(256 * 1024)
thread = threading.Thread(target=build)
thread.start()
thread.join()
"""


def test_a_long_graph_is_freed_on_a_small_stack() -> None:
    # In a process of its own, which the opposite would end.
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(1, 2)\n"), done.stderr


def test_tensors_have_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Tensor([1.0]).gradient = 1  # type: ignore[attr-defined]


FAILING = """#!/bin/sh
case "$*" in *"{name}.c"*) exit 1;; esac
exec cc "$@"
"""
"""A compiler that fails on one module, or on every one."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("fails", ["no module", "tensor", ""], ids=["compiles", "fails on one", "fails"])
def test_it_is_built_with_a_compiler_and_installed_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str
) -> None:
    pytest.importorskip("Cython")
    engine = set_up(monkeypatch, "bdist_wheel")["engine"]
    cc, tree = tmp_path / "cc", tmp_path / "tree"
    cc.write_text(FAILING.format(name=fails))
    cc.chmod(0o755)
    for name in ("tinygrad_cr", "kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    own = {"CC": str(cc), "CFLAGS": "-O0", "TINYGRAD_CR_PLAIN": ""}
    build = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(build, cwd=tree, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # All modules or none: they read each other's structures.
    compiled = list((tmp_path / "lib").rglob("*.so"))
    assert len(compiled) == (len(engine) if fails == "no module" else 0), done.stderr
    assert (tmp_path / "lib" / "tinygrad_cr" / "tape.py").is_file()
    assert not list((tree / "tinygrad_cr").rglob("*.c"))
