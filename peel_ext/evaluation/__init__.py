"""Protocols that measure quality per byte, and rivals."""

from peel_ext.evaluation.curves import Evaluation, Measurement, evaluate_run, lead
from peel_ext.evaluation.plan import PROTOCOLS

__all__ = ["PROTOCOLS", "Evaluation", "Measurement", "evaluate_run", "lead"]
