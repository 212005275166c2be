"""Search: many trials, wherever there are processors for them."""

from tinygrad_cr.search.executors import run_tasks
from tinygrad_cr.search.process_pool import process_pool
from tinygrad_cr.search.sharing import SharedData

__all__ = ["SharedData", "process_pool", "run_tasks"]
