"""What is on the volume, for whoever mounts it: nothing here writes."""

from pathlib import Path
from typing import Any

from app.accounting import spending
from app.accounting.archive import archive_at, archived_jobs
from app.resources import MODELS, volume
from jobs.core.clock import parse_moment
from jobs.home.status import Found, found_in
from jobs.weights import survey
from jobs.weights.layout import Layout


def found() -> Found:
    """The models, and what is wrong with those that are not whole."""
    volume.reload()
    return found_in(survey.survey(Layout(Path(MODELS))), "the volume")


def past(since: str) -> list[dict[str, Any]]:
    """The archived jobs that were posted since then."""
    volume.reload()
    return [job.as_json() for job in archived_jobs(archive_at(Path(MODELS)), parse_moment(since))]


def spent() -> dict[str, Any]:
    """What the archive knows of containers and usage."""
    volume.reload()
    return spending.past(archive_at(Path(MODELS)))
