"""Hyperparameter search: spaces, random search, grids, coarse to fine, and a ledger that survives whatever happens."""

from tinygrad_cr.search.edges import Edge, crowded_edges
from tinygrad_cr.search.executors import run_tasks
from tinygrad_cr.search.halving import Halving
from tinygrad_cr.search.importance import Importances, importance
from tinygrad_cr.search.optimism import expected_optimism, optimism_bound
from tinygrad_cr.search.optuna import OptunaObjective, optuna_objective
from tinygrad_cr.search.process_pool import process_pool
from tinygrad_cr.search.progress import SearchReporter
from tinygrad_cr.search.result import SearchResult, Stage, read
from tinygrad_cr.search.sharing import SharedData
from tinygrad_cr.search.spaces import Choice, IntUniform, LogUniform, Space, Uniform
from tinygrad_cr.search.strategies import coarse_to_fine, grid_search, random_search, resume
from tinygrad_cr.search.winner import Winner

__all__ = [
    "Choice",
    "Edge",
    "Halving",
    "Importances",
    "IntUniform",
    "LogUniform",
    "OptunaObjective",
    "SearchReporter",
    "SearchResult",
    "SharedData",
    "Space",
    "Stage",
    "Uniform",
    "Winner",
    "coarse_to_fine",
    "crowded_edges",
    "expected_optimism",
    "grid_search",
    "importance",
    "optimism_bound",
    "optuna_objective",
    "process_pool",
    "random_search",
    "read",
    "resume",
    "run_tasks",
]
