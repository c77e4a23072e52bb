"""The story of jobs that ended long ago, as JSON lines beside the weights: the Dict forgets what nobody touches.

A job is appended once. Nothing here is read again by the product; it is for people, and for their tools.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path

from loguru import logger

from jobs.ledger import Ledger

AFTER = timedelta(days=5)
"""An entry of the Dict fades after seven days in which nobody touched it; two nights may fail before that."""

FILE = "ops/jobs.jsonl"


def archive(ledger: Ledger, root: Path, now: datetime) -> int:
    """Append the jobs that ended long enough ago and are not there yet; how many those were."""
    path = root / FILE
    there = _ids(path)
    old = [job for job in ledger.jobs() if job.ended_at and now - job.ended_at > AFTER and job.id not in there]
    if old:
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(job.as_json()) + "\n" for job in reversed(old))
        logger.info("archived {} jobs", len(old))
    return len(old)


def _ids(path: Path) -> set[str]:
    """The jobs that are archived; a line that a killed container left torn counts for nobody."""
    found = set()
    if path.exists():
        for line in path.read_text("utf-8", errors="replace").splitlines():
            try:
                found.add(str(json.loads(line)["id"]))
            except (ValueError, KeyError, TypeError):
                continue
    return found
