"""`tinygrad_cr` from a checkout in which it is not installed.

Only an installation maps ``kernels/`` to ``tinygrad_cr.kernels``. Without one, a folder of links does it; it stands on
PYTHONPATH, so that whatever is started from here finds the package, too.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tinygrad_cr"


def link(folder: Path) -> Path:
    """Make the package in a folder, out of links to this checkout; the folder is what belongs on the path."""
    package = folder / PACKAGE
    package.mkdir()
    for part in (ROOT / PACKAGE).iterdir():
        if part.name not in ("__pycache__", "kernels"):
            (package / part.name).symlink_to(part)
    (package / "kernels").symlink_to(ROOT / "kernels")
    return folder


def usable() -> bool:
    """Whether the package can be imported, and its kernels are its own and not those of another checkout."""
    try:
        package = importlib.import_module(PACKAGE)
        kernels = importlib.import_module(f"{PACKAGE}.kernels")
    except ImportError:
        return False
    home, found = (Path(str(module.__file__)).resolve().parent for module in (package, kernels))
    return found in (home / "kernels", home.parent / "kernels")


def use() -> str:
    """See to it that this process and its children can import the package; where it comes from, in words."""
    _append(str(ROOT))
    if usable():
        home = Path(str(sys.modules[PACKAGE].__file__)).resolve().parent
        return "this checkout" if home == ROOT / PACKAGE else "an installed package"
    for name in [n for n in sys.modules if n == PACKAGE or n.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    folder = link(Path(tempfile.mkdtemp(prefix="tinygrad_cr-")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = _joined([str(folder), *_inherited()])
    importlib.invalidate_caches()
    return "this checkout, not installed"


def _append(folder: str) -> None:
    """Behind everything else, so that an installed package comes before the tree."""
    if folder not in sys.path:
        sys.path.append(folder)
    if folder not in _inherited():
        os.environ["PYTHONPATH"] = _joined([*_inherited(), folder])


def _inherited() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


def _joined(parts: Sequence[str]) -> str:
    return os.pathsep.join(parts)
