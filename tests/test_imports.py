"""The architecture, held by parsing imports: which layer may know which, and what an import brings along."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tinygrad_cr
import tinygrad_cr.kernels

LAYERS: list[set[str]] = [
    {"kernels", "errors"},
    {"options", "device"},
    {"tape", "threads"},
    {"random"},
    {"tensor"},
    {"operands"},
    {"population"},
    {"structure"},
    {"live"},
    {"replay", "device_replay"},
    {"capture"},
    {"ops", "gradcheck", "compile"},
    {"nn", "optim", "schedules", "data"},
    {"op_table", "train"},
    {"search", "ensemble", "doctor", "plots"},
    {"cli", "report", "sklearn", "lecture", "__main__"},
]
"""From the bottom: a module imports from its own layer or from below."""

FOLDERS = {
    "tinygrad_cr": Path(tinygrad_cr.__file__).parent,
    "tinygrad_cr.kernels": Path(tinygrad_cr.kernels.__file__).parent,
}
"""Packages and where they lie: a source checkout keeps the kernels beside the package, an installation inside."""


def sources() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *(p for p in parts if p != "__init__")])
            found[name] = path
    return found


def imports(name: str, path: Path) -> Iterator[tuple[str, bool]]:
    """Dotted names of the modules that a module imports, and whether it does so when it is imported itself.

    What only type checkers see does not count.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from ((f"{module}.{alias.name}", at_once) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_once and not inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def layer(name: str) -> int:
    """The layer that a dotted name of this package belongs to."""
    part = name.split(".")[1]
    ranks = [i for i, names in enumerate(LAYERS) if part in names]
    assert ranks, f"{part} stands in no layer: give it a place in LAYERS"
    return ranks[0]


SOURCES = sources()
MODULES = [name for name in SOURCES if name != "tinygrad_cr"]  # the package itself re-exports everything


def users_of(library: str) -> list[str]:
    """The modules that import a library, anywhere in their code."""
    return [n for n, path in SOURCES.items() if any(i.split(".")[0] == library for i, _ in imports(n, path))]


def imported_after(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after running this code."""
    program = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    own = [i for i, _ in imports(name, SOURCES[name]) if i.startswith("tinygrad_cr.")]
    assert [i for i in own if layer(i) > layer(name)] == []


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("tinygrad_cr.kernels")])
def test_kernels_do_not_know_the_engine(name: str) -> None:
    own = [i for i, _ in imports(name, SOURCES[name]) if i.split(".")[0] == "tinygrad_cr"]
    assert [i for i in own if not i.startswith("tinygrad_cr.kernels.")] == []


def test_kernels_name_each_other_relatively() -> None:
    # By a full name they would not be found where the folder is mapped into the package.
    kernels = [path for name, path in SOURCES.items() if name.startswith("tinygrad_cr.kernels")]
    assert [
        path.name
        for path in kernels
        if "from tinygrad_cr" in path.read_text() or "import tinygrad_cr" in path.read_text()
    ] == []


def test_only_the_cpu_kernels_import_numba() -> None:
    assert [n for n in users_of("numba") if not n.startswith("tinygrad_cr.kernels.cpu.")] == []


def test_only_the_gpu_kernels_import_cupy() -> None:
    assert [n for n in users_of("cupy") if not n.startswith("tinygrad_cr.kernels.gpu")] == []


def test_reference_imports_cupyx_only_where_an_array_asks_for_it() -> None:
    others = [n for n in users_of("cupyx") if not n.startswith("tinygrad_cr.kernels.gpu")]
    at_once = [i for n in others for i, now in imports(n, SOURCES[n]) if now and i.startswith("cupyx")]
    assert (set(others) <= {"tinygrad_cr.kernels.reference"}, at_once) == (True, [])


@pytest.mark.parametrize(
    "extra",
    ["matplotlib", "sklearn", "dask", "distributed", "mpi4py", "optuna", "onnx", "tensorboardX", "torch", "pandas"],
)
def test_an_extra_is_imported_only_inside_the_function_that_needs_it(extra: str) -> None:
    at_once = [n for n in users_of(extra) for i, now in imports(n, SOURCES[n]) if now and i.split(".")[0] == extra]
    assert at_once == []


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that ``import tinygrad_cr`` loads."""
    return imported_after("import tinygrad_cr")


def test_importing_the_package_leaves_no_top_level_kernels(loaded: set[str]) -> None:
    assert [m for m in loaded if m.split(".")[0] == "kernels"] == []


@pytest.mark.parametrize(
    "slow", ["numba", "scipy", "typer", "urllib.request", "matplotlib", "sklearn", "torch", "cupy"]
)
def test_importing_the_package_does_not_import_what_is_slow(loaded: set[str], slow: str) -> None:
    assert [m for m in loaded if m == slow or m.startswith(f"{slow}.")] == []


def test_naming_a_backend_does_not_import_its_compiler() -> None:
    assert "numba" not in imported_after("from tinygrad_cr.kernels import backend; backend('cpu')")


def test_the_kernels_of_the_package_are_one_module_under_either_import() -> None:
    code = "import tinygrad_cr.kernels.reference as a\nfrom tinygrad_cr import kernels\nassert kernels.reference is a"
    assert "tinygrad_cr.kernels.reference" in imported_after(code)


PLANTED: dict[str, tuple[str, Any]] = {
    "import a.b": ("import tinygrad_cr.cli", [("tinygrad_cr.cli", True)]),
    "from a import b": ("from tinygrad_cr import cli", [("tinygrad_cr.cli", True)]),
    "relative": ("from ..cli import main", [("tinygrad_cr.cli.main", True)]),
    "in a function": ("def f():\n    import numba", [("numba", False)]),
    "in a method": ("class A:\n    def f(self):\n        from numba import njit", [("numba.njit", False)]),
    "in a class": ("class A:\n    import numba", [("numba", True)]),
    "behind a condition": ("if True:\n    import numba", [("numba", True)]),
    "for type checkers": ("if TYPE_CHECKING:\n    import numba", []),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_the_parser_sees_every_kind_of_import(kind: str, tmp_path: Path) -> None:
    source, expected = PLANTED[kind]
    path = tmp_path / "tape.py"
    path.write_text(source)
    assert list(imports("tinygrad_cr.nn.tape", path)) == expected
