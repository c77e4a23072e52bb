"""What is typed of a batch beside its file: by when, when it may begin, for how much. Pure."""

from datetime import UTC, datetime
from typing import get_args

from jobs.batches.deadlines import deadline_by, deadline_within
from jobs.batches.records import BatchStart
from jobs.core.errors import BadRequest

STARTS: tuple[BatchStart, ...] = get_args(BatchStart)


def deadline_of(by: str | None, now: datetime) -> datetime | None:
    """The moment that `07:00`, `8h` or a date with its time mean, on the reader's clock."""
    if by is None:
        return None
    said = by.strip()
    if said[:1].isdigit() and said[-1:].isalpha() and ":" not in said:
        return deadline_within(said, now, what="--by")
    moment = deadline_by(said, now, now.tzinfo or UTC, what="--by")
    then = moment.astimezone().tzinfo  # another one where the clocks are changed until then
    return deadline_by(said, now, then or UTC, what="--by")


def start_of(start: str | None) -> BatchStart | None:
    found: BatchStart | None = next((each for each in STARTS if each == start), None)
    if start is not None and found is None:
        raise BadRequest(f"there is no start {start!r}", hint=f"starts are {', '.join(STARTS)}")
    return found


def dollars_of(dollars: float | None) -> float | None:
    if dollars is not None and not 0 < dollars < 1e9:  # neither is what is no number
        raise BadRequest(f"--max-dollars {dollars:g} makes no sense", hint="a number above 0, like 3 or 0.5")
    return dollars
