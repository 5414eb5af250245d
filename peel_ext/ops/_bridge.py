"""The one place of the op layer that touches data pointers.

Every function allocates its output, passes addresses to the native core, and turns what the core
found wrong inside the data into an error that names it. Shapes were checked before; what memory is
read or written as is looked at once more where its address is taken, for there is nothing behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import Parameter

from peel_ext import _core, threads
from peel_ext.ops import _launching
from peel_ext.ops._checks import check_tensor, is_traced

threads.follow(torch.get_num_threads())


# Results are made after these, because no default of torch's has a say in what new_empty makes.
_FLOAT32S = torch.empty(0, dtype=torch.float32, device="cpu")
_INT64S = torch.empty(0, dtype=torch.int64, device="cpu")

#: Reads tensors in native code; None with a torch that does not offer what it calls.
_READER: _core.TensorReader | None = _core.TensorReader.of(
    Tensor, Parameter, _FLOAT32S.new_empty, _INT64S.new_empty
)

#: Bytes that are equal as long as tensors have the memory and layout they had and torch counted no
#: change; None where that takes a longer look. Asked at every lookup under a budget, hence by no way round.
stamp_of: Callable[[tuple[Tensor, ...]], bytes | None] = (
    (lambda tensors: None) if _READER is None else _READER.stamp
)

_FLOAT32 = (torch.float32,)
_FLOAT = (torch.float32, torch.float64)
_INT32 = (torch.int32,)
_INT64 = (torch.int64,)
_INDEX = (torch.int32, torch.int64)


def _address(
    name: str,
    tensor: Tensor | None,
    dtypes: tuple[torch.dtype, ...],
    device: torch.device | None = None,
) -> int:
    """The address of a contiguous tensor of one of the dtypes, or 0 for None.

    Args:
        name: of the argument.
        tensor: of the argument.
        dtypes: those it may have.
        device: where it must be; None: on the CPU.

    Raises:
        TypeError: another dtype.
        ValueError: on another device, not contiguous, without memory, or with the other sign there.
    """
    if tensor is None:
        return 0
    there = tensor.is_cpu if device is None else tensor.device == device
    if tensor.dtype in dtypes and there and tensor.is_contiguous() and not tensor.is_neg():
        address = tensor.data_ptr()
        if address or tensor.numel() == 0:  # there are tensors of zeros that have no memory
            return address
    _refuse(name, tensor, dtypes, device)


def _row_address(
    name: str,
    tensor: Tensor | None,
    dtypes: tuple[torch.dtype, ...],
    device: torch.device | None = None,
) -> int:
    """The same of a matrix of which only the columns must be adjacent."""
    if (
        tensor is not None
        and (tensor.stride(1) == 1 or tensor.shape[1] == 1)
        and tensor.dtype in dtypes
        and (tensor.is_cpu if device is None else tensor.device == device)
        and not tensor.is_neg()
    ):
        address = tensor.data_ptr()
        if address or tensor.numel() == 0:
            return address
    return _address(name, tensor, dtypes, device)


def _refuse(
    name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], device: torch.device | None
) -> NoReturn:
    check_tensor(name, tensor, dtypes, tensor.ndim, anywhere=True)
    where = torch.device("cpu") if device is None else device
    if tensor.device != where:
        expected = "the CPU" if device is None else device
        raise ValueError(f"{name} must be on {expected}, got {tensor.device}")
    if tensor.is_neg():
        raise ValueError(f"{name} must have its values in memory: call its resolve_neg()")
    check_memory(name, tensor)
    raise ValueError(
        f"{name} must be adjacent in memory, got shape {tuple(tensor.shape)} with strides "
        f"{tensor.stride()}"
    )


def check_memory(name: str, value: Tensor) -> None:
    """Raises ValueError for a tensor whose storage was given back: torch reads from address 0 there.

    One that is traced has none to begin with, and is not refused.
    """
    if value.is_cpu and value.numel() and not is_traced(value) and not value.data_ptr():
        raise ValueError(f"{name} must have memory, got shape {tuple(value.shape)} without any")


def _device_of(tensor: Tensor) -> torch.device | None:
    """Where kernels are launched for a tensor; None: on the CPU, where they are called."""
    return tensor.device if _launching.is_device(tensor) else None


def topk_blocks(
    weights: Tensor,
    k: int | None,
    costs: Tensor | None,
    budget_bytes: Tensor | None,
    in_order: bool,
) -> Tensor:
    """Indices int64 [num_groups, k or n] for weights [num_groups, n] with unit column stride."""
    num_groups, n = weights.shape
    width = n if k is None else k
    device = _device_of(weights)
    indices = _INT64S.new_empty(num_groups, width, device=weights.device)
    args = (
        _row_address("weights", weights, _FLOAT, device),
        weights.element_size(),
        num_groups,
        n,
        weights.stride(0),
        width,
        _address("costs", costs, _INT64, device),
        0 if costs is None or costs.shape[0] == 1 else n,
        _address("budget_bytes", budget_bytes, _INT64, device),
        in_order,
        indices.data_ptr(),
    )
    if device is not None:
        _launching.launch("topk_blocks", device, args, n)
        return indices
    nan = _core.topk_blocks(*args)
    if nan >= 0:
        raise ValueError(f"weights[{nan // n}, {nan % n}] is NaN, expected a number")
    return indices


def adjacent_topk(weights: Tensor, k: int | None, in_order: bool) -> Tensor | None:
    """Indices int64 [num_groups, k], or [k] of weights [n], of weights as the CPU's kernel reads them.

    None for others, for what is out of range, and for weights that are NaN: then the longer way says
    what is wrong.

    Args:
        weights: not traced.
        k: how many to select.
        in_order: whether in descending weight.
    """
    if _READER is None or _launching.is_device(weights):
        return None
    indices: Any = _READER.largest(weights, k, in_order)
    return indices


def store_table(
    weight: Tensor | None,
    num_embeddings: int,
    dim: int,
    num_groups: int,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    mask: tuple[list[int], Tensor, Tensor] | None,
    encoded: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = None,
    *,
    like: Tensor,
) -> _core.StoreTable:
    """The native view of a table; valid while its tensors live.

    Args:
        weight: float32 [num_embeddings, dim], or None for a backward, which reads no rows.
        num_embeddings: rows.
        dim: values of a row.
        num_groups: user groups.
        refinement: float32 [num_refined, dim] or None.
        refinement_slot: int32 [num_groups, num_embeddings] or None.
        mask: geometry, item_group and held, where rows are cut into blocks.
        encoded: store, scales, levels and rotation of encoded rows.
        like: a tensor on the device where all of them must be.
    """
    geometry, item_group, held = ([0, 0, 0], None, None) if mask is None else mask
    layout, value_type, block_dim, *layer_bits = geometry
    device = _device_of(like)
    shared = item_group is None or item_group.shape[0] == 1
    store, scales, levels, rotation = (None,) * 4 if encoded is None else encoded
    return _core.StoreTable(
        layout,
        value_type,
        dim,
        block_dim,
        layer_bits,
        num_embeddings,
        num_groups,
        _row_address("weight", weight, _FLOAT32, device),
        0 if weight is None else weight.stride(0),
        _address("refinement", refinement, _FLOAT32, device),
        _address("refinement_slot", refinement_slot, _INT32, device),
        0 if refinement is None else refinement.shape[0],
        _address("blocks.store", store, (torch.uint8,), device),
        0 if store is None else store.shape[1],
        _address("blocks.scales", scales, (torch.float16,), device),
        0 if scales is None else scales.shape[1],
        _address("blocks.item_group", item_group, _INT32, device),
        0 if shared else num_embeddings,
        _address("blocks.held", held, _INT64, device),
        0 if held is None else held.shape[1],
        _address("blocks.levels", levels, _FLOAT32, device),
        _address("blocks.rotation", rotation, _FLOAT32, device),
    )


#: (indices [m], groups [m] of the same dtype or None, the one group of all), contiguous.
_Pairs = tuple[Tensor, Tensor | None, int]


def _raise_bad_pair(
    result: tuple[int, int], pairs: _Pairs, num_embeddings: int, num_groups: int
) -> None:
    status, position = result
    indices, groups, group = pairs
    if status == 1:
        raise IndexError(
            f"indices contain {int(indices[position])} at flat position {position}, "
            f"expected values in [0, {num_embeddings})"
        )
    if status == 2:
        value = group if groups is None else int(groups[position])
        raise IndexError(f"groups contain {value}, expected values in [0, {num_groups})")
    names = {3: "refinement_slot", 4: "blocks.item_group"}
    if status in names:
        raise IndexError(
            f"{names[status]} at flat position {position} leads beyond the rows there are"
        )


def grouped_lookup(
    table: _core.StoreTable, pairs: _Pairs, num_embeddings: int, num_groups: int, dim: int
) -> Tensor:
    """Rows float32 [m, dim] of pairs."""
    indices, groups, group = pairs
    device = _device_of(indices)
    like = _FLOAT32S if device is None else _FLOAT32S.to(device)  # to name the CPU takes its time
    count = indices.shape[0]
    rows = like.new_empty(count, dim)
    args = (
        table,
        count,
        _address("indices", indices, _INDEX, device),
        _address("groups", groups, (indices.dtype,), device),
        group,
        indices.element_size(),
        rows.data_ptr(),
    )
    if device is not None:
        _launching.launch("grouped_lookup", device, args, num_embeddings, num_groups)
        return rows
    result = _core.grouped_lookup(*args)
    if result[0]:
        _raise_bad_pair(result, pairs, num_embeddings, num_groups)
    return rows


def adjacent_lookup(
    table: _core.StoreTable, indices: Tensor, groups: Tensor | int
) -> Tensor | None:
    """Rows float32 [*indices.shape, dim], where indices and groups are as the CPU's kernel reads them.

    None where they must be brought together first, or one is out of range: then the way by pairs
    does that, or says what is wrong. A call of few indices takes as long as its checks, so that
    those are made in one native call.

    Args:
        table: on the CPU.
        indices: any shape.
        groups: one of each index, or the one of all.
    """
    if _READER is None or _launching.is_device(indices):
        return None
    rows: Any = _READER.lookup(table, indices, groups)
    return rows


def dense_lookup(
    weight: Tensor, indices: Tensor, groups: Tensor | int, num_groups: int
) -> Tensor | None:
    """The same of the rows of a weight, which all user groups have; None also for other weights."""
    if _READER is None or _launching.is_device(indices):
        return None
    rows: Any = _READER.lookup_dense(weight, indices, groups, num_groups)
    return rows


def are_below(values: Tensor, like: Tensor, limit: int) -> bool:
    """True if values on the CPU have the shape of ``like`` and are integers in [0, limit).

    False where that takes a longer look.
    """
    return _READER is not None and _READER.are_below(values, like, limit)


def grouped_lookup_backward(
    table: _core.StoreTable,
    pairs: _Pairs,
    grad_rows: Tensor,
    targets: Tensor,
    num_targets: int,
    mean_duplicates: bool,
    num_embeddings: int,
    num_groups: int,
) -> Tensor:
    """Gradient float32 [num_targets, dim] of contiguous grad_rows [m, dim], targets int64 [m]."""
    indices, groups, group = pairs
    device = _device_of(grad_rows)
    grad = _FLOAT32S.new_zeros(num_targets, grad_rows.shape[1], device=grad_rows.device)
    args = (
        table,
        indices.shape[0],
        _address("indices", indices, _INDEX, device),
        _address("groups", groups, (indices.dtype,), device),
        group,
        indices.element_size(),
        _address("gradient", grad_rows, _FLOAT32, device),
        _address("targets", targets, _INT64, device),
        num_targets,
        mean_duplicates,
        grad.data_ptr(),
    )
    if device is not None:
        _launching.launch("grouped_lookup_backward", device, args, num_embeddings, num_groups)
        return grad
    result = _core.grouped_lookup_backward(*args)
    if result[0]:
        raise IndexError(f"pair {result[1]} of the gradient is beyond the table")
    return grad


def adjacent_score(
    users: Tensor, table: Tensor | _core.Pee, n: int
) -> tuple[Tensor, Tensor] | None:
    """Indices int64 and scores float32 [num_users, n], of tensors as the CPU's kernel reads them.

    None for others, for what is out of range, and for users that are not finite: then the longer way
    says what is wrong.

    Args:
        users: not traced.
        table: rows, or what holds them.
        n: rows to return.
    """
    if _READER is None or _launching.is_device(users):
        return None
    best: Any
    if isinstance(table, _core.Pee):
        best = _READER.score_held(table, users, n)
    else:
        best = _READER.score(table, users, n)
    return best


def gathered_score(
    users: Tensor,
    table: Tensor | _core.Pee | _launching.PackedTable,
    n: int,
    candidates: Tensor | None,
    exclude_indptr: Tensor | None,
    exclude: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Indices int64 and scores float32 [num_users, n]; a dense table has unit column stride."""
    num_users, device = users.shape[0], _device_of(users)
    indices = _INT64S.new_empty(num_users, n, device=users.device)
    scores = _FLOAT32S.new_empty(num_users, n, device=users.device)
    into = indices.data_ptr()
    tail: tuple[Any, ...] = (
        _row_address("users", users, _FLOAT32, device),
        num_users,
        users.stride(0),
        _address("exclude_indptr", exclude_indptr, _INT64, device),
        _address("exclude", exclude, _INT64, device),
        n,
        scores.data_ptr(),
        into,
    )
    if not isinstance(table, Tensor):
        if device is None:
            assert isinstance(table, _core.Pee)
            table.score(*tail)
        else:
            assert isinstance(table, _launching.PackedTable)
            _launching.launch("packed_score", device, (table.use(), *tail))
        return indices, scores
    num_candidates = 0 if candidates is None else candidates.shape[0]
    # An empty list has no address, and none at all means every row.
    address = _address("candidates", candidates, _INT64, device)
    if candidates is not None:
        address = address or into or 1
    rows = (
        _row_address("table", table, _FLOAT32, device),
        table.shape[0],
        table.shape[1],
        table.stride(0),
        address,
        num_candidates,
    )
    if device is None:
        _core.gathered_score(*rows, *tail)
    else:
        _launching.launch("gathered_score", device, (*rows, *tail), table.shape[0])
    return indices, scores


def first_out_of_range(values: Tensor, limit: int) -> int:
    """Flat position of the first of contiguous integers outside [0, limit), or -1."""
    address = _address("values", values, _INDEX)
    return _core.first_out_of_range(address, values.element_size(), values.numel(), limit)


def update_rows(
    rule: int,
    weight: Tensor,
    indices: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor | None,
    step_size: float,
    rates: tuple[float, float],
    eps: float,
) -> None:
    """Steps weight [n, dim] of unit column stride in place; indices [m] and state are contiguous."""
    device = _device_of(weight)
    args = (
        rule,
        _row_address("weight", weight, _FLOAT32, device),
        weight.shape[0],
        weight.shape[1],
        weight.stride(0),
        _address("indices", indices, _INT64, device),
        indices.shape[0],
        _row_address("gradients", gradients, _FLOAT32, device),
        gradients.stride(0),
        _address("state[0]", first, _FLOAT32, device),
        _address("state[1]", second, _FLOAT32, device),
        step_size,
        *rates,
        eps,
    )
    if device is not None:
        _launching.launch("update_rows", device, args, weight.shape[0])
        return
    bad = _core.update_rows(*args)
    if bad >= 0:
        raise IndexError(
            f"indices contain {int(indices[bad])} at flat position {bad}, expected values in "
            f"[0, {weight.shape[0]})"
        )
