"""Helpers as parts of kernels: compiled where they are used, and nowhere else.

numba makes machine code of every function that it compiles, with all that the function calls in it, optimised as for a
call from Python. Nobody calls a helper from Python, and the kernel that it ends up in is optimised as a whole: of a
helper that stands three calls deep, three of four optimisations and all machine code but the kernel's go to waste. That
was a third of the time to compile this folder.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

try:
    # The class of a library is not public; it and what is overridden here are where they are since numba 0.61.
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler import Compiler
except ImportError:
    AS_PARTS: dict[str, Any] = {}
    """Options of numba under which a function becomes a part; empty where numba is not as known."""
else:

    class _Part(JITCodeLibrary):
        """The instructions of a helper and of what it calls, as they were written, for a kernel to take in."""

        # numba enters the address of a function's environment, which boxing and printing take Python objects from,
        # into its machine code. There is none here, and helpers neither box nor print.
        codegen = SimpleNamespace(set_env=lambda name, environment: None)

        def _optimize_final_module(self) -> None:
            pass

        def _finalize_final_module(self) -> None:
            self._finalized = True

        def get_pointer_to_function(self, name: str) -> int:
            """The address of machine code, 0 where there is none."""
            self._ensure_finalized()
            return 0

    class _PartCompiler(Compiler):
        """numba's compiler, writing into a part."""

        def compile_extra(self, func: Any) -> Any:
            self.state.library = _Part(self.state.targetctx.codegen(), func.__qualname__)
            return super().compile_extra(func)

    AS_PARTS = {"pipeline_class": _PartCompiler}
