"""Promises of jobs.core.since."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from jobs.core.errors import BadRequest
from jobs.core.since import EXAMPLES, parse_since

NOW = datetime(2026, 9, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("7d", "2026-09-13T12:00Z"), ("24h", "2026-09-19T12:00Z"), ("30m", "2026-09-20T11:30Z"),
        ("30min", "2026-09-20T11:30Z"), ("1.5 D", "2026-09-19T00:00Z"), (" 2w ", "2026-09-06T12:00Z"),
        ("2026-09-15", "2026-09-15T00:00Z"), ("2026-09-15T08:00:00Z", "2026-09-15T08:00Z"),
        ("2026-09-15 08:00+02:00", "2026-09-15T06:00Z"),
    ],
)  # fmt: skip
def test_spans_days_and_moments_are_read(text: str, moment: str) -> None:
    """A span counts back from now, a day begins at midnight UTC, a moment is what its zone makes it."""
    assert parse_since(text, "since", NOW) == datetime.fromisoformat(moment)


def test_a_day_is_the_same_wherever_it_is_read() -> None:
    """The reader's own zone does not move the beginning of a day, which the API counts in UTC."""
    there = NOW.astimezone(timezone(timedelta(hours=9)))
    assert parse_since("2026-09-15", "--since", there) == parse_since("2026-09-15", "since", NOW)
    assert parse_since("7d", "--since", there) == parse_since("7d", "since", NOW)


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "7", "1757894400", "-7d", "7d ago", "2026-13-01", "2026-09-15T08:00:00", "0001-01-01T00:00+14:00",
        "99999w", "20260915", "\u0667d", "2026-09-15T08:00:00 02:00",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    """With the name of the option, the text, and what would be right; a moment without its zone is none."""
    with pytest.raises(BadRequest, match=r"^since '.*' is no time$") as refused:
        parse_since(text, "since", NOW)
    assert refused.value.hint == EXAMPLES
