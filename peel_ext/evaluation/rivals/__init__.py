"""Other ways to make an item table small, under the same count of bytes."""

from peel_ext.evaluation.rivals.rival import HeldRows, Rival
from peel_ext.evaluation.rivals.roster import build_rivals

__all__ = ["HeldRows", "Rival", "build_rivals"]
