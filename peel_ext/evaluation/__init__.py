"""Protocols that measure quality per byte, and rivals."""

from peel_ext.evaluation.curves import PROTOCOLS, Evaluation, Measurement, evaluate_run, lead

__all__ = ["PROTOCOLS", "Evaluation", "Measurement", "evaluate_run", "lead"]
