"""One pool of threads: any number gives the same bits, and nobody is held up by it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_cr
from calls import Maker, Size, call, training_step
from tinygrad_cr import Tensor, errors, nn, optim
from tinygrad_cr.kernels import backend

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
several_cores = pytest.mark.skipif(CORES < 2, reason="one core")
# Long sums cut in halves, several panels, one panel, more rows than columns, columns that fill no vector.
SHARED = [
    Size(128, 784, 256),
    Size(130, 1100, 300),
    Size(100, 3072, 50),
    Size(700, 130, 650),
    Size(2000, 65, 33),
    Size(257, 1024, 129),
]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = tinygrad_cr.get_num_threads()
    yield
    tinygrad_cr.set_num_threads(before)


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


@several_cores
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("size", SHARED, ids=lambda s: f"{s.rows}x{s.inner}x{s.columns}")
@pytest.mark.parametrize(
    "kernel",
    [
        *("affine", "affine_backward", "affine_relu_dropout", "affine_relu_dropout_backward"),
        *("feed_forward", "feed_forward_backward", "gather", "sgd"),
    ],
)
def test_a_kernel_gives_the_same_bits_on_any_number_of_threads(kernel: str, size: Size, dtype: Any) -> None:
    made = Maker(dtype)
    if kernel == "gather":
        arguments = made.gather(size, np.random.default_rng(1).normal(size=(300, size.columns)).astype(dtype))
    elif kernel == "sgd":
        arguments = made.sgd(size, 0.9, False, True)
    else:
        arguments = getattr(made, kernel)(size)
    found = []
    for number in (1, 2, CORES):
        tinygrad_cr.set_num_threads(number)
        found.append(call("cpu", kernel, arguments))
    for other in found[1:]:
        for name, value in other.items():
            np.testing.assert_array_equal(value, found[0][name], err_msg=name)


def trained(steps: int) -> np.ndarray[Any, Any]:
    """The parameters of a network wide enough for several threads, after some compiled steps."""
    model = nn.MLP([300, 200, 100, 10], dropout=0.5, generator=0)
    optimizer = optim.SGD(model, lr=0.01, momentum=0.9)

    step = tinygrad_cr.compile(training_step(model, optimizer))
    rng = np.random.default_rng(3)
    for _ in range(steps):
        step(Tensor(rng.normal(size=(64, 300)).astype("float32")), rng.integers(0, 10, 64))
    return np.array(model.flat().values)


@several_cores
def test_training_gives_the_same_bits_on_any_number_of_threads() -> None:
    found = []
    for number in (1, CORES):
        tinygrad_cr.set_num_threads(number)
        found.append(trained(5))
    np.testing.assert_array_equal(*found)


def test_python_threads_that_train_at_once_do_not_disturb_each_other() -> None:
    expected = trained(20)
    found: list[Any] = [None] * 4

    def work(i: int) -> None:
        found[i] = trained(20)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(found))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for values in found:
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("number", [0, -1, CORES + 1, 1.5, "2", None, True], ids=repr)
def test_a_number_of_threads_that_the_machine_does_not_have_is_refused(number: Any) -> None:
    before = tinygrad_cr.get_num_threads()
    with pytest.raises(errors.OptionError, match="number of threads must be"):
        tinygrad_cr.set_num_threads(number)
    assert tinygrad_cr.get_num_threads() == before


def test_the_environment_chooses_the_number_of_threads() -> None:
    done = python("import tinygrad_cr; print(tinygrad_cr.get_num_threads())", TINYGRAD_CR_NUM_THREADS="1")
    assert done.stdout.strip() == "1", done.stderr


@pytest.mark.parametrize("value", ["0", str(CORES + 1), "two", "-1", "1.5"])
def test_a_bad_number_in_the_environment_is_told_in_one_line(value: str) -> None:
    command = [sys.executable, "-m", "tinygrad_cr", "gradcheck"]
    environment = os.environ | {"TINYGRAD_CR_NUM_THREADS": value}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: TINYGRAD_CR_NUM_THREADS must be")
    assert len(done.stderr.splitlines()) == 1


PRODUCT = """
import os, numpy as np
from tinygrad_cr.kernels import backend
x, w, out = np.ones((256, 512), "f"), np.ones((512, 512), "f"), np.empty((256, 512), "f")
def product():
    out[:] = 0
    backend("cpu").affine(x, w, np.zeros(512, "f"), out)
    return bool((out == 512).all())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_process_made_by_fork_computes() -> None:
    program = PRODUCT + (
        "import warnings; warnings.simplefilter('ignore')\n"
        "assert product()\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0 if all(product() for _ in range(20)) else 1)\n"
        "print(os.waitpid(child, 0)[1], product())"
    )
    done = python(program)
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_a_program_ends_while_a_thread_of_it_still_computes() -> None:
    program = PRODUCT + (
        "import threading\n"
        "def forever():\n"
        "    while True: product()\n"
        "threading.Thread(target=forever, daemon=True).start()\n"
        "print(product())"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("limit", ["None", "1"])
def test_other_libraries_keep_their_threads(limit: str) -> None:
    program = (
        "import numpy as np, scipy.linalg, threadpoolctl\n"
        f"threadpoolctl.threadpool_limits({limit}, user_api='blas')\n"
        "before = {p['filepath']: p['num_threads'] for p in threadpoolctl.threadpool_info()}\n"
        "import tinygrad_cr\n"
        "from tinygrad_cr import Tensor, nn, ops, optim\n"
        "model = nn.MLP([784, 256, 10], dropout=0.5, generator=0)\n"
        "optimizer = optim.SGD(model, 0.1, 0.9)\n"
        "@tinygrad_cr.compile\n"
        "def step(x, y):\n"
        "    optimizer.zero_grad()\n"
        "    ops.cross_entropy(model(x), y).backward()\n"
        "    optimizer.step()\n"
        "for threads in (tinygrad_cr.get_num_threads(), 1):\n"
        "    tinygrad_cr.set_num_threads(threads)\n"
        "    for _ in range(3): step(Tensor(np.ones((128, 784), 'f')), np.zeros(128, int))\n"
        "after = {p['filepath']: p['num_threads'] for p in threadpoolctl.threadpool_info()}\n"
        "print(before == {path: after[path] for path in before} if before else 'none is known')"
    )
    done = python(program)
    if done.stdout.strip() == "none is known":
        pytest.skip("threadpoolctl knows none of the libraries here")
    assert done.stdout.strip() == "True", done.stderr


def test_an_idle_pool_uses_no_processor_time() -> None:
    program = PRODUCT + (
        "import time\n"
        "assert product()\n"
        "time.sleep(0.1)\n"
        "before = time.process_time()\n"
        "time.sleep(0.5)\n"
        "print(time.process_time() - before < 0.05)"
    )
    assert python(program).stdout.strip() == "True"


def test_small_work_wakes_nobody() -> None:
    """A product of network A leaves the board as it was."""
    threads = pytest.importorskip("tinygrad_cr.kernels.cpu.threads")
    arguments = Maker(np.float32).affine_relu_dropout(Size(32, 64, 32))
    before = int(threads.pool.board[threads.GENERATION])
    backend("cpu").affine_relu_dropout(*arguments.values())
    assert int(threads.pool.board[threads.GENERATION]) == before
