"""Hyperparameter search: spaces, random search, grids, coarse to fine, and a ledger that survives whatever happens."""

from tinygrad_cr.search.edges import Edge, crowded_edges
from tinygrad_cr.search.halving import Halving
from tinygrad_cr.search.optimism import expected_optimism, optimism_bound
from tinygrad_cr.search.progress import SearchReporter
from tinygrad_cr.search.result import SearchResult, Stage, read
from tinygrad_cr.search.spaces import Choice, IntUniform, LogUniform, Space, Uniform
from tinygrad_cr.search.strategies import coarse_to_fine, grid_search, random_search, resume
from tinygrad_cr.search.winner import Winner

__all__ = [
    "Choice",
    "Edge",
    "Halving",
    "IntUniform",
    "LogUniform",
    "SearchReporter",
    "SearchResult",
    "Space",
    "Stage",
    "Uniform",
    "Winner",
    "coarse_to_fine",
    "crowded_edges",
    "expected_optimism",
    "grid_search",
    "optimism_bound",
    "random_search",
    "read",
    "resume",
]
