"""One page on a training run, on several side by side, on a search or on ensembles: verdicts, pictures, settings."""

from tinygrad_cr.report.ensembles import save_comparison, write_ensemble_report
from tinygrad_cr.report.page import render, write_report
from tinygrad_cr.report.searches import write_search_report

__all__ = ["render", "save_comparison", "write_ensemble_report", "write_report", "write_search_report"]
