"""Ensembles: several networks that answer as one, and what comes close to them for the price of one.

`train_ensemble` trains independent networks, `snapshot_ensemble` collects several in one run, `weight_average` averages
the parameters of one run, `mc_dropout` the answers of one network under many masks. `comparison` puts all of them into
one table.
"""

from tinygrad_cr.ensemble.averaging import AVERAGES, averaged
from tinygrad_cr.ensemble.calibration import Calibration, calibration
from tinygrad_cr.ensemble.comparison import comparison
from tinygrad_cr.ensemble.disagreement import Disagreement
from tinygrad_cr.ensemble.dropout import MonteCarlo, mc_dropout
from tinygrad_cr.ensemble.ensemble import Ensemble
from tinygrad_cr.ensemble.exact import Expectation, exact_expectation
from tinygrad_cr.ensemble.members import Member
from tinygrad_cr.ensemble.snapshots import Snapshots, snapshot_ensemble
from tinygrad_cr.ensemble.table import Comparison
from tinygrad_cr.ensemble.training import train_ensemble
from tinygrad_cr.ensemble.weights import WeightAverage, weight_average

__all__ = [
    "AVERAGES",
    "Calibration",
    "Comparison",
    "Disagreement",
    "Ensemble",
    "Expectation",
    "Member",
    "MonteCarlo",
    "Snapshots",
    "WeightAverage",
    "averaged",
    "calibration",
    "comparison",
    "exact_expectation",
    "mc_dropout",
    "snapshot_ensemble",
    "train_ensemble",
    "weight_average",
]
