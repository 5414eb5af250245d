"""Protocols that measure quality per byte."""

from peel_ext.evaluation.known_users import BudgetQuality, evaluate_known_users

__all__ = ["BudgetQuality", "evaluate_known_users"]
