"""Sizes, spans and moments as large, and as odd, as they come: everything that reckons with them or words them goes on.

Sizes reach 2^50 bytes, a petabyte; spans reach years; what others send reaches as far as its notation does.
"""

import io
import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress as Drawn

from app.accounting.modal_prices import CPU, MEMORY, priced
from app.accounting.window_cost import offers
from app.fleet.schema import declared
from app.gateway.auth.keys import Key
from app.local.commands.key_commands import expiry_of
from jobs.access.keys.key_words import parse_expiry
from jobs.cli.follow import Lines
from jobs.cli.progress_bar import Bars
from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import BadRequest
from jobs.core.progress import Progress, Reading
from jobs.core.units import LONGEST_SPAN, human_bytes, human_span, parse_bytes, parse_span
from jobs.ledger.job import Attempt, Job, JobState
from jobs.ledger.job_text import story
from jobs.ollama.errors import refusal
from jobs.ollama.responses import Usage
from jobs.telemetry.container_time import SHARES, Metered
from jobs.telemetry.cost import Cost, cost
from jobs.telemetry.usage import About, Row, Sums
from jobs.testing.clock import HandClock
from jobs.weights.survey import survey
from tests.support.models_directory import put, sample, weights_at

NOW = datetime(2026, 6, 1, 2, tzinfo=UTC)
PETABYTE = 2**50
SIZES = st.integers(0, PETABYTE)
YEARS = st.integers(0, 40 * 366 * 86_400)
FLEET = declared()


def running(reading: Reading, started_at: datetime) -> Job:
    attempt = Attempt(1, started_at, "w", timedelta(minutes=1), NOW)
    return Job(
        "j-1",
        "pull",
        "m:latest",
        "weights",
        JobState.RUNNING,
        {"rate_limit": 1},
        8,
        started_at,
        "t",
        (attempt,),
        reading,
    )


@given(size=st.integers(0, 2**63), unit=st.sampled_from(["", "k", "M", "G", "T", "P"]))
def test_a_size_is_worded_and_read_back(size: int, unit: str) -> None:
    """A size has at most four figures up to a thousand petabytes; what is read is a whole number of bytes."""
    shown = human_bytes(size)
    assert len(shown) <= 7 or size >= 10**18
    assert parse_bytes(shown, "size") == pytest.approx(size, rel=0.06) if size else True
    assert parse_bytes(f"{size % 1000 + 1}{unit}", "size") % 1 == 0


@given(total=SIZES, done=SIZES, rate=st.floats(0, 1e12), age=YEARS)
def test_a_pull_is_told_however_large_and_slow(total: int, done: int, rate: float, age: int) -> None:
    """A bar, lines and the story of a pull of any size, at any rate, that has lasted for years."""
    job = running(Reading(min(done, total), total, round(rate, 1), "pulling"), NOW - timedelta(seconds=age))
    written: list[str] = []
    Lines(written.append).show(job)
    drawn = Drawn(console=Console(file=io.StringIO(), width=200))
    Bars(drawn).show(job)
    told = [*written, *story(job, NOW)]
    assert written
    assert not total or any(human_bytes(total) in line for line in told)


@given(pieces=st.lists(st.tuples(SIZES, st.floats(0, 1e6)), min_size=1, max_size=8))
def test_progress_counts_every_byte(pieces: list[tuple[int, float]]) -> None:
    """What moved is counted to the byte, and its reading goes through JSON as it is."""
    clock = HandClock(NOW)
    progress = Progress(clock)
    progress.begin("pulling", total=sum(amount for amount, _ in pieces), completed=0)
    for amount, pause in pieces:
        clock.wait(pause)
        progress.advance(amount)
    reading = progress.read()
    assert (reading.completed, reading.total) == (sum(amount for amount, _ in pieces),) * 2
    assert Reading(**json.loads(json.dumps(reading.as_json()))) == reading


@given(seconds=st.floats(0, 1e300))
def test_no_time_is_too_long_to_be_told(seconds: float) -> None:
    """A time left that no `timedelta` holds is told in days."""
    assert human_span(seconds)[-2:] in {" s", "in", " h"}


@given(
    seconds=st.lists(st.floats(0, 1e9), min_size=4, max_size=4),
    spans=st.tuples(YEARS, YEARS),
    count=st.integers(0, 2**63),
    took=st.floats(0, 1e18),
)
def test_a_cost_adds_up_over_years(seconds: list[float], spans: tuple[int, int], count: int, took: float) -> None:
    """What containers and callers took over years is estimated, worded, and read back from JSON as it was told."""
    life, back = spans
    until, since = NOW, NOW - timedelta(seconds=back)
    shares = dict(zip(SHARES, seconds, strict=True))
    container = Metered("h100", "c", NOW - timedelta(seconds=life), NOW, shares)
    about = About(NOW.date().isoformat(), "m:latest", "k", "h100", "success")
    row = Row(about, Sums(count, count, count, count, took, took, NOW))
    prices = {"h100": FLEET.dollars_per_hour("h100")}
    found = cost([container], [row], prices, since=since, until=until, as_of="today", source="test")
    assert 0 <= found.dollars <= sum(seconds) * prices["h100"] / 3600 + 1e-6
    told = Cost.from_json(json.loads(json.dumps(found.as_json())))
    assert told.dollars == pytest.approx(found.dollars, abs=0.05, rel=0.01)
    assert [use.requests for use in told.uses] == [use.requests for use in found.uses]
    assert list(found.lines())


@given(hourly=st.decimals("0.000001", "1e9"), cold=st.floats(0, 1e9))
def test_windows_are_priced_at_any_rate(hourly: Decimal, cold: float) -> None:
    """A rate of any size, and a start that took years, make a price and a whole number of cold starts."""
    names = {choice.kind for tier in FLEET.tiers.values() for choice in tier.gpu_choices}
    rates = {CPU: hourly, MEMORY: hourly} | {
        f"gpu_hour_cost_{'a10g' if name == 'A10' else name.lower()}": hourly for name in names
    }
    fleet = priced(FLEET, NOW.date(), lambda: rates)
    shares = dict(zip(SHARES, (cold, 0.0, 0.0, 0.0), strict=True))
    meter = Metered("a10g", "c", NOW, NOW, shares)
    for offer in offers(fleet, {meter.key: meter.as_json()}, NOW):
        assert offer.break_even >= 0
        assert list(offer.lines())
        assert json.dumps(offer.as_json(), allow_nan=False)


# What others write


@given(years=st.integers(1, 9999), month=st.integers(1, 12), zone=st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_an_expiry_is_a_moment_or_refused(years: int, month: int, zone: int) -> None:
    """A key expires at any moment that there is; one beyond the edge of time is refused in words."""
    sign, (hours, minutes) = "-" if zone < 0 else "+", divmod(abs(zone), 60)
    for day, hour in ((1, "00:00:00"), (28, "23:59:59"), (31 if month in {1, 12} else 28, "23:59:59")):
        text = f"{years:04}-{month:02}-{day:02}T{hour}{sign}{hours:02}:{minutes:02}"
        try:
            at = parse_expiry(text)
        except BadRequest:
            assert years in {1, 9999}
        else:
            assert parse_moment(isoformat(at)) == at


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_the_edge_of_time_is_a_plain_refusal(text: str) -> None:
    """In a key's line and on the command line alike."""
    line = f"alice sha256:{'a' * 64} expires={text}"
    for ask in (lambda: Key.parse(line), lambda: expiry_of(text, NOW)):
        with pytest.raises(BadRequest, match="is no moment"):
            ask()


@given(st.integers(0, 999_999), st.sampled_from(["s", "min", "h", "d", "w"]))
def test_a_span_leads_to_a_day_of_the_calendar(count: int, unit: str) -> None:
    """Whatever span is taken, the present and it make a moment; longer ones are refused."""
    try:
        span = parse_span(f"{count}{unit}", "--since")
    except BadRequest:
        assert count * {"h": 1, "d": 24, "w": 168}[unit] > 24 * LONGEST_SPAN.days
    else:
        assert NOW - span < NOW + span or not count


@pytest.mark.parametrize("seconds", [0, -1, 10**11, -(10**11), 2**40])
def test_a_file_of_any_time_is_listed(seconds: int, tmp_path: Path) -> None:
    """A file whose time no calendar has, as a damaged disk or a wrong clock leaves it, hides no model."""
    weights = weights_at(tmp_path)
    manifest = put(weights, sample("m", b"x"))
    stray = weights.layout.blobs / f"sha256-{'0' * 64}-partial"
    stray.write_bytes(b"half")
    staged = weights.layout.staging / "pull-m@released-1"
    staged.mkdir(parents=True)
    for path in (manifest, stray, staged):
        os.utime(path, (seconds, seconds))
    found = survey(weights.layout)
    assert [str(model.name) for model in found.models] == ["m:latest"]
    assert (len(found.strays), len(found.stagings)) == (1, 1)


@given(st.integers(-(2**80), 2**80) | st.just(int("9" * 4000)))
def test_a_server_may_say_any_number(number: int) -> None:
    """An answer of Ollama's with a duration or a count beyond all measure is an answer."""
    told = Usage.of({"eval_count": number, "eval_duration": number, "total_duration": number})
    assert told.tokens_per_second >= 0
    assert told.total == told.eval


@given(st.integers(1, 10**30) | st.just(int("9" * 4000)))
def test_no_wait_that_a_server_asks_for_is_longer_than_a_day(seconds: int) -> None:
    """Whatever stands behind `Retry-After`."""
    trouble = refusal(503, "busy", doing="asking", retry_after=str(seconds))
    assert trouble.retry_after == timedelta(seconds=min(seconds, 86_400))
