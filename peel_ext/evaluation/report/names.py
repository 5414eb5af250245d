"""The names of items on a page."""

from __future__ import annotations

from peel_ext.train.trained_run import TrainedRun

#: Characters of a name that are shown.
_LENGTH = 80


class ItemNames:
    """Names of rows, or ids where there is no name.

    Args:
        run: whose items they are.
        given: names of all items, None for those without; None takes those of the run.
    """

    def __init__(self, run: TrainedRun, given: list[str | None] | None = None) -> None:
        self._ids = run.items
        self._names = run.item_names if given is None else given

    @property
    def are_ids(self) -> bool:
        """True if there are no names."""
        return self._names is None

    def __getitem__(self, row: int) -> str:
        name = None if self._names is None else self._names[row]
        text = str(self._ids.ids[row]) if name is None else name
        text = "".join(each if each.isprintable() else " " for each in text)
        return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"
