"""The kernels in plain torch, with the signatures of :mod:`peel_ext.ops`: what they must equal."""

from peel_ext.reference.gathered_score import gathered_score
from peel_ext.reference.grouped_lookup import grouped_lookup
from peel_ext.reference.topk_blocks import topk_blocks
from peel_ext.reference.update_rows import update_rows

__all__ = ["gathered_score", "grouped_lookup", "topk_blocks", "update_rows"]
