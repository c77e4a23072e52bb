"""What the weights may take, and for how long: as it is declared, and as a stack writes it down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from jobs.core.model_name import ModelName


@dataclass(frozen=True)
class RetentionRules:
    """What the weights may take, and for how long.

    Args:
        unused: a model that nobody used for so long goes; None keeps all of them.
        grace: how long something lies in the trash before it is deleted.
        unfinished: part files and stagings that nobody touched for so long go.
        quota_bytes: while the models take more, the least recently used goes.
        kept: models that stay whatever happens, and why, by folded name.

    """

    unused: timedelta | None = None
    grace: timedelta = timedelta(days=7)
    unfinished: timedelta = timedelta(days=3)
    quota_bytes: int | None = None
    kept: Mapping[ModelName, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "unused_days": self.unused and self.unused / timedelta(days=1),
            "trash_days": self.grace / timedelta(days=1),
            "unfinished_hours": self.unfinished / timedelta(hours=1),
            "quota_bytes": self.quota_bytes,
            "kept": {str(name): why for name, why in self.kept.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        days = document["unused_days"]
        return cls(
            unused=None if days is None else timedelta(days=days),
            grace=timedelta(days=document["trash_days"]),
            unfinished=timedelta(hours=document["unfinished_hours"]),
            quota_bytes=document["quota_bytes"],
            kept={ModelName.parse(name): why for name, why in document["kept"].items()},
        )
