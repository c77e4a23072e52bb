"""Batches as they go out over HTTP: what `jobs.batches.batch_document` makes, described."""

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from jobs.batches.records import BatchStart, BatchStatus

_BATCH: dict[str, JsonValue] = {
    "id": "batch_5f0c1a2b3c4d5e6f708192a3",
    "status": "in_progress",
    "endpoint": "/v1/chat/completions",
    "dialect": "openai",
    "model": None,
    "owner": "alice",
    "posted_by": "alice",
    "created_at": "2026-09-15T22:00:00.000Z",
    "expires_at": "2026-09-16T07:00:00.000Z",
    "completion_window": "24h",
    "start": "cheapest",
    "max_dollars": 3.0,
    "metadata": {},
    "lines": {"total": 10000, "completed": 4200, "failed": 3},
    "use": {
        "prompt_tokens": 840000,
        "output_tokens": 420000,
        "line_seconds": 5040.0,
        "gpu_seconds": 630.0,
        "dollars": 0.3,
    },
    "estimate": None,
    "in_progress_at": "2026-09-15T22:00:09.000Z",
    "finalizing_at": None,
    "ended_at": None,
    "starts_at": None,
    "note": "",
    "errors": [],
    "input_file_id": "file-1a2b3c4d5e6f708192a3b4c5",
    "output_file_id": None,
    "error_file_id": None,
}

BatchId = Annotated[
    str,
    Path(
        pattern=r"^(msg)?batch_[0-9a-f]{6,64}$", description="A batch's id", examples=["batch_5f0c1a2b3c4d5e6f708192a3"]
    ),
]


class LinesEntry(BaseModel):
    total: Annotated[int, Field(description="0 until the file was read through")]
    completed: int
    failed: Annotated[int, Field(description="For good")]


class UseEntry(BaseModel):
    model_config = ConfigDict(extra="allow")

    prompt_tokens: int
    output_tokens: int
    line_seconds: Annotated[float, Field(description="From sending a line to its answer, added up")]
    gpu_seconds: Annotated[float, Field(description="The part of the servers' time that went to it")]
    dollars: Annotated[float | None, Field(description="Null where nothing is paid by the second")]


class EstimateEntry(UseEntry):
    """What it will take, as far as was known before it ran; the dollars are of serving alone."""

    seconds: Annotated[float, Field(description="From the first line to the last")]
    extra_dollars: Annotated[float | None, Field(description="For a wake, and the idle time after it")]
    done_at: AwareDatetime
    basis: Literal["measured", "usage", "guess"]


class ErrorEntry(BaseModel):
    code: str
    message: str
    line: Annotated[int | None, Field(description="From 1; null where it is about the file or the batch")]
    param: str | None


class BatchEntry(BaseModel):
    """A batch: how it was posted, how it stands, how it ended. No content of a line is in it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_BATCH]})

    id: str
    status: BatchStatus
    endpoint: str
    dialect: Literal["openai", "anthropic"]
    model: str | None
    owner: Annotated[str, Field(description="The key that posted it; empty where there are no keys")]
    posted_by: str
    created_at: AwareDatetime
    expires_at: Annotated[AwareDatetime, Field(description="What is not done by then is not done")]
    completion_window: str
    start: Annotated[BatchStart, Field(description="When it may begin")]
    max_dollars: float | None
    metadata: dict[str, Any]
    lines: LinesEntry
    use: UseEntry
    estimate: EstimateEntry | None
    in_progress_at: AwareDatetime | None
    finalizing_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    starts_at: Annotated[AwareDatetime | None, Field(description="Until when it waits at the latest, where it waits")]
    note: Annotated[str, Field(description="Why it waits, or what will not hold")]
    errors: Annotated[list[ErrorEntry], Field(description="Of the file, or why it ended early; a hundred at most")]
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None


class BatchesResponse(BaseModel):
    batches: Annotated[list[BatchEntry], Field(description="The newest first")]
    more: Annotated[bool, Field(description="Whether older ones come after them: ask again with `after`")]
