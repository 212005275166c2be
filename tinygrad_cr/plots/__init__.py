"""Pictures of a training run. Each function draws into `ax`, or an Axes of its own, returns it and never shows it.

They need matplotlib: ``pip install 'tinygrad_cr[plot]'``. ``ax.figure.savefig("curves.png")`` writes what was drawn.
"""

from tinygrad_cr.plots.confusion import confusion_matrix
from tinygrad_cr.plots.curves import curves
from tinygrad_cr.plots.dropout import dropout_mask
from tinygrad_cr.plots.mistakes import worst_mistakes
from tinygrad_cr.plots.rates import learning_rate_range
from tinygrad_cr.plots.ratios import update_ratios
from tinygrad_cr.plots.ridges import histograms
from tinygrad_cr.plots.schedules import schedules
from tinygrad_cr.plots.weights import first_layer_weights

__all__ = [
    "confusion_matrix",
    "curves",
    "dropout_mask",
    "first_layer_weights",
    "histograms",
    "learning_rate_range",
    "schedules",
    "update_ratios",
    "worst_mistakes",
]
