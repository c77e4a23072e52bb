"""A batch as one document, for the command line, the ops API and the page; OpenAI's and Anthropic's clients have shapes
of their own. Pure."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from jobs.batches.records import BatchEnd, BatchRecord, BatchState, BatchStatus, BatchUse, LineCounts
from jobs.core.clock import isoformat

OVER = frozenset({"completed", "failed", "expired", "cancelled"})
"""The statuses of a batch that has ended."""


def document_of(
    record: BatchRecord, status: BatchStatus, state: BatchState | None, end: BatchEnd | None
) -> dict[str, Any]:
    """How a batch was posted, how it stands, and how it ended. No content of a line is in it.

    Args:
        record: as it was posted.
        status: how it stands now.
        state: how whoever works on it says that it stands; None before anybody has.
        end: None before it has ended.

    """
    state = end.state if end else state
    counts, use = (state.counts, state.use) if state else (LineCounts(), BatchUse())
    return {
        "id": record.id,
        "status": status,
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
        "lines": {"total": counts.total, "completed": counts.completed, "failed": counts.failed},
        "use": use.as_json(),
        "estimate": state.estimate.as_json() if state and state.estimate else None,
        "in_progress_at": _said(state and state.in_progress_at),
        "finalizing_at": _said(state and state.finalizing_at),
        "ended_at": _said(end and end.at),
        "starts_at": _said(state and state.starts_at),
        "note": state.note if state else "",
        "errors": [asdict(each) for each in end.errors] if end else [],
        "input_file_id": record.input_file_id,
        "output_file_id": end and end.output_file_id,
        "error_file_id": end and end.error_file_id,
    }


def _said(moment: datetime | None) -> str | None:
    return isoformat(moment) if moment else None
