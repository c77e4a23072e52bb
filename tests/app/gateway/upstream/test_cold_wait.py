"""What a gateway measured and what a server told, joined: the phases add up, whatever the clocks say."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.upstream.cold_wait import ColdWait, Waited, alone, joined
from app.model_server.report import Report
from app.model_server.starting.phases import Phases
from jobs.telemetry.cold_starts import ColdStart, Progress
from jobs.testing.clock import HandClock

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GB = 1_000_000_000
LLAMA = "llama3.2:latest"

span = st.floats(0, 30)


def waited(loaded: float, first_token: float | None = None, *, woke: bool = True, awake: float = 0.0) -> Waited:
    return Waited("a10g", LLAMA, NOW, woke, awake, loaded, first_token)


def server(*told: Progress, container: str = "ta-1", at: datetime = NOW) -> Report:
    return Report("a10g", container, "serving", at, progress=told)


def started(at: datetime, model: str = LLAMA, **seconds: float) -> Progress:
    return Progress(0, "start", at, model, None, seconds, size=2 * GB)  # type: ignore[arg-type]


@given(st.lists(span, min_size=7, max_size=7), st.floats(-40, 40), span)
def test_the_phases_are_the_whole(took: list[float], skew: float, poll: float) -> None:
    """A start as it truly went, told by two machines whose clocks differ: the sum is what the caller waited, to the
    millisecond, and the server's own phases are what they were."""
    container, weights, engine, read, memory, answer, _ = took
    mine, theirs = HandClock(NOW), HandClock(NOW + timedelta(seconds=skew))
    settled: list[Waited] = []
    wait = ColdWait("a10g", LLAMA, mine, settled.append)

    def passes(seconds: float) -> None:
        mine.tick(seconds)
        theirs.tick(seconds)

    passes(container)
    phases = Phases(theirs, 0, "start")
    phases.of(LLAMA, 2 * GB)
    for seconds, phase in ((weights, "weights"), (engine, "engine"), (read, "bytes"), (memory, "memory")):
        passes(seconds)
        phases.ended(phase)  # type: ignore[arg-type]
    passes(poll)
    wait.tier_answers(woke=True)
    wait.loaded(is_real=False)
    passes(answer)
    wait.first_token(is_streamed=True)

    start = joined(settled[0], [server(phases.progress())], None)
    assert start is not None
    assert start.total == pytest.approx(sum(took[:6]) + poll, abs=1e-3)
    assert {phase: start.seconds[phase] for phase in ("weights", "engine", "bytes", "memory")} == pytest.approx(
        {"weights": weights, "engine": engine, "bytes": read, "memory": memory}, abs=1e-6
    )
    assert start.seconds["container"] + start.seconds["handover"] == pytest.approx(container + poll, abs=1e-3)
    assert all(seconds >= 0 for seconds in start.seconds.values())


def test_clocks_that_agree_tell_the_container_from_the_handover() -> None:
    """What came before the first line is the container's, what came after the model was in memory the handover's."""
    told = started(NOW + timedelta(seconds=4), weights=1, engine=2, memory=3)
    start = joined(waited(10.5, 11.0), [server(told)], None)

    assert start == ColdStart(
        "a10g", "ta-1", 0, "start", NOW, LLAMA, 2 * GB,
        {"container": 4.0, "weights": 1, "engine": 2, "memory": 3, "handover": 0.5, "first_token": 0.5},
    )  # fmt: skip


def test_a_start_that_had_begun_before_is_told_from_its_beginning() -> None:
    """A caller who comes late to a start that another began waits less than it took; it is told as it was."""
    told = started(NOW - timedelta(seconds=5), weights=1, engine=2, memory=3)
    start = joined(waited(1.0, 1.5), [server(told)], None)

    assert start is not None
    assert (start.at, start.total) == (NOW - timedelta(seconds=5), 6.5)
    assert "container" not in start.seconds


def test_a_start_with_another_model_has_it_in_the_handover() -> None:
    """Where the server loaded another model first, that is in the hand-over, and the load of its own counts."""
    start = started(NOW + timedelta(seconds=2), "other:latest", weights=1, engine=1, memory=20)
    load = Progress(1, "load", NOW + timedelta(seconds=25), LLAMA, None, {"bytes": 3, "memory": 1}, size=GB)
    told = joined(waited(30.0, 31.0), [server(start, load)], None)

    assert told is not None
    assert (told.kind, told.n, told.size) == ("start", 0, GB)
    assert told.seconds == {
        "container": 2, "weights": 1, "engine": 1, "bytes": 3, "memory": 1, "handover": 22, "first_token": 1
    }  # fmt: skip


def test_a_load_alone_has_fewer_phases() -> None:
    """In a server that ran, a load has no container, no weights and no engine."""
    old = started(NOW - timedelta(hours=1), "other:latest", weights=1, engine=1)
    load = Progress(3, "load", NOW + timedelta(seconds=1), LLAMA, None, {"bytes": 3, "memory": 1})
    told = joined(waited(5.0, 6.0, woke=False), [server(old, load)], 2 * GB)

    assert told is not None
    assert (told.kind, told.n, told.size) == ("load", 3, 2 * GB)
    assert told.seconds == {"bytes": 3, "memory": 1, "handover": 1, "first_token": 1}


def test_others_are_not_taken_for_it() -> None:
    """What has not ended, ended long before, or was of another model, is not what was waited for."""
    going_on = Progress(0, "start", NOW, LLAMA, "bytes", {"weights": 1})
    long_ago = started(NOW - timedelta(minutes=10), weights=1, engine=1, memory=1)
    other = Progress(1, "load", NOW, "other:latest", None, {"memory": 1})
    for told in (going_on, long_ago, other):
        assert joined(waited(5.0), [server(told)], None) is None


def test_of_several_servers_the_last_counts() -> None:
    """Of one that was killed on the way and the one that came after it, the start is that of the second."""
    first = server(started(NOW, weights=1, engine=1, memory=1), container="ta-1", at=NOW)
    second = server(
        started(NOW + timedelta(seconds=9), weights=1, engine=1, memory=1),
        container="ta-2",
        at=NOW + timedelta(seconds=12),
    )
    told = joined(waited(12.0), [first, second], None)

    assert told is not None
    assert (told.container, told.seconds["container"], told.total) == ("ta-2", 9, 12)


def test_of_two_that_start_at_once_the_one_that_was_ready_counts() -> None:
    """The caller was served when the first of them was there; the second, which came later, is another start."""
    first = server(started(NOW + timedelta(seconds=2), weights=1, memory=4), container="ta-1", at=NOW)
    second = server(
        started(NOW + timedelta(seconds=2), weights=3, memory=9), container="ta-2", at=NOW + timedelta(seconds=15)
    )
    told = joined(waited(8.0), [second, first], None)

    assert told is not None
    assert (told.container, told.total) == ("ta-1", 8)


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_start_is_found_though_the_clock_is_minutes_off(minutes: float) -> None:
    """When it was heard tells what the container's clock does not: it is one start, with its container's phase."""
    theirs = NOW + timedelta(minutes=minutes)
    said = server(
        started(theirs + timedelta(seconds=4), weights=1, engine=2, memory=3), at=theirs + timedelta(seconds=10)
    )
    heard = said.heard(None, NOW + timedelta(seconds=9), NOW + timedelta(seconds=11))
    told = joined(waited(11.0, 11.5), [heard], None)

    assert told is not None
    assert (told.container, told.total) == ("ta-1", 11.5)
    assert told.seconds["container"] == pytest.approx(4, abs=2)


def test_where_loads_are_not_told_the_rest_is_the_load() -> None:
    """On one machine a server tells of its start alone; what came after it was the load."""
    told = joined(waited(9.0, 9.5), [server(started(NOW, "", weights=0, engine=3))], GB, tells_loads=False)

    assert told is not None
    assert told.seconds == {"container": 0, "weights": 0, "engine": 3, "memory": 6, "first_token": 0.5}
    assert (told.kind, told.size) == ("start", 2 * GB)


def test_alone_a_gateway_tells_what_it_measured() -> None:
    """Where no server tells of itself, phases that do not exist are absent, and the rest add up."""
    here = alone(waited(5.0, 6.0, awake=3.0), "up-1", 2 * GB, is_remote=False)
    assert here.seconds == {"engine": 3, "memory": 2, "first_token": 1}
    assert (here.kind, here.rate, here.key.startswith("cold/a10g/up-1/")) == ("start", GB, True)
    load = alone(waited(5.0, woke=False, awake=3.0), "up-1", None, is_remote=False)
    assert (load.kind, load.seconds, load.rate) == ("load", {"memory": 5}, None)


def test_it_is_settled_once() -> None:
    """The first answer settles it; what was no cold start is not settled at all, nor is what failed."""
    clock, settled = HandClock(), list[Waited]()
    wait = ColdWait("a10g", LLAMA, clock, settled.append)
    wait.first_token(is_streamed=True)
    wait.tier_answers(woke=False)
    wait.loaded(is_real=False)
    wait.settle()
    assert settled == []
    wait.loaded(is_real=True)
    wait.first_token(is_streamed=False)
    wait.first_token(is_streamed=True)
    assert [each.first_token for each in settled] == [None]
