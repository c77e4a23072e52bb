"""What lines take while they run: a server's time is shared among those under way, and `cost` knows better later."""

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from jobs.batches.measuring import LineMeter, SentLine, SharedTime
from jobs.batches.records import BatchUse
from jobs.batches.speed import Speed
from jobs.testing.clock import HandClock

BEGIN = datetime(2026, 10, 5, 22, tzinfo=UTC)
PRICES = {"a10g": 0.0004, "h100": 0.0012}


def answered(clock: HandClock, line: SentLine, *, read: int = 100, made: int = 50) -> None:
    line.answered(clock.monotonic(), prompt_bytes=400, prompt_tokens=read, output_tokens=made, max_tokens=None)


def run(clock: HandClock, meter: LineMeter, seconds: float, tier: str = "a10g", model: str = "m") -> None:
    """One line, by itself."""
    with meter.line(tier, model) as line:
        clock.tick(seconds)
        answered(clock, line)


def test_lines_beside_one_another_share_a_server() -> None:
    """Three lines that are under way together for ten seconds take ten seconds of a server, and thirty of lines."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES)
    with ExitStack() as under_way:
        lines = [under_way.enter_context(meter.line("a10g", model)) for model in ("m", "m", "n")]
        clock.tick(10)
        for line in lines:
            answered(clock, line)

    use = meter.use()
    assert (use.prompt_tokens, use.output_tokens, use.line_seconds) == (300, 150, 30.0)
    assert use.gpu_seconds == pytest.approx(10.0)
    assert use.dollars == pytest.approx(0.004)
    speeds = meter.speeds()
    assert speeds["a10g", "m"].lines == 2
    assert speeds["a10g", "n"].gpu_seconds == pytest.approx(10 / 3)


def test_tiers_have_servers_of_their_own() -> None:
    """Lines on two tiers do not share: each is paid by its own price; what is not under way takes nothing."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES)
    with meter.line("a10g", "m") as one, meter.line("h100", "n") as other:
        clock.tick(10)
        answered(clock, one)
        answered(clock, other)
    clock.tick(1000)

    assert meter.use().gpu_seconds == 20
    assert meter.use().dollars == pytest.approx(10 * 0.0004 + 10 * 0.0012)


def test_attempts_before_count() -> None:
    """What earlier attempts took stays in the sum."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES, before=BatchUse(7, 8, 9.0, 10.0, 1.0))
    run(clock, meter, 10)
    use = meter.use()
    assert (use.prompt_tokens, use.output_tokens, use.line_seconds, use.gpu_seconds) == (107, 58, 19.0, 20.0)
    assert use.dollars == pytest.approx(1.004)


def test_a_start_is_no_speed() -> None:
    """Lines that waited for a start or a load tell nothing of how fast the others are, and their wait is no serving."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES)
    run(clock, meter, 60)  # a start, and the line
    for _ in range(20):
        run(clock, meter, 2)

    assert meter.use().gpu_seconds == pytest.approx(21 * 2)
    speed = meter.speeds()["a10g", "m"]
    assert (speed.lines, speed.seconds) == (20, 40)
    assert speed.gpu_seconds == pytest.approx(40)


def test_only_first_lines_are_better_than_none() -> None:
    """A batch whose lines all came first measures by them."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES)
    run(clock, meter, 5)
    assert meter.speeds()["a10g", "m"].lines == 1


def test_the_wait_for_a_turn_is_no_work() -> None:
    """For as long as a line waited at the gateway for its turn, nothing was done for it."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES)
    for _ in range(11):
        with meter.line("a10g", "m") as line:
            clock.tick(10)
            line.waited = 8.0
            answered(clock, line)
    assert meter.use().line_seconds == 22
    assert meter.use().gpu_seconds == pytest.approx(22)
    assert meter.speeds()["a10g", "m"].seconds == 20


def test_a_line_that_was_not_answered_takes_time_and_tells_no_speed() -> None:
    """One that was cut, or failed, has used the server; of how fast lines are it says nothing."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES)
    with meter.line("a10g", "m"):
        clock.tick(10)
    assert meter.speeds() == {}
    assert (meter.use().gpu_seconds, meter.use().prompt_tokens) == (10, 0)


def test_cost_knows_better_once_it_knows_nearly_all() -> None:
    """Beside people, or on two servers, what `cost` makes of it counts, as soon as the usage tells of nine tenths; it
    is asked once a minute, from the first midnight in UTC on, and at the end."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES)
    asked: list[datetime] = []
    shared = {("a10g", "m"): SharedTime(8, 16.0)}

    def cost(since: datetime) -> Mapping[tuple[str, str], SharedTime]:
        asked.append(since)
        return shared

    for _ in range(10):
        run(clock, meter, 6)
    meter.look(cost)
    assert meter.use().gpu_seconds == 60  # the usage lags behind
    shared = {("a10g", "m"): SharedTime(9, 18.0)}
    meter.look(cost)
    assert meter.use().gpu_seconds == 60
    meter.look(cost, is_due=True)

    assert meter.use().gpu_seconds == pytest.approx(20)
    assert meter.use().dollars == pytest.approx(20 * 0.0004)
    assert asked == [datetime(2026, 10, 5, tzinfo=UTC)] * 2


def test_on_ones_own_machine_cost_is_not_asked() -> None:
    """Where nothing is paid by the second nothing is looked up, and no dollars are told."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, {})
    run(clock, meter, 3)

    def never(_: datetime) -> Mapping[tuple[str, str], SharedTime]:
        raise AssertionError

    meter.look(never, is_due=True)
    assert (meter.use().dollars, meter.use().gpu_seconds) == (None, 3)


def test_a_speed_of_a_batch_is_that_of_a_steady_one() -> None:
    """The last line has a server for itself, which the next estimate adds again: as it was measured, it is told."""
    clock = HandClock(BEGIN)
    meter = LineMeter(clock, PRICES)
    run(clock, meter, 4)
    for _ in range(5):
        with ExitStack() as under_way:
            lines = [under_way.enter_context(meter.line("a10g", "m")) for _ in range(4)]
            clock.tick(4)
            for line in lines:
                answered(clock, line)
    speed = meter.speeds()["a10g", "m"]
    assert isinstance(speed, Speed)
    assert speed.gpu_seconds_of(speed.seconds) == pytest.approx(meter.use().gpu_seconds * 20 / 21)
