"""update_rows: one optimiser step on the rows that have a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from peel_ext.ops import _bridge
from peel_ext.ops._checks import (
    check_int,
    check_shape,
    check_tensor,
    is_traced,
    rows_with_unit_stride,
)

_RULES = {"rowwise_adagrad": 0, "adam": 1}


def _update(
    weight: Tensor,
    indices: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor | None,
    rule: int,
    step_size: float,
    rate1: float,
    rate2: float,
    eps: float,
) -> None:
    # A saved program calls the registered op with whatever it is given.
    names = {number: name for name, number in _RULES.items()}
    if rule not in names:
        raise ValueError(f"rule must be one of {sorted(names)}, got {rule}")
    state = [first] if second is None else [first, second]
    _check(weight, indices, gradients, state, names[rule])
    rows = indices.to(torch.int64).contiguous()
    steps = rows_with_unit_stride(gradients)
    rates = (rate1, rate2)
    _bridge.update_rows(rule, weight, rows, steps, first, second, step_size, rates, eps)


_update_op = torch.library.custom_op(
    "peel_ext::update_rows",
    _update,
    mutates_args=("weight", "first", "second"),
)


@_update_op.register_fake
def _(weight: Tensor, *_: object) -> None:
    return None


def update_rows(
    weight: Tensor,
    indices: Tensor,
    gradients: Tensor,
    state: Sequence[Tensor],
    *,
    rule: str,
    learning_rate: float,
    eps: float,
    betas: tuple[float, float] = (0.9, 0.999),
    step: int = 1,
) -> None:
    """Steps the touched rows of a table in place, with their optimiser state, and no others.

    Gradients of one row are summed first, in the order they come. With g the sum, per row:

    - ``"rowwise_adagrad"``: ``sum += mean(g^2)``, ``w -= learning_rate * g / (sqrt(sum) + eps)``
      (Duchi et al., 2011, with one accumulator a row as in Mudigere et al., 2021, section 3).
    - ``"adam"``: Adam (Kingma and Ba, 2015) on the touched rows, bias corrected for ``step``, as
      ``torch.optim.SparseAdam``.

    Args:
        weight: float32 [num_embeddings, dim] with adjacent columns, rows that do not overlap.
        indices: int32 or int64 [m], in [0, num_embeddings), in any order, duplicates allowed.
        gradients: float32 [m, dim], not in the memory of weight or state.
        state: rowwise_adagrad: one tensor, sum float32 [num_embeddings]; adam: two, float32
            [num_embeddings, dim], the moments of first and second order.
        rule: ``"rowwise_adagrad"`` or ``"adam"``.
        learning_rate: at least 0.
        eps: at least 0.
        betas: those of adam, in [0, 1).
        step: the number of this step of adam, from 1.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, rule or number.
        IndexError: an index out of range; nothing was written then.
    """
    first, second = _check(weight, indices, gradients, state, rule)
    for name, value in (("learning_rate", learning_rate), ("eps", eps)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {value}")
    step_size = learning_rate
    if rule == "adam":
        check_int("step", step, 1)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        step_size *= math.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)
    number, rates = _RULES[rule], (1 - betas[0], 1 - betas[1])
    rows, gradients = indices.to(torch.int64).contiguous(), gradients.detach()
    if is_traced(weight, indices, gradients, *state):
        _update_op(weight.detach(), rows, gradients, first, second, number, step_size, *rates, eps)
        return
    steps = rows_with_unit_stride(gradients)
    _bridge.update_rows(number, weight.detach(), rows, steps, first, second, step_size, rates, eps)
    for changed in (weight, *state):
        torch.autograd.graph.increment_version(changed)


def _check(
    weight: Tensor, indices: Tensor, gradients: Tensor, state: Sequence[Tensor], rule: str
) -> tuple[Tensor, Tensor | None]:
    """The state, if everything fits and lies apart in memory."""
    if rule not in _RULES:
        raise ValueError(f"rule must be 'rowwise_adagrad' or 'adam', got {rule!r}")
    check_tensor("weight", weight, (torch.float32,), 2)
    rows, dim = weight.shape
    if (dim > 1 and weight.stride(1) != 1) or (rows > 1 and weight.stride(0) < dim):
        raise ValueError(
            "weight must have adjacent columns and rows apart to be stepped in place, got strides "
            f"{weight.stride()}"
        )
    check_tensor("indices", indices, (torch.int32, torch.int64), 1)
    check_tensor("gradients", gradients, (torch.float32,), 2)
    check_shape("gradients", gradients, (len(indices), weight.shape[1]))
    first, second = _check_state(rule, state, weight)
    _check_apart(
        weight=weight, gradients=gradients, **{f"state[{i}]": t for i, t in enumerate(state)}
    )
    return first, second


def _check_apart(**tensors: Tensor) -> None:
    """Raises ValueError where two tensors share memory: one would change under the other."""
    named: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() == 0 or tensor.is_meta:
            continue
        other = named.setdefault(tensor.untyped_storage()._cdata, name)
        if other != name:
            raise ValueError(f"{name} must not share memory with {other}")


def _check_state(
    rule: str, state: Sequence[Tensor], weight: Tensor
) -> tuple[Tensor, Tensor | None]:
    wanted = 1 if rule == "rowwise_adagrad" else 2
    if len(state) != wanted:
        raise ValueError(f"state must hold {wanted} tensors for {rule}, got {len(state)}")
    shape = tuple(weight.shape) if wanted == 2 else (weight.shape[0],)
    for at, tensor in enumerate(state):
        check_tensor(f"state[{at}]", tensor, (torch.float32,), len(shape))
        check_shape(f"state[{at}]", tensor, shape)
        if not tensor.is_contiguous():
            raise ValueError(f"state[{at}] must be contiguous, got strides {tensor.stride()}")
    return state[0], state[1] if wanted == 2 else None
