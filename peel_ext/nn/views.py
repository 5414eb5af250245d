"""Which budget and which user groups are in force for a module, in the context that asks."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor


class View(NamedTuple):
    """A view that is in force."""

    budget_bytes: int | None = None
    groups: Tensor | int | None = None
    #: Whether it was entered inside the forward of an autograd.Function, and ends there.
    is_of_function: bool = False


NOTHING = View()

Change = Callable[[Any, View, Any], View]

_is_compiling = torch.compiler.is_compiling  # asked at every call


class _OfThread(threading.local):
    view: View = NOTHING


class Views:
    """The view of a module in every context: every thread and every task of asyncio has its own.

    torch.compile can guard what a thread has, but not what a context has. Compiled code therefore
    sees what was last entered or left in its thread. What ends elsewhere than it began, as a
    generator may, changes nothing there.

    Args:
        view: where nothing was entered.

    Attributes:
        of_context: the view outside compiled code.
    """

    __slots__ = ("_of_thread", "of_context")

    def __init__(self, view: View = NOTHING) -> None:
        self.of_context = ContextVar("view", default=view)
        self._of_thread = _OfThread()
        self._of_thread.view = view

    def get(self) -> View:
        """The view that is in force here."""
        return self._of_thread.view if _is_compiling() else self.of_context.get()

    def enter(self, module: Any, change: Change, value: Any) -> Any:
        """Puts what ``change`` makes of the view in force; what it returns is for :meth:`leave`."""
        if _is_compiling():
            guarded = self._of_thread.view
            self._of_thread.view = change(module, guarded, value)
            return guarded
        view = change(module, self.of_context.get(), value)
        if is_in_function():
            view = View(view.budget_bytes, view.groups, True)
        token = self.of_context.set(view)
        self._of_thread.view = view if view.groups is None else _guardable(view)
        return token

    def leave(self, token: Any) -> None:
        """Ends what :meth:`enter` began."""
        if _is_compiling():
            self._of_thread.view = token
            return
        try:
            self.of_context.reset(token)
        except ValueError:  # a token is of the context it was made in, and no other may be changed
            return
        view = self.of_context.get()
        self._of_thread.view = view if view.groups is None else _guardable(view)


class Entered(ContextDecorator):
    """A context in which a view is in force.

    Args:
        module: what entering gives, whose ``_views`` they are.
        change: makes of the module, the view in force and ``value`` the one that is entered.
        value: a budget, or user groups.
    """

    def __init__(self, module: Any, change: Change, value: Any) -> None:
        self._module = module
        self._change = change
        self._value = value
        self._tokens: tuple[Any, ...] = ()  # (last, others): it may be entered inside itself

    def __enter__(self) -> Any:
        module = self._module
        self._tokens = (module._views.enter(module, self._change, self._value), self._tokens)
        return module

    def __exit__(self, *error: object) -> None:
        token, self._tokens = self._tokens
        self._module._views.leave(token)


def _guardable(view: View) -> View:
    """The same for compilers: a group as a tensor, for which no graph is made anew."""
    if isinstance(view.groups, Tensor):
        return view
    group = torch.tensor(view.groups, dtype=torch.int64, device="cpu")
    return View(view.budget_bytes, group, view.is_of_function)


# Not public, hence the way out: without it, functions are not recognised.
_is_forward_mode_enabled = getattr(torch._C, "_is_fwd_grad_enabled", lambda: True)


def is_in_function() -> bool:
    """True in the forward of an autograd.Function: torch disables all gradients there.

    ``torch.no_grad`` leaves forward mode enabled, and inference mode can be asked for. Not asked in
    compiled code.
    """
    return not (
        _is_forward_mode_enabled() or torch.is_grad_enabled() or torch.is_inference_mode_enabled()
    )


def refuse_reentrant_checkpoint() -> None:
    """Raises RuntimeError inside a reentrant checkpoint, which computes again after the context."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_qualname == "CheckpointFunction.forward":
            raise RuntimeError(
                "a reentrant checkpoint computes again in the backward, outside budget() and "
                "use_groups(): pass use_reentrant=False to checkpoint(), or enter them inside the "
                "function that is checkpointed"
            )
        frame = frame.f_back
