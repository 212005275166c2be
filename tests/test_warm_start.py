"""Compiled kernels outlive their process, and nothing that happens to their files stops a program."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_cr.kernels
from tinygrad_cr import cli, train
from tinygrad_cr.cli import engine
from tinygrad_cr.errors import CacheError, OptionError
from tinygrad_cr.kernels import Compilation

README = Path(__file__).parents[1] / "README.md"

HELPER = """
from .compiling import helper

@helper
def answer():
    return 1.0
"""
KERNEL = """
from .compiling import kernel
from .probe_helper import answer

@kernel
def ask(out):
    out[0] = answer()
"""
ASK = """
import sys
import numpy as np
{prelude}
from tinygrad_cr.kernels import compilation
from tinygrad_cr.kernels.cpu.probe import ask

for dtype in sys.argv[1:] or ["float32"]:
    out = np.zeros(1, dtype)
    ask(out)
print(out[0], *compilation()[:3], *compilation().folders)
"""


class Done(NamedTuple):
    """What a process got from the kernel, and what its kernels cost."""

    answer: float
    compiled: int
    loaded: int
    kept: int
    folders: tuple[str, ...]


COMPILED, LOADED, LOST = (1, 0, 1), (0, 1, 1), (1, 0, 0)
"""Kernels compiled, loaded and kept: a cold process, a warm one, and one that can keep nothing."""


class Installation:
    """A copy of the kernels with a cheap one more, and processes that use it and have their home beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "packages" / "tinygrad_cr"
        self.cpu = self.package / "kernels" / "cpu"
        self.home = root / "home"
        self.home.mkdir(parents=True)
        kernels = Path(tinygrad_cr.kernels.__file__).parent
        shutil.copytree(kernels, self.package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
        # The engine is left out: a process starts in half the time.
        (self.package / "__init__.py").touch()
        (self.cpu / "probe_helper.py").write_text(HELPER)
        (self.cpu / "probe.py").write_text(KERNEL)
        self.environment = {k: v for k, v in os.environ.items() if k not in ("TINYGRAD_CR_CACHE", "NUMBA_CACHE_DIR")}
        # No bytecode: what lies in __pycache__ is compiled kernels.
        self.environment |= {"PYTHONPATH": str(root / "packages"), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment |= {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}

    def start(self, *dtypes: str, prelude: str = "", before: Callable[[], Any] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ASK.format(prelude=prelude), *dtypes],
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )

    def ask(self, *dtypes: str, **how: Any) -> Done:
        return result(self.start(*dtypes, **how))

    def files(self) -> list[Path]:
        return sorted(p for p in self.root.rglob("*") if p.is_file() and "ask-" in p.name)


def result(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    answer, compiled, loaded, kept, *folders = out.split()
    return Done(float(answer), int(compiled), int(loaded), int(kept), tuple(folders))


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def heed_permissions() -> None:
    """For a process about to start: root reads and writes what it likes by a capability; give that up."""
    if os.geteuid() == 0:
        drop, override = 24, 1
        ctypes.CDLL(None).prctl(drop, override, 0, 0, 0)


@pytest.fixture
def read_only(tmp_path: Path) -> Any:
    """Take the write permission from everything in a folder, for processes that start with `heed_permissions`."""
    closed: list[Path] = []

    def close(folder: Path) -> None:
        closed.extend([folder, *(p for p in folder.rglob("*") if p.is_dir())])
        for path in closed:
            path.chmod(0o555)

    close_me = tmp_path / "closed"
    close_me.mkdir()
    close(close_me)
    attempt = [sys.executable, "-c", f"open({str(close_me / 'file')!r}, 'w')"]
    if not subprocess.run(attempt, preexec_fn=heed_permissions, capture_output=True, check=False).returncode:
        pytest.skip("permissions do not bind this user")
    yield close
    for path in closed:
        path.chmod(0o755)


def test_a_second_process_compiles_nothing(installation):
    assert [installation.ask()[1:4], installation.ask()[1:4]] == [COMPILED, LOADED]


def test_compiled_kernels_lie_beside_their_sources(installation):
    installation.ask()
    assert [path.parent for path in installation.files()] == [installation.cpu / "__pycache__"]


@pytest.mark.parametrize("variable", ["TINYGRAD_CR_CACHE", "NUMBA_CACHE_DIR"])
def test_a_variable_says_where_compiled_kernels_lie(installation, variable):
    installation.environment[variable] = str(installation.root / "chosen")
    assert installation.ask()[1:4] == COMPILED
    assert [path.parent.parent for path in installation.files()] == [installation.root / "chosen"]
    assert installation.ask() == (1.0, *LOADED, (str(installation.files()[0].parent),))


@pytest.mark.slow
def test_our_variable_goes_before_numbas(installation):
    installation.environment |= {"TINYGRAD_CR_CACHE": "ours", "NUMBA_CACHE_DIR": "numbas"}
    installation.ask()
    assert [path.parent.parent.name for path in installation.files()] == ["ours"]


@pytest.mark.slow
def test_two_installations_may_share_a_folder(tmp_path):
    both = [Installation(tmp_path / name) for name in ("one", "two")]
    for installation in both:
        installation.environment["TINYGRAD_CR_CACHE"] = str(tmp_path / "shared")
        (installation.cpu / "probe_helper.py").write_text(HELPER.replace("1.0", str(len(installation.root.name))))
        installation.ask()
    assert [installation.ask()[1:4] for installation in both] == [LOADED, LOADED]


# Damage


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    """Put another signature's code under this name."""
    (other,) = [each for each in path.parent.glob("ask-*") if each != path]
    shutil.copy(other, path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": halve,
    "garbage": lambda path: path.write_bytes(os.urandom(5000)),
    "one wrong bit": turn_a_bit,
    "a pickle": lambda path: path.write_bytes(b"cbuiltins\nexec\n(S'raise SystemExit'\ntR."),
    "another signature's": swap,
}
OFTEN = {"empty", "truncated", "another signature's"}
"""What is tried in every run."""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installation, Path]:
    """An installation with two signatures on disk, and the file of the one for float32."""
    installation = Installation(tmp_path_factory.mktemp("warm"))
    installation.ask("float32")
    (path,) = installation.files()
    installation.ask("float64")
    return installation, path


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in DAMAGES]
)
def test_a_damaged_file_is_compiled_anew_and_replaced(warm, damage):
    installation, path = warm
    DAMAGES[damage](path)
    assert [installation.ask()[:4], installation.ask()[:4]] == [(1.0, *COMPILED), (1.0, *LOADED)]


@pytest.mark.slow
def test_a_folder_in_the_place_of_a_file_stops_nothing(installation):
    installation.ask()
    (path,) = installation.files()
    path.unlink()
    path.mkdir()
    # It cannot be replaced: the next folder takes the file.
    assert [installation.ask()[:4], installation.ask()[:4]] == [(1.0, *COMPILED), (1.0, *LOADED)]


# A pickle that raises. (Object code that is none would end the process: for that, files carry a digest.)
RAISES = b"cbuiltins\nexec\n(S'raise MemoryError'\ntR."


def test_a_file_that_is_whole_but_does_not_load_is_compiled_anew_and_replaced(installation):
    prelude = f"from tinygrad_cr.kernels.cpu import compiling\ncompiling.dumps = lambda data: {RAISES!r}"
    assert installation.ask(prelude=prelude)[1:4] == COMPILED
    assert [installation.ask()[:4], installation.ask()[:4]] == [(1.0, *COMPILED), (1.0, *LOADED)]


# Sources


def test_an_edit_in_the_file_of_a_helper_is_noticed(installation):
    installation.ask()
    (installation.cpu / "probe_helper.py").write_text(HELPER.replace("1.0", "2.0"))
    assert [installation.ask()[:4], installation.ask()[:4]] == [(2.0, *COMPILED), (2.0, *LOADED)]


def test_an_edit_of_the_contract_is_noticed(installation):
    installation.ask()
    with (installation.cpu.parent / "interface.py").open("a") as file:
        file.write("\nANOTHER = 1\n")
    assert installation.ask()[1:4] == COMPILED


@pytest.mark.slow
def test_an_edit_replaces_files_instead_of_adding_some(installation):
    for value in ("1.0", "2.0", "3.0"):
        (installation.cpu / "probe_helper.py").write_text(HELPER.replace("1.0", value))
        installation.ask()
    assert len(installation.files()) == 1


def test_kernels_that_differ_in_what_they_close_over_are_told_apart(installation):
    (installation.cpu / "probe.py").write_text("""
from .compiling import kernel

def make(value):
    @kernel
    def ask(out):
        out[0] = out[0] + value
    return ask

two, three = make(2.0), make(3.0)

def ask(out):
    two(out)
    three(out)
""")
    assert [installation.ask()[:4], installation.ask()[:4]] == [(5.0, 2, 0, 2), (5.0, 0, 2, 2)]


# Where nothing can be written


def test_a_read_only_installation_keeps_kernels_in_the_users_cache(installation, read_only):
    read_only(installation.package)
    found = [installation.ask(before=heed_permissions) for _ in range(2)]
    assert [done[1:4] for done in found] == [COMPILED, LOADED]
    assert [path.parents[2] for path in installation.files()] == [installation.home / "cache"]


def test_a_read_only_installation_that_was_warmed_up_stays_warm(installation, read_only):
    installation.ask()
    read_only(installation.root)
    assert installation.ask(before=heed_permissions)[1:4] == LOADED


@pytest.mark.slow
def test_a_damaged_file_in_a_read_only_installation_is_replaced_in_the_users_cache(installation, read_only):
    installation.ask()
    halve(installation.files()[0])
    read_only(installation.package)
    assert [installation.ask(before=heed_permissions)[1:4] for _ in range(2)] == [COMPILED, LOADED]


def test_where_nothing_can_be_written_kernels_work_and_are_compiled_each_time(installation, read_only):
    read_only(installation.root)
    assert [installation.ask(before=heed_permissions) for _ in range(2)] == [(1.0, *LOST, ())] * 2


def test_a_cache_folder_that_is_a_file_stops_nothing(installation):
    file = installation.root / "file"
    file.touch()
    installation.environment["TINYGRAD_CR_CACHE"] = str(file)
    assert installation.ask() == (1.0, *LOST, ())


def test_a_full_disk_stops_nothing_and_leaves_no_pieces(installation):
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    assert installation.ask(before=no_room) == (1.0, *LOST, ())
    assert installation.files() == []


@pytest.mark.slow
def test_numbas_own_cache_serves_where_its_insides_have_moved(installation):
    prelude = "import numba.misc.appdirs\ndel numba.misc.appdirs.AppDirs"
    assert [installation.ask(prelude=prelude)[1:4] for _ in range(2)] == [COMPILED, LOADED]


@pytest.mark.slow
def test_helpers_are_compiled_by_themselves_where_the_insides_of_numba_have_moved(installation):
    prelude = "import numba.core.codegen\ndel numba.core.codegen.JITCodeLibrary\n"
    prelude += "from tinygrad_cr.kernels.cpu.parts import AS_PARTS\nassert AS_PARTS == {}"
    assert [installation.ask(prelude=prelude)[1:4] for _ in range(2)] == [COMPILED, LOADED]


# Several at once


def test_processes_that_start_cold_at_once_leave_a_warm_cache(installation):
    dtypes = ["float32", "float64", "int64", "int32"]
    processes = [installation.start(*dtypes[i:], *dtypes[:i]) for i in range(4)]
    assert [done.answer for done in map(result, processes)] == [1.0] * 4
    assert installation.ask(*dtypes)[1:4] == (0, 4, 4)
    assert len(installation.files()) == 4


# Warming up


USE = """
import sys
from numba.core.event import install_recorder

with install_recorder("numba:compile") as compiled:
    from tinygrad_cr import cli
    for line in sys.argv[1:]:
        sys.argv = ["tinygrad-cr", *line.split()]
        try:
            cli.main()
        except SystemExit as done:
            assert not done.code, line
    {programs}
print([event.data["dispatcher"].py_func.__name__ for _, event in compiled.buffer])
"""
COMMANDS = [
    "train --epochs 1 --out plain",
    "train --epochs 1 --out deep --hidden 8,8 --optimizer adam --reg 1e-3 --dropout-mode vanilla",
    "train --epochs 1 --out shallow --hidden= --optimizer adamw --data rows.npz",
    "predict --model plain --data digits --out classes.csv",
]


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"TINYGRAD_CR_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a warm cache in it, and what the command that warmed it printed."""
    folder = tmp_path_factory.mktemp("warmed")
    return folder, run(folder, "-m", "tinygrad_cr", "warmup")


@pytest.mark.slow
def test_warmup_says_what_it_compiled_and_where_that_lies(warmed):
    folder, printed = warmed
    first, last = printed.splitlines()
    assert first.startswith("float32: ")
    assert " kernels compiled, 0 loaded, " in first
    assert Path(last.removeprefix("kept in ")).parent == folder / "cache"


@pytest.mark.slow
def test_a_second_warmup_compiles_nothing_and_says_so(warmed):
    assert run(warmed[0], "-m", "tinygrad_cr", "warmup").startswith("float32: nothing to compile, ")


@pytest.mark.slow
def test_after_a_warmup_training_and_prediction_compile_nothing(warmed):
    np.savez(warmed[0] / "rows.npz", x=np.arange(240.0).reshape(60, 4) % 7, y=np.arange(60) % 3)
    assert run(warmed[0], "-c", USE.format(programs=""), *COMMANDS).splitlines()[-1] == "[]"


@pytest.mark.slow
def test_after_a_warmup_the_programs_of_the_readme_compile_nothing(warmed):
    programs = (
        f"import re; text = open({str(README)!r}).read()\n"
        "    for program in re.findall(r'```python\\n(.*?)```', text, re.DOTALL):\n"
        "        exec(compile(program, 'README', 'exec'), {})"
    )
    assert run(warmed[0], "-c", USE.format(programs=programs)).splitlines()[-1] == "[]"


@pytest.mark.slow
def test_after_a_warmup_eager_steps_compile_nothing(warmed):
    programs = """
    import numpy as np
    from tinygrad_cr import Tensor, nn, ops, optim
    for sizes in ([4, 3], [4, 5, 3]):
        model = nn.MLP(sizes, dropout=0.5, generator=0)
        optimizer = optim.SGD(model, lr=0.1, momentum=0.9)
        for wanted in (False, True):
            x = Tensor(np.ones((2, 4), "float32"), requires_grad=wanted)
            ops.cross_entropy(model(x), [0, 1]).backward()
            optimizer.step()"""
    assert run(warmed[0], "-c", USE.format(programs=programs)).splitlines()[-1] == "[]"


@pytest.mark.slow
def test_warmup_reaches_every_kernel(warmed):
    program = (
        "from tinygrad_cr import train; train.warmup()\n"
        "from tinygrad_cr.kernels.cpu import compiling\n"
        "print([kernel.py_func.__name__ for kernel in compiling._kernels if not kernel.signatures])"
    )
    assert run(warmed[0], "-c", program) == "[]\n"


@pytest.mark.slow
def test_a_warmup_for_both_dtypes_covers_networks_of_float64(warmed):
    run(warmed[0], "-m", "tinygrad_cr", "warmup", "--dtype", "both")
    programs = """
    from tinygrad_cr import data, nn, train
    parts = data.split(data.load("digits"), seed=0)
    model = nn.MLP([64, 8, 10], dropout=0.5, generator=0, dtype="float64")
    trainer = train.Trainer(model, epochs=2, reg=1e-3)
    trainer.fit(parts.train, parts.validation)
    train.predict_proba(model, parts.test.x, trainer.standardizer)"""
    assert run(warmed[0], "-c", USE.format(programs=programs)).splitlines()[-1] == "[]"


def test_warmup_where_nothing_can_be_kept_is_an_error(monkeypatch):
    monkeypatch.setattr(engine, "compile_all", lambda dtypes: Compilation(compiled=3, loaded=0, kept=0, folders=()))
    with pytest.raises(CacheError, match="TINYGRAD_CR_CACHE"):
        cli.warmup("float32")


def test_warmup_wants_a_dtype_of_networks():
    with pytest.raises(OptionError, match="float16"):
        train.warmup(["float16"])
