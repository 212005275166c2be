"""The package map, and the engine as compiled code; everything else stands in pyproject.toml.

`kernels/` lies beside `tinygrad_cr/` and installs as `tinygrad_cr.kernels`. The list is written out because
`find_packages` would also publish a stray top-level `kernels`.

Cython compiles the modules that an eager step goes through, just as they are written; Python runs the same files where
there is no C compiler, where $TINYGRAD_CR_PLAIN is set, and in an editable installation, whose files somebody edits.
"""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ENGINE = (
    *("tape", "tensor", "operands", "ops", "optim", "random"),
    *("nn.feed_forward", "nn.flat", "nn.mlp", "nn.module", "data.batches"),
)
# Annotations are for readers: taken for C's types, float would refuse an int. Tensors say themselves what they pickle.
DIRECTIVES = {"language_level": 3, "annotation_typing": False, "auto_pickle": False, "autotestdict": False}
PLAIN = bool(os.environ.get("TINYGRAD_CR_PLAIN") or {"editable_wheel", "develop"} & set(sys.argv))


class BuildEngine(build_ext):
    """Compile all modules; where one does not compile, all are left to Python, with a warning.

    Compiled modules read each other's structures, which are none where Python runs the file.
    """

    def build_extensions(self) -> None:
        """Every module to C, one after the other; then C to machine code, as many at a time as there are cores."""
        self.force, self.parallel = True, self.parallel or os.cpu_count()
        # What an earlier build left may be of other sources, and would be installed beside them.
        for left in Path(self.build_lib).rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
            left.unlink()
        self.problems = {}
        for extension in self.extensions:
            try:
                from Cython.Build import cythonize

                (made,) = cythonize([extension], build_dir=self.build_temp, force=True, compiler_directives=DIRECTIVES)
                extension.sources = made.sources
            except Exception as problem:  # told when its turn comes, where setuptools takes it for a warning
                self.problems[extension.name] = problem
        super().build_extensions()
        built = [Path(self.get_ext_fullpath(extension.name)) for extension in self.extensions]
        if not all(path.is_file() for path in built):
            for path in built:
                path.unlink(missing_ok=True)

    def build_extension(self, extension: Extension) -> None:
        """One module, from C."""
        problem = self.problems.get(extension.name)
        if problem is not None:
            raise CompileError(f"Cython made no C of {extension.name}: {problem}") from problem
        super().build_extension(extension)


setup(
    packages=[
        "tinygrad_cr",
        "tinygrad_cr.cli",
        "tinygrad_cr.data",
        "tinygrad_cr.doctor",
        "tinygrad_cr.ensemble",
        "tinygrad_cr.kernels",
        "tinygrad_cr.kernels.cpu",
        "tinygrad_cr.kernels.gpu",
        "tinygrad_cr.nn",
        "tinygrad_cr.plots",
        "tinygrad_cr.report",
        "tinygrad_cr.schedules",
        "tinygrad_cr.search",
        "tinygrad_cr.train",
        "tinygrad_cr.train.monitors",
    ],
    package_dir={"tinygrad_cr": "tinygrad_cr", "tinygrad_cr.kernels": "kernels"},
    ext_modules=[
        Extension(f"tinygrad_cr.{name}", [f"tinygrad_cr/{name.replace('.', '/')}.py"], optional=True)
        for name in (() if PLAIN else ENGINE)
    ],
    cmdclass={"build_ext": BuildEngine},
)
