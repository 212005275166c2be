"""The package map, and the engine as compiled code; everything else stands in pyproject.toml.

`kernels/` lies beside `tinygrad_cr/` and installs as `tinygrad_cr.kernels`. The list is written out because
`find_packages` would also publish a stray top-level `kernels`.

Cython compiles the modules that an eager step goes through, just as they are written; Python runs the same files where
there is no C compiler, where $TINYGRAD_CR_PLAIN is set, and in an editable installation, whose files somebody edits.
"""

import contextlib
import os
import sys

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
    """Compile what compiles; a module that does not is left to Python, with a warning."""

    def build_extensions(self) -> None:
        """Every module to C, beside everything else that is built; then as many at a time as there are cores."""
        self.parallel = self.parallel or os.cpu_count()
        for extension in self.extensions:
            with contextlib.suppress(Exception):  # what is still no C is told below
                from Cython.Build import cythonize

                (made,) = cythonize([extension], build_dir=self.build_temp, compiler_directives=DIRECTIVES)
                extension.sources = made.sources
        super().build_extensions()

    def build_extension(self, extension: Extension) -> None:
        """One module, from C."""
        if any(source.endswith(".py") for source in extension.sources):
            raise CompileError(f"{extension.name} was not made C: is there a Cython, and does it take the module?")
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
