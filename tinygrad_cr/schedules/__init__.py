"""Learning-rate schedules: pure functions from the number of the step, counted from 0, to a learning rate.

Any function of the step will do (`Schedule`). Those that stand here (`Formula`) also know their arguments, so that a
run folder can remember them, and the minima of their cycles, where a snapshot is best taken. They are classes that are
called like functions, as `functools.partial` is. Learning rates may be vectors [M], one for each member of a population.
"""

from tinygrad_cr.schedules.annealing import cosine, cosine_restarts
from tinygrad_cr.schedules.composed import chain, warm_up
from tinygrad_cr.schedules.configuration import SCHEDULES, from_config
from tinygrad_cr.schedules.cycles import cyclic, one_cycle
from tinygrad_cr.schedules.decays import constant, exponential, milestones, step_decay
from tinygrad_cr.schedules.formula import Formula, Rate, Schedule

__all__ = [
    "SCHEDULES",
    "Formula",
    "Rate",
    "Schedule",
    "chain",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "from_config",
    "milestones",
    "one_cycle",
    "step_decay",
    "warm_up",
]
