"""Training: the loop, its record, and the folder a run leaves behind."""

from tinygrad_cr.train.callbacks import Callback, EarlyStopping, Setup, Steps
from tinygrad_cr.train.evaluate import evaluate, predict_proba
from tinygrad_cr.train.histograms import Histograms
from tinygrad_cr.train.history import Event, History
from tinygrad_cr.train.run import Record, Run, load_parts, load_run, read_run
from tinygrad_cr.train.trainer import Trainer
from tinygrad_cr.train.warmup import warmup

__all__ = [
    "Callback",
    "EarlyStopping",
    "Event",
    "Histograms",
    "History",
    "Record",
    "Run",
    "Setup",
    "Steps",
    "Trainer",
    "evaluate",
    "load_parts",
    "load_run",
    "predict_proba",
    "read_run",
    "warmup",
]
