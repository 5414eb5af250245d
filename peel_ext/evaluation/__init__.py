"""Protocols that measure quality per byte, and rivals."""

from peel_ext.evaluation.curves import Evaluation, Measurement, evaluate_run, lead
from peel_ext.evaluation.plan import BLENDED_PROTOCOLS, PROTOCOLS

__all__ = ["BLENDED_PROTOCOLS", "PROTOCOLS", "Evaluation", "Measurement", "evaluate_run", "lead"]
