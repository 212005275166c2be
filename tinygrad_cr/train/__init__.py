"""Training: the loop, its record, and the folder a run leaves behind."""

from tinygrad_cr.train.evaluate import evaluate, predict_proba
from tinygrad_cr.train.history import History
from tinygrad_cr.train.run import Run, load_run
from tinygrad_cr.train.trainer import Trainer
from tinygrad_cr.train.warmup import warmup

__all__ = ["History", "Run", "Trainer", "evaluate", "load_run", "predict_proba", "warmup"]
