"""The errors a caller may expect: everything else is a bug."""

from __future__ import annotations


class PeelError(Exception):
    """Base of the expected errors of this package."""


class DataError(PeelError, ValueError):
    """Malformed or unusable interaction data."""


class DataWarning(UserWarning):
    """Something of the data that is not used, or not as might be expected."""


class TrainingWarning(UserWarning):
    """A training that went through, but whose result is to be doubted."""


class EncodingWarning(UserWarning):
    """Rows that are encoded as zeros, though they have values: these are too small for float16."""


class UnknownUserWarning(UserWarning):
    """Recommendations for nobody in particular: of the user nothing is known on the device."""


class ReplacementWarning(UserWarning):
    """Part of a model that goes on with the full table where its embeddings are under a budget."""


class FormatError(PeelError, ValueError):
    """Bytes that are no ``.peel`` file, or a damaged one."""


class SourceError(PeelError, OSError):
    """A ``.peel`` file cannot be read from where it is, or has changed there."""


class ClosedError(PeelError, ValueError):
    """A recommender that has been closed."""


class NoUserError(DataError):
    """A bundle has no file of the user asked for."""


class BudgetError(PeelError, ValueError):
    """A byte budget too small for any block.

    Attributes:
        minimum_bytes: the smallest feasible budget.
    """

    def __init__(self, message: str, minimum_bytes: int) -> None:
        super().__init__(message)
        self.minimum_bytes = minimum_bytes

    def __reduce__(self) -> tuple[object, ...]:
        """For copies, and for the way from another process: with both arguments."""
        return type(self), (*self.args, self.minimum_bytes)


class RunError(PeelError):
    """A run folder is missing, unfinished or of another version."""


class DependencyError(PeelError, ImportError):
    """An optional dependency is missing."""


class RankError(PeelError):
    """Another process of several that work together has ended, or does not answer."""


class ElsewhereError(PeelError):
    """An error that another of several processes tells."""
