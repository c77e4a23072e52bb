"""What is told of files and batches: documents with every field that OpenAI's and Anthropic's clients read. Pure.

`start`, `max_dollars`, `starts_at`, `estimate`, `use` and `note` are ours; clients keep what they do not know.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from jobs.batches.batch_store import Batch
from jobs.batches.records import BatchUse, FileRecord, LineError
from jobs.core.clock import isoformat

Document = dict[str, Any]


# -- OpenAI ------------------------------------------------------------------------------------------------------------


def openai_file(file: FileRecord) -> Document:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": _seconds(file.created_at),
        "expires_at": _seconds(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def openai_batch(batch: Batch) -> Document:
    record, end = batch.record, batch.end
    state = end.state if end is not None else batch.state
    ended_at = _seconds(end.at) if end is not None else None
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "model": record.model,
        "errors": _errors(end.errors) if end is not None else None,
        "input_file_id": record.input_file_id,
        "completion_window": record.completion_window,
        "status": batch.status,
        "output_file_id": end.output_file_id if end is not None else None,
        "error_file_id": end.error_file_id if end is not None else None,
        "created_at": _seconds(record.created_at),
        "in_progress_at": _seconds(state.in_progress_at) if state is not None else None,
        "expires_at": _seconds(record.expires_at),
        "finalizing_at": _seconds(state.finalizing_at) if state is not None else None,
        **{
            f"{status}_at": ended_at if batch.status == status else None
            for status in ("completed", "failed", "expired")
        },
        "cancelling_at": _seconds(batch.cancelling_at),
        "cancelled_at": ended_at if batch.status == "cancelled" else None,
        "request_counts": asdict(batch.counts),
        "usage": _usage(batch.use),
        "metadata": dict(record.metadata) or None,
        **_ours(batch),
    }


def _errors(errors: Sequence[LineError]) -> Document | None:
    return {"object": "list", "data": [asdict(each) for each in errors]} if errors else None


def _usage(use: BatchUse) -> Document:
    return {
        "input_tokens": use.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": use.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": use.prompt_tokens + use.output_tokens,
    }


def openai_page(documents: Sequence[Document], *, has_more: bool) -> Document:
    return {"object": "list", "data": documents, **_ends(documents), "has_more": has_more}


# -- Anthropic ---------------------------------------------------------------------------------------------------------


def message_batch(batch: Batch) -> Document:
    record, end = batch.record, batch.end
    return {
        "id": record.id,
        "type": "message_batch",
        "processing_status": _processing_status(batch),
        "request_counts": _message_counts(batch),
        "created_at": isoformat(record.created_at),
        "expires_at": isoformat(record.expires_at),
        "ended_at": isoformat(end.at) if end is not None else None,
        "cancel_initiated_at": isoformat(batch.cancelling_at) if batch.cancelling_at is not None else None,
        "archived_at": None,
        "results_url": f"/v1/messages/batches/{record.id}/results" if end is not None else None,
        "metadata": dict(record.metadata) or None,
        "errors": _errors(end.errors) if end is not None else None,
        **_ours(batch),
    }


def _processing_status(batch: Batch) -> str:
    if batch.end is not None:
        return "ended"
    return "canceling" if batch.cancelling_at is not None else "in_progress"


def _message_counts(batch: Batch) -> Document:
    """All are processing until all have ended, as Anthropic counts."""
    counts, end = batch.counts, batch.end
    told = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    if end is None:
        return told | {"processing": counts.total or batch.record.lines}
    rest = counts.total - counts.ended
    kind = {"cancelled": "canceled", "expired": "expired"}.get(end.status, "errored")
    told |= {"succeeded": counts.completed, "errored": counts.failed}
    told[kind] += rest
    return told


def message_page(documents: Sequence[Document], *, has_more: bool) -> Document:
    return {"data": documents, **_ends(documents), "has_more": has_more}


# -- both --------------------------------------------------------------------------------------------------------------


def _ours(batch: Batch) -> Document:
    record = batch.record
    state = batch.end.state if batch.end is not None else batch.state
    return {
        "start": record.start,
        "max_dollars": record.max_dollars,
        "starts_at": isoformat(state.starts_at) if state is not None and state.starts_at is not None else None,
        "estimate": state.estimate.as_json() if state is not None and state.estimate is not None else None,
        "use": batch.use.as_json(),
        "note": state.note if state is not None and state.note else None,
    }


def _ends(documents: Sequence[Document]) -> Document:
    return {
        "first_id": documents[0]["id"] if documents else None,
        "last_id": documents[-1]["id"] if documents else None,
    }


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None
