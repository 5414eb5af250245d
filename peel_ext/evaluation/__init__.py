"""Protocols that measure quality per byte, and rivals."""

from peel_ext.evaluation.curves import Evaluation, evaluate_run
from peel_ext.evaluation.measurement import Measurement, lead
from peel_ext.evaluation.plan import BLENDED_PROTOCOLS, PROTOCOLS

__all__ = ["BLENDED_PROTOCOLS", "PROTOCOLS", "Evaluation", "Measurement", "evaluate_run", "lead"]
