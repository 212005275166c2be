"""One page on a training run, or on several side by side: verdicts, pictures, configuration, how to make it again."""

from tinygrad_cr.report.page import render, write_report

__all__ = ["render", "write_report"]
