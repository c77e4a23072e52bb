"""What is written down of a file and of a batch: how it was posted, how it stands, how it ended. Pure.

Readers take missing fields as their defaults, so last month's records still open. No content of a line is ever in one.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from jobs.core.clock import isoformat, parse_moment

VERSION = 1

KIND = "batch"
"""Of the job of a batch."""

FilePurpose = Literal["batch", "batch_output"]
BatchDialect = Literal["openai", "anthropic"]
BatchStart = Literal["now", "awake", "window", "cheapest"]
BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
EndStatus = Literal["failed", "completed", "expired", "cancelled"]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
"""What a line may ask for; all lines of a batch ask for the same."""

WITHIN = timedelta(hours=24)
"""A batch for which a command says no time has until then."""

MOST_ERRORS = 100
"""Errors of lines that a record keeps; the others are counted."""


OVER = frozenset({"completed", "failed", "expired", "cancelled"})
"""The statuses of a batch that has ended."""

_ID = re.compile(r"(msg)?batch_[0-9a-f]{6,64}")


def is_batch_id(text: str) -> bool:
    """Whether it is the id of a batch, and not of a job or a file."""
    return _ID.fullmatch(text) is not None


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def new_batch_id(dialect: BatchDialect) -> str:
    return f"{'msgbatch' if dialect == 'anthropic' else 'batch'}_{secrets.token_hex(12)}"


@dataclass(frozen=True)
class FileRecord:
    """A file that was uploaded, or made of a batch's results.

    Args:
        id: `file-` and letters.
        owner: the key that it belongs to; empty where there are no keys.
        purpose: as OpenAI's files have it.
        filename: as whoever brought it calls it.
        bytes: its size.
        created_at: when it was whole.
        expires_at: when it may be removed; None as long as nothing says so.

    """

    id: str
    owner: str
    purpose: FilePurpose
    filename: str
    bytes: int
    created_at: datetime
    expires_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            **asdict(self),
            "created_at": isoformat(self.created_at),
            "expires_at": _said(self.expires_at),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            id=str(document["id"]),
            owner=str(document.get("owner", "")),
            purpose=document.get("purpose", "batch"),
            filename=str(document.get("filename", "")),
            bytes=int(document.get("bytes", 0)),
            created_at=parse_moment(document["created_at"]),
            expires_at=_moment(document.get("expires_at")),
        )


@dataclass(frozen=True)
class BatchRecord:
    """A batch as it was posted, written once.

    Args:
        id: `batch_` or, of Anthropic's, `msgbatch_` and letters.
        dialect: of its lines and of its results.
        owner: the key that posted it, whose limits hold for its lines; empty where there are no keys.
        input_file_id: its lines.
        endpoint: what each of them asks for.
        completion_window: as it was said, "24h" for one.
        created_at: when.
        expires_at: the deadline; what is not done by then is not done.
        start: when it may begin.
        max_dollars: what it may take; None for no limit.
        model: for lines that name none; where it `is_for_all`, for all.
        is_for_all: whether `model` goes before what lines name.
        metadata: its poster's own.
        posted_by: who, as the ledger tells it.
        lines: how many its file has, where that was known before it was read; else 0.
        results_kept_seconds: after how many seconds its results may be removed; None as files are in general.

    """

    id: str
    dialect: BatchDialect
    owner: str
    input_file_id: str
    endpoint: str
    completion_window: str
    created_at: datetime
    expires_at: datetime
    start: BatchStart = "now"
    max_dollars: float | None = None
    model: str | None = None
    is_for_all: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    posted_by: str = ""
    lines: int = 0
    results_kept_seconds: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            **asdict(self),
            "created_at": isoformat(self.created_at),
            "expires_at": isoformat(self.expires_at),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            id=str(document["id"]),
            dialect=document.get("dialect", "openai"),
            owner=str(document.get("owner", "")),
            input_file_id=str(document["input_file_id"]),
            endpoint=str(document["endpoint"]),
            completion_window=str(document.get("completion_window", "24h")),
            created_at=parse_moment(document["created_at"]),
            expires_at=parse_moment(document["expires_at"]),
            start=document.get("start", "now"),
            max_dollars=document.get("max_dollars"),
            model=document.get("model"),
            is_for_all=bool(document.get("is_for_all")),
            metadata=document.get("metadata") or {},
            posted_by=str(document.get("posted_by", "")),
            lines=int(document.get("lines", 0)),
            results_kept_seconds=document.get("results_kept_seconds"),
        )

    @classmethod
    def of_command(
        cls,
        id: str,
        file: FileRecord,
        *,
        endpoint: str,
        at: datetime,
        expires_at: datetime | None,
        start: BatchStart,
        max_dollars: float | None,
        posted_by: str,
    ) -> Self:
        """A batch that a command posts, without a key; it has a day, unless another time is said."""
        return cls(
            id=id,
            dialect="openai",
            owner="",
            input_file_id=file.id,
            endpoint=endpoint,
            completion_window="24h",
            created_at=at,
            expires_at=expires_at or at + WITHIN,
            start=start,
            max_dollars=max_dollars,
            posted_by=posted_by,
        )


@dataclass(frozen=True)
class LineCounts:
    """Lines of a batch: all, those with a result, those that failed for good."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed


@dataclass(frozen=True)
class BatchUse:
    """What its lines took so far, or will take.

    Args:
        prompt_tokens: read.
        output_tokens: made.
        line_seconds: from sending a line to its answer, added up over all lines.
        gpu_seconds: the part of the tiers' serving that went to it.
        dollars: the price of that; None where nothing is paid by the second.

    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    line_seconds: float = 0.0
    gpu_seconds: float = 0.0
    dollars: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "line_seconds": round(self.line_seconds, 3),
            "gpu_seconds": round(self.gpu_seconds, 3),
            "dollars": _rounded(self.dollars),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        known = {name: document[name] for name in cls.__dataclass_fields__ if document.get(name) is not None}
        return cls(**known)


@dataclass(frozen=True)
class LineError:
    """What is wrong with a line, or with the file where `line` is None. `line` counts from 1, as OpenAI's do."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True)
class Estimate:
    """What a batch will take, as far as was known before it ran.

    Args:
        use: tokens, seconds, dollars of serving.
        seconds: from the first line to the last.
        extra_dollars: for a wake and the idle time after it, where it needs one; None where nothing is paid.
        done_at: when it will be done.
        basis: what it rests on: "measured", "usage" or "guess".
        wake_dollars: of `extra_dollars`, the start.
        idle_dollars: of them, the time that a server waits on after the last line.
        reason: what it rests on, in words.

    """

    use: BatchUse
    seconds: float
    extra_dollars: float | None
    done_at: datetime
    basis: Literal["measured", "usage", "guess"]
    wake_dollars: float | None = None
    idle_dollars: float | None = None
    reason: str = ""

    @property
    def dollars(self) -> float | None:
        """All of it; None where nothing is paid by the second."""
        return None if self.use.dollars is None else self.use.dollars + (self.extra_dollars or 0.0)

    @property
    def price(self) -> str:
        """For people: all of it, and its parts where it has several."""
        if self.dollars is None:
            return "nothing: nothing here is paid by the second"
        parts = {"serving": self.use.dollars, "a wake": self.wake_dollars, "idle": self.idle_dollars}
        named = ", ".join(f"{name} {in_dollars(each)}" for name, each in parts.items() if each)
        return f"{in_dollars(self.dollars)}{f' ({named})' if self.extra_dollars else ''}"

    def as_json(self) -> dict[str, Any]:
        return {
            **self.use.as_json(),
            "seconds": round(self.seconds, 1),
            "extra_dollars": _rounded(self.extra_dollars),
            "wake_dollars": _rounded(self.wake_dollars),
            "idle_dollars": _rounded(self.idle_dollars),
            "done_at": isoformat(self.done_at),
            "basis": self.basis,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            use=BatchUse.from_json(document),
            seconds=float(document["seconds"]),
            extra_dollars=document.get("extra_dollars"),
            done_at=parse_moment(document["done_at"]),
            basis=document.get("basis", "guess"),
            wake_dollars=document.get("wake_dollars"),
            idle_dollars=document.get("idle_dollars"),
            reason=str(document.get("reason", "")),
        )


@dataclass(frozen=True)
class BatchState:
    """How a batch stands, by whoever works on it; written over and over.

    Args:
        status: as its attempt sees it.
        holder: the attempt.
        at: when it was written.
        counts: of lines.
        use: so far.
        estimate: once its file was read through.
        in_progress_at: when its first line was sent.
        finalizing_at: when its last line had a result.
        starts_at: until when it waits at the latest, where it waits.
        note: why it waits, or what will not hold.
        tiers: those that its lines go to.

    """

    status: BatchStatus
    holder: str
    at: datetime
    counts: LineCounts = LineCounts()
    use: BatchUse = BatchUse()
    estimate: Estimate | None = None
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    starts_at: datetime | None = None
    note: str = ""
    tiers: tuple[str, ...] = ()

    def with_status(self, status: BatchStatus, at: datetime) -> Self:
        return replace(self, status=status, at=at)

    def as_json(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            "status": self.status,
            "holder": self.holder,
            "at": isoformat(self.at),
            "counts": asdict(self.counts),
            "use": self.use.as_json(),
            "estimate": self.estimate and self.estimate.as_json(),
            "in_progress_at": _said(self.in_progress_at),
            "finalizing_at": _said(self.finalizing_at),
            "starts_at": _said(self.starts_at),
            "note": self.note,
            "tiers": list(self.tiers),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            status=document["status"],
            holder=str(document.get("holder", "")),
            at=parse_moment(document["at"]),
            counts=LineCounts(**document.get("counts", {})),
            use=BatchUse.from_json(document.get("use", {})),
            estimate=Estimate.from_json(document["estimate"]) if document.get("estimate") else None,
            in_progress_at=_moment(document.get("in_progress_at")),
            finalizing_at=_moment(document.get("finalizing_at")),
            starts_at=_moment(document.get("starts_at")),
            note=str(document.get("note", "")),
            tiers=tuple(map(str, document.get("tiers", ()))),
        )


@dataclass(frozen=True)
class BatchEnd:
    """How a batch ended, written once, when its results can be read.

    Args:
        status: how.
        at: when.
        state: how it stood then.
        errors: of the file, or why it ended early; at most `MOST_ERRORS`.
        output_file_id: the results; None where there are none.
        error_file_id: the lines that failed; None where none did.

    """

    status: EndStatus
    at: datetime
    state: BatchState
    errors: tuple[LineError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            "status": self.status,
            "at": isoformat(self.at),
            "state": self.state.as_json(),
            "errors": [asdict(each) for each in self.errors],
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            status=document["status"],
            at=parse_moment(document["at"]),
            state=BatchState.from_json(document["state"]),
            errors=tuple(LineError(**each) for each in document.get("errors", ())),
            output_file_id=document.get("output_file_id"),
            error_file_id=document.get("error_file_id"),
        )


def in_dollars(amount: float) -> str:
    """`$1.42`, and `$0.0031` of what is little and no whole number of cents."""
    return f"${amount:,.2f}" if amount >= 0.02 or amount == round(amount, 2) else f"${amount:.4f}"


def _rounded(dollars: float | None) -> float | None:
    return None if dollars is None else round(dollars, 6)


def _said(moment: datetime | None) -> str | None:
    return isoformat(moment) if moment else None


def _moment(text: str | None) -> datetime | None:
    return parse_moment(text) if text else None
