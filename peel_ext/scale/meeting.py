"""The store that processes of ``torchrun`` share, by which one of them tells why all end."""

from __future__ import annotations

import datetime
import os
import time

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

#: The time that a rank waits for the others to begin. Later the heartbeat says who is gone.
_BEGINNING = datetime.timedelta(minutes=5)

#: The time that a rank with an error waits for them before it tells of it unasked.
_TELLING = datetime.timedelta(seconds=10)

#: Seconds by which ranks that tell nothing end after the one that tells why.
_GRACE = 1.0


class Meeting:
    """The processes that know of each other, before they can send each other anything.

    Args:
        store: where each finds what the others have put there.
        rank: rank of this process.
        size: number of processes.
    """

    #: The one that this process has come to last.
    last: Meeting | None = None

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size

    @classmethod
    def joined(cls, patience: datetime.timedelta = _BEGINNING) -> Meeting:
        """Comes to the meeting that the environment names.

        Args:
            patience: how long to wait for the others.

        Raises:
            RuntimeError: the others do not come.
            ValueError: the environment names none.
        """
        shared, rank, size = next(rendezvous("env://", timeout=patience))
        # Where torchrun starts the processes again, the store still has the keys of those before.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        cls.last = cls(PrefixStore(f"peel/{attempt}", shared), rank, size)
        return cls.last

    def claim(self) -> bool:
        """True if it is this rank that tells why all end: the first that asks."""
        own = str(self.rank)
        try:
            return self.store.compare_set("teller", "", own).decode() == own
        except RuntimeError:  # of who keeps the store nothing is left
            return True


def tells_of_error() -> bool:
    """True if it is this process that tells of an error; one that does not lets the other go first."""
    try:
        meeting = Meeting.last or Meeting.joined(_TELLING)
    except (RuntimeError, ValueError):  # nobody can be asked
        return True
    if meeting.claim():
        return True
    give_way()
    return False


def give_way() -> None:
    """Waits while another rank tells: ``torchrun`` ends all others as soon as one has ended."""
    time.sleep(_GRACE)
