"""The kernels as torch ops: checked, registered, differentiable where that has a meaning."""

from peel_ext.ops._bridge import check_memory as check_memory
from peel_ext.ops._launching import check_device
from peel_ext.ops.gathered_score import gathered_score
from peel_ext.ops.grouped_lookup import grouped_lookup
from peel_ext.ops.topk_blocks import topk_blocks
from peel_ext.ops.update_rows import update_rows

__all__ = ["check_device", "gathered_score", "grouped_lookup", "topk_blocks", "update_rows"]
