"""Data sets, where they come from, and how they reach a network in minibatches."""

from tinygrad_cr.data.batches import Batches
from tinygrad_cr.data.dataset import Dataset
from tinygrad_cr.data.download import fetch
from tinygrad_cr.data.formats import read_cifar10_binary, read_idx, read_npz
from tinygrad_cr.data.sources import known_names, load
from tinygrad_cr.data.split import Split, split
from tinygrad_cr.data.standardize import Standardizer
from tinygrad_cr.data.table import Label, read_csv

__all__ = [
    "Batches",
    "Dataset",
    "Label",
    "Split",
    "Standardizer",
    "fetch",
    "known_names",
    "load",
    "read_cifar10_binary",
    "read_csv",
    "read_idx",
    "read_npz",
    "split",
]
