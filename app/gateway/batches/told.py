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
    record, end, state = batch.record, batch.end, batch.last_state
    ended_at = _seconds(_ended_at(batch))
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "model": record.model,
        "errors": _errors(batch.errors),
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
        "cancelling_at": _seconds(_cancelling_at(batch)),
        "cancelled_at": ended_at if batch.status == "cancelled" else None,
        "request_counts": _request_counts(batch),
        "usage": _usage(batch.use),
        "metadata": dict(record.metadata) or None,
        **_ours(batch),
    }


def _request_counts(batch: Batch) -> Document:
    """Lines for which the time was over have failed, as OpenAI counts: they are in the file of errors."""
    counts = batch.counts
    is_expired = batch.end is not None and batch.status == "expired"
    return asdict(counts) | ({"failed": counts.total - counts.completed} if is_expired else {})


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
    record, ended_at, cancelling_at = batch.record, _ended_at(batch), _cancelling_at(batch)
    return {
        "id": record.id,
        "type": "message_batch",
        "processing_status": _processing_status(batch),
        "request_counts": _message_counts(batch),
        "created_at": isoformat(record.created_at),
        "expires_at": isoformat(record.expires_at),
        "ended_at": isoformat(ended_at) if ended_at is not None else None,
        "cancel_initiated_at": isoformat(cancelling_at) if cancelling_at is not None else None,
        "archived_at": None,
        "results_url": f"/v1/messages/batches/{record.id}/results" if batch.has_ended else None,
        "metadata": dict(record.metadata) or None,
        "errors": _errors(batch.errors),
        **_ours(batch),
    }


def _processing_status(batch: Batch) -> str:
    if batch.has_ended:
        return "ended"
    return "canceling" if batch.cancel_asked else "in_progress"


def _message_counts(batch: Batch) -> Document:
    """All are processing until all have ended, as Anthropic counts."""
    counts = batch.counts
    told = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    total = counts.total or batch.record.lines
    if not batch.has_ended:
        return told | {"processing": total}
    rest = total - counts.ended
    kind = {"cancelled": "canceled", "expired": "expired"}.get(batch.status, "errored")
    told |= {"succeeded": counts.completed, "errored": counts.failed}
    told[kind] += rest
    return told


def message_page(documents: Sequence[Document], *, has_more: bool) -> Document:
    return {"data": documents, **_ends(documents), "has_more": has_more}


# -- both --------------------------------------------------------------------------------------------------------------


def _ours(batch: Batch) -> Document:
    record, state = batch.record, batch.last_state
    return {
        "start": record.start,
        "max_dollars": record.max_dollars,
        "starts_at": isoformat(state.starts_at) if state is not None and state.starts_at is not None else None,
        "estimate": batch.estimate.as_json() if batch.estimate is not None else None,
        "use": batch.use.as_json(),
        "note": batch.note or None,
    }


def _ended_at(batch: Batch) -> datetime | None:
    """When it ended; of one whose job ended without it, when it was last heard of."""
    if batch.broke is not None:
        return batch.state.at if batch.state is not None else batch.record.created_at
    return batch.ended_at


def _cancelling_at(batch: Batch) -> datetime | None:
    """When somebody asked it to stop; of one that has ended so, when it was heard."""
    if batch.end is not None and batch.end.status == "cancelled":
        return batch.end.state.finalizing_at or batch.end.at
    return batch.cancelling_at


def _ends(documents: Sequence[Document]) -> Document:
    return {
        "first_id": documents[0]["id"] if documents else None,
        "last_id": documents[-1]["id"] if documents else None,
    }


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None
