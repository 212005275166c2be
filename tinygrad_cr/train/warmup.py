"""`warmup`: everything compiled before anybody waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import unknown_name
from tinygrad_cr.kernels import Compilation, compilation
from tinygrad_cr.nn import MLP
from tinygrad_cr.operands import DROPOUT_MODES
from tinygrad_cr.optim import OPTIMIZERS
from tinygrad_cr.tensor import FLOATS, Tensor
from tinygrad_cr.train.evaluate import predict_proba
from tinygrad_cr.train.trainer import Trainer

SIZES = ([4, 3], [4, 5, 3], [4, 5, 5, 3])
"""A layer on data asks for fewer gradients than one on another layer."""
ROWS = ("uint8", "float32", "float64")
"""The types that rows may have when they are gathered into minibatches."""


def warmup(dtypes: Sequence[str] = ("float32",)) -> Compilation:
    """Compile every kernel of the CPU backend, and keep the result on disk for other processes; what was done.

    It trains and uses tiny networks in every way that the package offers, and calls every operation forward and
    backward, so that there is no list of kernels to keep in step with them.

    Args:
        dtypes: of the networks: "float32", "float64", or both.

    Raises:
        OptionError: another dtype.

    >>> done = warmup(["float32"])
    >>> warmup(["float32"]).compiled
    0
    """
    known = [str(dtype) for dtype in FLOATS]
    for dtype in dtypes:
        if dtype not in known:
            raise unknown_name("dtype", dtype, known)
    before = compilation()
    for dtype in dtypes:
        _train(dtype)
        _call_every_operation(dtype)
    after = compilation()
    return Compilation(
        after.compiled - before.compiled, after.loaded - before.loaded, after.kept - before.kept, after.folders
    )


def _train(dtype: str) -> None:
    """Fit, evaluate and predict: every kind of network, and every optimiser on every kind of rows."""
    for sizes, dropout, mode in product(SIZES, (0.0, 0.5), DROPOUT_MODES):
        _fit(MLP(sizes, dropout=dropout, dropout_mode=mode, generator=0, dtype=dtype))
    for rows, optimizer, reg in product(ROWS, OPTIMIZERS, (0.0, 1e-3)):
        _fit(MLP(SIZES[1], generator=0, dtype=dtype), rows, optimizer, reg)


def _fit(model: MLP, rows: str = "uint8", optimizer: str = "sgd", reg: float = 0.0) -> None:
    # 11 rows, so that the last minibatch is smaller; a second epoch, so that every step is replayed.
    data = Dataset((np.arange(44) % 7).reshape(11, 4).astype(rows), np.arange(11) % 3)
    trainer = Trainer(model, optimizer=optimizer, reg=reg, epochs=2, batch_size=4, generator=0, reporter=False)
    trainer.fit(data, data)
    predict_proba(model, data.x, trainer.standardizer)


def _call_every_operation(dtype: str) -> None:
    """Forward and backward, whatever the table of operations and layers holds; layers also on data."""
    # Only here: the table is long, and importing the package should not wait for it.
    from tinygrad_cr.op_table import CASES, layers

    calls = [(case.fn, case.inputs(dtype=dtype), True) for case in CASES]
    calls += [(layer.to(dtype), [np.ones(shape, dtype)], own) for _, layer, shape in layers() for own in (True, False)]
    for function, inputs, wanted in calls:
        result = function(*(Tensor(value, requires_grad=wanted) for value in inputs))
        if result.requires_grad:
            result.backward(np.ones(result.shape, dtype))
