"""What is declared of batches: when one begins that does not say, and how much of them there may be. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Self

from jobs.batches.records import BatchStart

GB = 1_000_000_000
MIB = 1024 * 1024

MOST_LINES = 1_000_000
MOST_FILE_MIB = 1024
"""Of one file. A fleet may say less."""


@dataclass(frozen=True)
class BatchLimits:
    """
    Args:
        start: when a batch begins that does not say.
        quota_bytes: what all files and results together may take.
        keep_days: how long a file stays after it was brought, or made.
        most_lines: of one batch.
        most_file_bytes: of one file.
        at_once: lines in flight, of all batches together.
    """

    start: BatchStart = "cheapest"
    quota_bytes: int = 50 * GB
    keep_days: int = 30
    most_lines: int = MOST_LINES
    most_file_bytes: int = MOST_FILE_MIB * MIB
    at_once: int = 256

    @property
    def keep(self) -> timedelta:
        return timedelta(days=self.keep_days)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What is left out is as usual."""
        return cls(**{name: document[name] for name in cls.__dataclass_fields__ if name in document})


USUAL = BatchLimits()
"""Where nothing is declared."""
