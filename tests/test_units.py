"""Promises of jobs.units."""

import pytest

from jobs.units import human_bytes


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
