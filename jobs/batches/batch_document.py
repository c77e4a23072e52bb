"""A batch as one document, for the command line, the ops API and the page; OpenAI's and Anthropic's clients have shapes
of their own. Pure."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from jobs.batches.batch_store import Batch
from jobs.core.clock import isoformat


def document_of(batch: Batch) -> dict[str, Any]:
    """How a batch was posted, how it stands, and how it ended. No content of a line is in it."""
    record, state, end = batch.record, batch.last_state, batch.end
    return {
        "id": record.id,
        "status": batch.status,
        "endpoint": record.endpoint,
        "dialect": record.dialect,
        "model": record.model,
        "owner": record.owner,
        "posted_by": record.posted_by,
        "created_at": isoformat(record.created_at),
        "expires_at": isoformat(record.expires_at),
        "completion_window": record.completion_window,
        "start": record.start,
        "max_dollars": record.max_dollars,
        "metadata": dict(record.metadata),
        "lines": asdict(batch.counts),
        "use": batch.use.as_json(),
        "estimate": batch.estimate.as_json() if batch.estimate else None,
        "in_progress_at": _said(state.in_progress_at if state else None),
        "finalizing_at": _said(state.finalizing_at if state else None),
        "ended_at": _said(batch.ended_at),
        "starts_at": _said(state.starts_at if state and not batch.has_ended else None),
        "note": batch.note,
        "errors": [asdict(each) for each in batch.errors],
        "input_file_id": record.input_file_id,
        "output_file_id": end and end.output_file_id,
        "error_file_id": end and end.error_file_id,
    }


def _said(moment: datetime | None) -> str | None:
    return isoformat(moment) if moment else None
