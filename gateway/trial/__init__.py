"""Rule chains walked offline, with a clock of their own: for whoever writes rules, and for our own cases."""

from gateway.trial.cases import Case, Mismatch, read_case, run_case, walk
from gateway.trial.house import Trial, TrialClock

__all__ = ["Case", "Mismatch", "Trial", "TrialClock", "read_case", "run_case", "walk"]
