"""The processes that work together, what they send each other, and how they end together."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore

from peel_ext.errors import ElsewhereError, RankError
from peel_ext.scale.heartbeat import Heartbeat
from peel_ext.scale.meeting import Meeting, give_way
from peel_ext.scale.rank_device import backend_of, find_device

#: The time that a collective may take: others may have much to do before they take part in it.
_PATIENCE = datetime.timedelta(days=1)

_Made = TypeVar("_Made")
_Number = TypeVar("_Number", int, float)


def num_processes() -> int:
    """The number of processes that work together, as ``torchrun`` says in the environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """True if this process is rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


class Collectives:
    """Operations that every rank does at the same time as all others, in the same order.

    With gloo on CPUs and NCCL on GPUs. Results depend on nothing but the arguments and the number of
    ranks. Every method that sends raises :class:`peel_ext.errors.RankError` where another rank is gone.

    Args:
        rank: rank of this process.
        size: number of processes.
        device: where tensors are sent from.
        group: the process group; None: that of all processes.

    Attributes:
        rank: rank of this process.
        size: number of processes.
        device: where tensors are sent from.
        sent_bytes: that this rank has sent to others, by the usual counts: a sum of n bytes over p
            ranks is 2 n (p - 1) / p.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, group: dist.ProcessGroup | None = None
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.sent_bytes = 0
        self._group = group
        self._hint = ""  # what to do where another rank is gone

    @classmethod
    def of_group(cls, group: dist.ProcessGroup | None = None) -> Collectives:
        """The operations of a process group that somebody else made, and ends.

        Args:
            group: the process group; None: that of all processes.

        Raises:
            ValueError: there is no process group, or this process is not of it.
        """
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "process_group must be there before, got none: call "
                "torch.distributed.init_process_group"
            )
        rank = dist.get_rank(group)
        if rank < 0:
            raise ValueError("process_group must be one of this process, got that of others")
        where = torch.device("cpu")
        if "cpu:" not in dist.get_backend_config(group):
            where = torch.device("cuda", torch.cuda.current_device())
        return cls(rank, dist.get_world_size(group), where, group)

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: str = "cpu") -> Iterator[Collectives]:
        """Joins the other processes, and leaves them once all have come to the end.

        Of an error on several ranks one tells; the others raise ``ElsewhereError``.

        Args:
            device: ``"cpu"`` or ``"cuda"``; of the latter the one whose number is ``LOCAL_RANK``.

        Raises:
            RankError: the others do not come.
            ValueError: there is no CUDA device of that number.
        """
        where = find_device(device)
        if where.type == "cuda":
            torch.cuda.set_device(where)  # which "cuda" then means
        try:
            meeting = Meeting.joined()
            store, rank, size = meeting.store, meeting.rank, meeting.size
            dist.init_process_group(
                backend_of(where), store=PrefixStore("group", store), rank=rank, world_size=size,
                timeout=_PATIENCE,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise RankError(
                f"the other processes cannot be joined: {_first_line(error)}"
            ) from error
        made = cls(rank, size, where)
        made._hint = "; the same command goes on from what is saved"
        heartbeat = Heartbeat(store, rank, size, meeting.claim)
        heartbeat.start()
        try:
            yield made
            made.barrier()
        except Exception as error:
            if isinstance(error, ElsewhereError) or not meeting.claim():
                give_way()
                raise ElsewhereError("another rank tells what happened") from error
            raise
        finally:
            heartbeat.stop()
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """True for rank 0, which writes and tells."""
        return self.rank == 0

    # ---- sums and copies ----

    def barrier(self) -> None:
        """Waits for all ranks."""
        self.sum(torch.zeros(1, dtype=torch.float32, device=self.device))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks of a tensor of one shape and dtype; the same bits on each."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def max(self, tensor: Tensor) -> Tensor:
        """The largest over all ranks, value by value."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def _reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        reduced = tensor.to(self.device, copy=True).contiguous()
        self._try(lambda: dist.all_reduce(reduced, operation, self._group))
        self.sent_bytes += 2 * reduced.nbytes * (self.size - 1) // self.size
        return reduced.to(tensor.device)

    def stack(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, of one shape and dtype: [size, ...]."""
        own = tensor.to(self.device).contiguous()
        made = own.new_empty((self.size, *own.shape))
        self._try(lambda: dist.all_gather(list(made.unbind()), own, self._group))
        self.sent_bytes += own.nbytes * (self.size - 1)
        return made.to(tensor.device)

    def tell(self, value: _Made) -> _Made:
        """Returns what rank 0 has, a value that JSON knows; what others bring is of no meaning."""
        text = json.dumps(value).encode() if self.is_first else b""
        length = int(self.sum(torch.tensor([len(text)], dtype=torch.int64, device="cpu"))[0])
        own = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())
        told: _Made = json.loads(self.copy(own, (length,)).numpy().tobytes())
        return told

    def copy(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """Copies what rank 0 has, of a shape and dtype that all have; others' values do not matter."""
        sent = tensor.to(self.device).contiguous() if self.is_first else None
        if sent is None:
            sent = torch.empty(*shape, dtype=tensor.dtype, device=self.device)
        self._try(lambda: dist.broadcast(sent, group=self._group, group_src=0))
        self.sent_bytes += sent.nbytes * (self.size - 1) if self.is_first else 0
        return sent.to(tensor.device)

    # ---- rows ----

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Sends rows to every rank, and gets those that every rank sends here.

        Args:
            parts: one for each rank: [n, ...], of one dtype and one shape but for n, which may be
                another on every rank.

        Returns:
            Those of each rank, in order.
        """
        counts = [len(part) for part in parts]
        rows, arriving = self._exchange(torch.cat([*parts]), counts)
        return list(rows.split(arriving))

    def _exchange(self, rows: Tensor, leaving: list[int]) -> tuple[Tensor, list[int]]:
        """What arrives, and how many rows from each rank."""
        counts = self.stack(torch.tensor(leaving, dtype=torch.int64, device="cpu"))
        arriving: list[int] = counts[:, self.rank].tolist()
        return self.exchange_rows(rows, leaving, arriving), arriving

    def exchange_rows(
        self, rows: Tensor, leaving: Sequence[int], arriving: Sequence[int]
    ) -> Tensor:
        """The same where all know how many there are.

        Args:
            rows: [sum of leaving, ...], those for rank 0 first.
            leaving: how many are for each rank.
            arriving: how many come from each.

        Returns:
            [sum of arriving, ...], those of rank 0 first.
        """
        sent = rows.to(self.device).contiguous()
        made = sent.new_empty((sum(arriving), *sent.shape[1:]))
        self._try(lambda: dist.all_to_all_single(made, sent, [*arriving], [*leaving], self._group))
        away = sum(leaving) - leaving[self.rank]
        self.sent_bytes += away * (sent.nbytes // max(len(sent), 1))
        return made.to(rows.device)

    def join(self, rows: Tensor) -> Tensor:
        """The rows [n, ...] of all ranks, in order, on every rank."""
        return self._exchange(torch.cat([rows] * self.size), [len(rows)] * self.size)[0]

    def collect(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in order, on rank 0; nothing on the others."""
        return self._exchange(rows, [len(rows), *[0] * (self.size - 1)])[0]

    def deal(self, rows: Tensor, edges: Sequence[int]) -> Tensor:
        """The reverse: of what rank 0 has, the rows from this rank's edge to the next.

        Args:
            rows: on rank 0 all; on others none, of the same dtype and shape but for their number.
            edges: [size + 1], the same on all ranks.
        """
        parts = [rows[:0]] * self.size
        if self.is_first:
            parts = [rows[edges[rank] : edges[rank + 1]] for rank in range(self.size)]
        return self.exchange(parts)[0]

    # ---- agreeing ----

    def total(self, value: _Number) -> _Number:
        """The sum over all ranks of a number, of integers an exact one; of one type on all of them."""
        dtype = torch.int64 if isinstance(value, int | np.integer) else torch.float64
        made: _Number = self.sum(torch.tensor([value], dtype=dtype, device="cpu")).item()  # type: ignore[assignment]
        return made

    def differing(self, digest: bytes) -> list[int]:
        """The ranks whose digest, of one length, is not that of rank 0."""
        own = torch.from_numpy(np.frombuffer(digest, dtype=np.uint8).copy())
        all_digests = self.stack(own)
        return (all_digests != all_digests[0]).any(dim=1).nonzero()[:, 0].tolist()

    def on_first(self, work: Callable[[], _Made]) -> _Made | None:
        """Makes something on rank 0, which alone gets it; where it fails, all ranks raise.

        Raises:
            ElsewhereError: on the other ranks, where rank 0 raises.
        """
        made, failure = None, None
        if self.is_first:
            try:
                made = work()
            except Exception as error:
                failure = error
        if self.tell(failure is not None):
            raise failure or ElsewhereError("rank 0 tells what happened")
        return made

    # ---- ending together ----

    def _try(self, send: Callable[[], Any]) -> None:
        try:
            send()
        except RuntimeError as error:
            raise RankError(
                f"another process that works on this has ended{self._hint}: {_first_line(error)}"
            ) from error


def _first_line(error: BaseException) -> str:
    """The first sentence of an error of torch, without the place in its source."""
    line = str(error).strip().split("\n", 1)[0].split("] ", 1)[-1]
    return line.split(". ", 1)[0]
