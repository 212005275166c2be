"""The training doctor: what is wrong with a network, its data or its options, before and while it is trained."""

from tinygrad_cr.doctor.preflight import preflight
from tinygrad_cr.doctor.rates import RateRange, learning_rate_range
from tinygrad_cr.doctor.verdict import Check, Report, Status

__all__ = ["Check", "RateRange", "Report", "Status", "learning_rate_range", "preflight"]
