"""Settings that all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tinygrad_cr.kernels import available, backend

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


@pytest.fixture(params=available())
def kernels(request):
    """Each backend this machine can run."""
    return backend(request.param)
