"""Pictures of a training run, a search and an ensemble.

Each function draws into `ax`, or an Axes of its own, returns it and never shows it.

They need matplotlib: ``pip install 'tinygrad_cr[plot]'``. ``ax.figure.savefig("curves.png")`` writes what was drawn.
"""

from tinygrad_cr.plots.confusion import confusion_matrix
from tinygrad_cr.plots.curves import curves
from tinygrad_cr.plots.dropout import dropout_mask
from tinygrad_cr.plots.grid import grid_versus_random
from tinygrad_cr.plots.importance import importance
from tinygrad_cr.plots.mistakes import worst_mistakes
from tinygrad_cr.plots.rates import learning_rate_range
from tinygrad_cr.plots.ratios import update_ratios
from tinygrad_cr.plots.reliability import reliability
from tinygrad_cr.plots.ridges import histograms
from tinygrad_cr.plots.schedules import schedules
from tinygrad_cr.plots.sizes import ensemble_sizes, subset_rows
from tinygrad_cr.plots.trials import trials
from tinygrad_cr.plots.weights import first_layer_weights

__all__ = [
    "confusion_matrix",
    "curves",
    "dropout_mask",
    "ensemble_sizes",
    "first_layer_weights",
    "grid_versus_random",
    "histograms",
    "importance",
    "learning_rate_range",
    "reliability",
    "schedules",
    "subset_rows",
    "trials",
    "update_ratios",
    "worst_mistakes",
]
