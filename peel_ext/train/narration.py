"""Progress for people: bars on a terminal and in a notebook, one line a stage elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import weakref
from types import TracebackType
from typing import Any


class Narration:
    """Tells of stages on stderr, or in a notebook where its bars are.

    Itself a :data:`peel_ext.train.pipeline.Progress`: called with the stage, steps done, steps in all
    (0: unknown) and a remark. A bar goes when its stage ends; as a context manager it also clears
    those of a stage that fails.

    Args:
        quiet: say nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console: Any = None if quiet else _find_console()
        self._bars: Any = None
        self._stop_bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Narration:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()

    def __call__(self, name: str, done: int, total: int, remark: str) -> None:
        """Does what :meth:`stage` does."""
        self.stage(name, done, total, remark)

    def stage(self, name: str, done: int, total: int, remark: str) -> None:
        """Tells of a step; where there was one step at most, of the end of the stage."""
        if self._quiet:
            return
        if total > 1 or (total == 0 and done == 0):
            self._step(name, done, total, remark)
            return
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        if remark:
            self._say(f"{name:13} {remark}")
        if not self._tasks:
            self._clear()

    def _step(self, name: str, done: int, total: int, remark: str) -> None:
        if self._console is None:
            return
        if self._bars is None:
            self._bars = _make_bars(self._console)
            self._bars.start()
            # A terminal gets its cursor back even from a program that an error ends.
            self._stop_bars = weakref.finalize(self, self._bars.stop)
        now = {"completed": done, "total": total or None, "remark": remark}
        if name in self._tasks:
            self._bars.update(self._tasks[name], **now)
        else:
            self._tasks[name] = self._bars.add_task(name, **now)

    def _say(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._bars is not None:
            self._stop_bars()
        self._bars = None
        self._tasks.clear()


def _find_console() -> Any:
    """Finds the console that bars can be drawn on, or None."""
    if not sys.stderr.isatty() and "IPython" not in sys.modules:
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(stderr=True)
    if console.is_jupyter:  # whose bars are widgets
        return console if importlib.util.find_spec("ipywidgets") else None
    return console if sys.stderr.isatty() else None


def _make_bars(console: Any) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:13}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
        console=console,
        transient=True,
    )
