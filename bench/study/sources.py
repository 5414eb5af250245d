"""The data sets of the study, and how each is split."""

from __future__ import annotations

from dataclasses import dataclass

from peel_ext.config import SplitConfig
from peel_ext.train.pipeline import SYNTHETIC

#: Shares of the users that nothing is trained on, by protocol.
NEW_USER_SHARES = {"new": 0.1, "offline": 0.1}


@dataclass(frozen=True)
class Source:
    """Interactions and their split.

    Attributes:
        path: within the folder of data, or ``"synthetic"``.
        method: of :class:`peel_ext.config.SplitConfig`; a given test part goes before it.
        test_share: likewise.
        shares: budgets, of the bytes of a table of 64 values a row in float32.
    """

    path: str
    method: str = "random"
    test_share: float = 0.2
    shares: tuple[float, ...] = (0.1, 0.05, 0.025, 0.01, 0.005)

    def split(self, protocol: str, seed: int) -> SplitConfig:
        """The settings of the split under a protocol; validation is drawn as the target is."""
        return SplitConfig(
            self.method,
            self.test_share,
            new_user_share=NEW_USER_SHARES.get(protocol, 0.0),
            seed=seed,
        )

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those that the split allows, the usual one first."""
        return ("time",) if self.method == "time" else ("known", "new", "offline")


_SPARSE = (0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001)

#: By what they are called on the command line.
SOURCES = {
    "ml-100k/random": Source("ml-100k/ml-100k.inter"),
    "ml-100k/last": Source("ml-100k/ml-100k.inter", "last", 0.01),
    "ml-100k/time": Source("ml-100k/ml-100k.inter", "time"),
    "toys/last": Source("toys/interactions.parquet", "last", 0.01, _SPARSE),
    "toys/random": Source("toys/interactions.parquet", shares=_SPARSE),
    "gowalla/given": Source("gowalla", shares=_SPARSE),
    # Of ``bench/validation_users.py``: its settings are chosen on interactions drawn as its target is.
    "gowalla-later/given": Source("gowalla-later", shares=_SPARSE),
    "synthetic/random": Source(SYNTHETIC),
}
