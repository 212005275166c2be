"""Settings that all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import HealthCheck, settings

from calls import EVERY
from real_gpu import RealGpu
from simulated_gpu import State, host, install
from tinygrad_cr.kernels import available, backend, set_tf32

# No deadline: the first example of a test may compile a kernel. Examples are found anew in each run unless CI asks
# for the same ones; a failure prints the blob that reproduces it.
settings.register_profile(
    "default",
    deadline=None,
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background lets them ignore Ctrl-C; what they start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=EVERY)
def kernels(request):
    """Each backend; that of the GPU where there is one."""
    return backend(request.param)


@pytest.fixture
def gpu() -> Iterator[State]:
    """A GPU to test on: that of this machine, or where there is none a simulated one, and what that has done."""
    if "gpu" in available():
        set_tf32(False)
        yield cast("State", RealGpu())
        set_tf32(False)
        return
    if problem := host.problem():
        pytest.skip(problem)
    with install() as state:
        yield state


@pytest.fixture
def simulated_gpu(gpu: State) -> State:
    """The same, for a look at what it did: what a real one cannot tell skips the test, see `RealGpu`."""
    return gpu
