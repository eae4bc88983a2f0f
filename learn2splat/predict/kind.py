"""How a prediction is asked for in text: ``predict[:INITIALISER][+refine[:UPDATER]]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

PREDICT, REFINE = "predict", "+refine"
_FORM = re.compile(r"predict(?::(.+?))?(?:(\+refine)(?::(.+))?)?")
"""A folder may have ``+refine`` in its name, but not at its end."""


@dataclass(frozen=True)
class PredictionKind:
    """Who predicts, and who refines.

    Args:
        initialiser: a folder or a name; empty for the one that ships.
        is_refined: whether an updater goes on.
        updater: likewise a folder or a name.
    """

    initialiser: str = ""
    is_refined: bool = False
    updater: str = ""

    @classmethod
    def parse(cls, kind: str) -> PredictionKind | None:
        """What ``kind`` asks for; None if that is no prediction."""
        found = _FORM.fullmatch(kind)
        return None if found is None else cls(found[1] or "", found[2] is not None, found[3] or "")

    def __str__(self) -> str:
        parts = [PREDICT, f":{self.initialiser}" if self.initialiser else "", REFINE if self.is_refined else ""]
        return "".join([*parts, f":{self.updater}" if self.updater else ""])

    def map(self, change: Callable[[str], str]) -> PredictionKind:
        """The same with ``change`` made to both names."""
        return PredictionKind(change(self.initialiser), self.is_refined, change(self.updater))
