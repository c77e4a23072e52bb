"""Promises of jobs.core.units."""

from datetime import timedelta

import pytest

from jobs.core.errors import BadRequest
from jobs.core.units import counted, human_bytes, parse_span


def test_one_is_not_several() -> None:
    """A count agrees with its noun, whatever the noun's plural is, and large ones are grouped."""
    assert [counted(number, "job") for number in (0, 1, 2, 1204)] == ["0 jobs", "1 job", "2 jobs", "1,204 jobs"]
    assert [counted(number, "waits", "wait") for number in (1, 2)] == ["1 waits", "2 wait"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_960, "10 kB"),
        (999_499, "999 kB"),
        (999_600, "1.0 MB"),
        (2_019_393_189, "2.0 GB"),
        (815_000_000, "815 MB"),
        (19_851_349_856, "20 GB"),
        (1.5e15, "1.5 PB"),
        (5e18, "5000 PB"),
    ],
)
def test_sizes_read_as_ollama_shows_them(count: float, shown: str) -> None:
    """Decimal units, at most three figures, and rounding never shows a thousand of a smaller unit."""
    assert human_bytes(count) == shown


@pytest.mark.parametrize(
    ("text", "hours"), [("90d", 2160), ("12h", 12), ("30min", 0.5), ("2w", 336), ("1.5 d", 36), ("7200s", 2)]
)
def test_spans_are_read_as_people_write_them(text: str, hours: float) -> None:
    """A number and a unit name a span of time."""
    assert parse_span(text, "--since") == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "90", "d", "-3d", "3 months", "1e9d", "99999999d"])
def test_what_is_no_span_is_refused(text: str) -> None:
    """Anything else is refused with the option, the text, and what would be right."""
    with pytest.raises(BadRequest, match=r"--since .* is no span of time") as refused:
        parse_span(text, "--since")
    assert refused.value.hint == "a span looks like 90d, 12h, 30min or 2w"
