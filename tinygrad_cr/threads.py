"""How many threads the engine computes with. Results do not depend on it."""

from __future__ import annotations

from typing import Any

from tinygrad_cr import kernels
from tinygrad_cr.errors import OptionError
from tinygrad_cr.options import integer


def get_num_threads() -> int:
    """The number of threads, the caller's included.

    At the start it is the number of cores that the process may use, or the value of the environment variable
    ``TINYGRAD_CR_NUM_THREADS``. Small work is done by the caller alone, whatever the number.

    Raises:
        OptionError: the variable holds something else than a number of threads that this machine has.

    >>> get_num_threads() >= 1
    True
    """
    try:
        return kernels.num_threads()
    except kernels.BackendError as error:
        raise OptionError(str(error)) from None


def set_num_threads(threads: Any) -> None:
    """Compute with so many threads from now on; threads of NumPy and other libraries are left as they are.

    Raises:
        OptionError: not an integer, fewer than 1, or more than the cores that this process may use.

    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    """
    number = integer("the number of threads", threads, least=1)
    try:
        kernels.set_num_threads(number)
    except kernels.BackendError as error:
        raise OptionError(str(error)) from None
