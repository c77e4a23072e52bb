"""Until when a batch has to be done, as people say it."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from jobs.batches.deadlines import deadline_by, deadline_within
from jobs.core.errors import BadRequest

NOW = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)
"""22:00 in Berlin, in the night in which summer time ends there."""
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("window", "span"),
    [
        ("24h", timedelta(hours=24)),
        ("1h", timedelta(hours=1)),
        ("7d", timedelta(days=7)),
        ("30m", timedelta(minutes=30)),
        (" 30 MIN ", timedelta(minutes=30)),
        ("30d", timedelta(days=30)),
        ("60s", timedelta(minutes=1)),
    ],
)
def test_a_window_is_counted_from_now(window: str, span: timedelta) -> None:
    """A batch that has a window has to be done when so much time has passed."""
    assert deadline_within(window, NOW) - NOW == span


@pytest.mark.parametrize("window", ["", "24", "h", "-1h", "1 year", "59s", "31d", "0h", "999999w", "24h\x00", "٣h"])
def test_a_window_that_is_none_is_told_which_are(window: str) -> None:
    """What is no span, or too short or too long for a batch, is refused with those that are right."""
    with pytest.raises(BadRequest) as refusal:
        deadline_within(window, NOW)
    assert "from 1min to 30d, like 24h, 1h or 7d" in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("07:00", datetime(2026, 10, 25, 6, 0, tzinfo=UTC)),  # summer time has ended by then
        ("23:30", datetime(2026, 10, 24, 21, 30, tzinfo=UTC)),
        ("22:00", datetime(2026, 10, 25, 21, 0, tzinfo=UTC)),  # it is that now, so tomorrow's is meant
        ("2026-10-26T07:00", datetime(2026, 10, 26, 6, 0, tzinfo=UTC)),
        ("2026-10-26 07:00", datetime(2026, 10, 26, 6, 0, tzinfo=UTC)),
        ("2026-10-26T07:00:00Z", datetime(2026, 10, 26, 7, 0, tzinfo=UTC)),
        ("2026-10-26T07:00:00-05:00", datetime(2026, 10, 26, 12, 0, tzinfo=UTC)),
    ],
)
def test_a_time_is_the_next_one_of_that_zone(text: str, moment: datetime) -> None:
    """A time of day is the next time that the zone's clocks show it; a moment is that moment."""
    assert deadline_by(text, NOW, BERLIN) == moment


def test_without_a_zone_it_is_the_machines() -> None:
    """Where no zone is given, a time of day is one of this machine's clock."""
    shown = deadline_by("07:00", NOW, None).astimezone()
    assert (shown.hour, shown.minute) == (7, 0)
    assert timedelta(0) < shown - NOW <= timedelta(hours=25)
    assert deadline_by("2026-10-26T07:00", NOW, None).astimezone().hour == 7


@pytest.mark.parametrize(
    "text",
    ["", "7", "24:00", "07:60", "tomorrow", "2026-10-26", "2026-10-24T19:59:00Z", "2026-11-24T00:00:00Z", "9999"],
)
def test_a_time_that_is_none_is_told_which_are(text: str) -> None:
    """What is no time, has passed, or is more than 30 days away is refused, and it is told what would be right."""
    with pytest.raises(BadRequest) as refusal:
        deadline_by(text, NOW, BERLIN)
    assert "07:00" in (refusal.value.hint or "") or "30 days" in (refusal.value.hint or "")
