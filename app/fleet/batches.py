"""What a fleet file says of batches: when they begin, and how much of them there may be."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from jobs.batches.limits import GB, MIB, MOST_FILE_MIB, MOST_LINES, USUAL, BatchLimits
from jobs.batches.records import BatchStart


class BatchesConfig(BaseModel):
    """All of it may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    start: BatchStart = USUAL.start
    """Of a batch that does not say; people come first whatever it is."""
    quota_gb: Annotated[int, Field(ge=1, le=1_000_000)] = USUAL.quota_bytes // GB
    keep_days: Annotated[int, Field(ge=1, le=3650)] = USUAL.keep_days
    most_lines: Annotated[int, Field(ge=1, le=MOST_LINES)] = USUAL.most_lines
    most_file_mb: Annotated[int, Field(ge=1, le=MOST_FILE_MIB)] = USUAL.most_file_bytes // MIB
    """Of 1,048,576 bytes each."""
    at_once: Annotated[int, Field(ge=1, le=4096)] = USUAL.at_once

    @property
    def limits(self) -> BatchLimits:
        return BatchLimits(
            start=self.start,
            quota_bytes=self.quota_gb * GB,
            keep_days=self.keep_days,
            most_lines=self.most_lines,
            most_file_bytes=self.most_file_mb * MIB,
            at_once=self.at_once,
        )
