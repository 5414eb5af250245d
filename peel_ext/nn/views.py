"""Which budget and which user groups are in force for a module, in the context that asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor


class View(NamedTuple):
    """What is in force."""

    budget_bytes: int | None = None
    groups: Tensor | int | None = None


NOTHING = View()


class _OfThread(threading.local):
    view: View = NOTHING


class Views:
    """The view of a module in every context: every thread and every task of asyncio has its own.

    torch.compile can guard what a thread has, but not what a context has. Compiled code therefore
    sees what was last entered or left in its thread. What ends elsewhere than it began, as a
    generator may, changes nothing there.

    Args:
        view: where nothing was entered.
    """

    __slots__ = ("_of_context", "_of_thread")

    def __init__(self, view: View = NOTHING) -> None:
        self._of_context = ContextVar("view", default=view)
        self._of_thread = _OfThread()
        self._of_thread.view = view

    def get(self) -> View:
        """What is in force here."""
        return self._of_thread.view if torch.compiler.is_compiling() else self._of_context.get()

    @contextmanager
    def enter(self, view: View) -> Iterator[None]:
        """Puts a view in force, until the context ends."""
        if torch.compiler.is_compiling():
            guarded = self._of_thread.view
            self._of_thread.view = view
            try:
                yield
            finally:
                self._of_thread.view = guarded
            return
        token = self._of_context.set(view)
        self._of_thread.view = _guardable(view)
        try:
            yield
        finally:
            # A token is of the context it was made in, and no other may be changed.
            with suppress(ValueError):
                self._of_context.reset(token)
                self._of_thread.view = _guardable(self._of_context.get())


def _guardable(view: View) -> View:
    """The same for compilers: a group as a tensor, for which no graph is made anew."""
    if view.groups is None or isinstance(view.groups, Tensor):
        return view
    return view._replace(groups=torch.tensor(view.groups, dtype=torch.int64, device="cpu"))
