"""The interactions of one user group, as what a softmax over rows should say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from peel_ext.train.placement import limit_chunk
from peel_ext.train.population import Members


class GroupProblem:
    """The interactions of a group's users with some rows, as a target of a softmax over those rows.

    The scores of all users with all rows are never in memory at once, forward or backward.

    Args:
        users: [num_users, dim], those with at least one such interaction; where they are, everything
            is computed.
        indptr: int64 [num_users + 1] on the CPU, where each user's targets begin: CSR form.
        targets: int64 [indptr[-1]], rows; a user's share its loss equally.
        weights: [num_users], the root of the number of a user's targets, of sum 1.
        temperature: temperature of the softmax.
        chunk_bytes: upper limit of one matrix of scores, of at least one user; None: what suits the
            device.
    """

    def __init__(
        self,
        users: Tensor,
        indptr: Tensor,
        targets: Tensor,
        weights: Tensor,
        temperature: float,
        chunk_bytes: int | None = None,
    ) -> None:
        self.users, self.weights, self.temperature = users, weights, temperature
        self.indptr, self.targets = indptr, targets
        self.chunk_bytes = limit_chunk(users.device) if chunk_bytes is None else chunk_bytes
        counts = indptr.diff()
        owner = torch.repeat_interleave(counts)
        self._share = (1 / counts.double()).to(weights.dtype)[owner].to(users.device)
        self._owner = owner.to(users.device)

    @classmethod
    def of(
        cls,
        members: Members,
        group: int,
        rows: NDArray[np.int64],
        device: torch.device | str = "cpu",
    ) -> GroupProblem:
        """The problem of one group over rows int64 [num_rows], on a device."""
        users = np.flatnonzero(members.user_group == group)
        lists = members.lists.take(users)
        place = np.full(members.num_items, -1)
        place[rows] = np.arange(len(rows))
        targets = place[lists.items]
        counts = lists.where(targets >= 0).counts
        kept = counts > 0
        weights = torch.from_numpy(np.sqrt(counts[kept]).astype(np.float32))
        # Torch's own memory: matrix products round differently at another alignment.
        return cls(
            torch.from_numpy(members.user_vectors[users[kept]]).clone().to(device),
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts[kept])])),
            torch.from_numpy(targets[targets >= 0]).to(device),
            (weights / weights.sum()).to(device),
            members.temperature,
        )

    def loss(self, table: Tensor) -> Tensor:
        """The mean cross-entropy of a table [num_rows, dim] of the problem's rows."""
        loss: Tensor = _CrossEntropy.apply(table, self)
        return loss

    @torch.no_grad()
    def losses_of_rows(self, table: Tensor) -> Tensor:
        """The part of the loss that each row contributes [num_rows], without a gradient."""
        losses = torch.zeros_like(table[:, 0])
        for users, own in self._chunks(len(table)):
            log_shares = self._log_shares(table, users)
            at = (self._owner[own] - users.start, self.targets[own])
            of_users = torch.zeros_like(log_shares)
            weights = self.weights[self._owner[own]]
            of_users[at] = self._share[own] * log_shares[at] * weights
            losses -= of_users.sum(dim=0)
        return losses

    def loss_and_gradient(self, table: Tensor, wants_gradient: bool) -> tuple[Tensor, Tensor]:
        """:meth:`loss`, and its gradient [num_rows, dim], zero where it is not wanted."""
        table = table.detach().requires_grad_(wants_gradient)
        total, gradient = torch.zeros_like(self.weights.sum()), torch.zeros_like(table)
        for users, own in self._chunks(len(table)):
            with torch.set_grad_enabled(wants_gradient):
                log_shares = self._log_shares(table, users)
                owner = self._owner[own]
                factors = self._share[own] * self.weights[owner]
                loss = -(log_shares[owner - users.start, self.targets[own]] * factors).sum()
            total += loss.detach()
            if wants_gradient:
                part = torch.autograd.grad(loss, table)[0]
                gradient = part if users.start == 0 else gradient.add_(part)
        return total, gradient

    def _chunks(self, num_rows: int) -> Iterator[tuple[slice, slice]]:
        """Users whose scores fit the limit, and which targets are theirs."""
        size = max(1, self.chunk_bytes // max(1, num_rows * self.users.element_size()))
        for start in range(0, len(self.users), size):
            stop = min(start + size, len(self.users))
            yield slice(start, stop), slice(int(self.indptr[start]), int(self.indptr[stop]))

    def _log_shares(self, table: Tensor, users: slice) -> Tensor:
        return F.log_softmax(self.users[users] @ table.T / self.temperature, dim=1)


class _CrossEntropy(torch.autograd.Function):
    """The loss of a problem, its gradient made a chunk at a time on the way forward."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, problem: GroupProblem) -> Tensor:
        loss, gradient = problem.loss_and_gradient(table, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (of_table,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * of_table, None
