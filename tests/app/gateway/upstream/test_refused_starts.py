"""Starts that are refused: who notices, what callers are told, and how seldom they are tried again."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.model_server.health import of_tier
from app.model_server.report import Report
from app.model_server.start_failures import ALLOWED, LONGEST_PAUSE, CannotStart, refused_starts
from jobs.store.sqlite import SqliteDict
from tests.support.dialects import DIALECTS, OLLAMA, OPENAI, Dialect, whole_answer
from tests.support.gateways import CLOCK, QUICK, RunningGateway, asked, gateway, held_callers, tier_entry
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NO_GPU = "a GPU was promised, but nvidia-smi ended with 9: No devices were found"


def report(state: str, seconds_ago: float, *, now: datetime = NOW, name: str = "") -> Report:
    at = now - timedelta(seconds=seconds_ago)
    why = NO_GPU if state == "refused" else ""
    return Report("a10g", name or f"ta-{state}-{seconds_ago}", state, at, why=why)


def refused(*seconds_ago: float) -> list[Report]:
    return [report("refused", each) for each in seconds_ago]


# -- what the reports tell ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reports", "count", "wait"),
    [
        ([], 0, None),
        (refused(5, 20), 2, None),
        (refused(5, 20, 35), 3, 55),
        (refused(61, 76, 91), 3, None),
        (refused(70, 200, 300, 400), 4, 50),
        ([*refused(5, 20, 35), report("serving", 3)], 0, None),
        ([*refused(5, 20, 35), report("serving", 60)], 3, 55),
        ([*refused(5, 20), report("serving", 25), *refused(30, 35)], 2, None),
        ([*refused(5, 20, 35), report("ended", 4000)], 3, 55),
        ([*refused(5, 20, 35), report("waking", 2)], 3, None),
        ([*refused(5, 20, 35), report("waking", 50)], 3, 55),
        ([*refused(5, 20), report("waking", 4000)], 3, 55),
        ([*refused(5, 20), report("failed", 30), *refused(40, 50)], 2, None),
    ],
)
def test_starts_are_counted_since_the_last_that_was_none_of_them(
    reports: list[Report], count: int, wait: float | None
) -> None:
    """A start that came to serve ends the count; one that began last is waited for; one never heard of again counts."""
    starts = refused_starts(reports, NOW)
    assert starts.count == count
    assert starts.must_wait(NOW) == (wait is not None)
    if wait is not None:
        trouble = starts.trouble("a10g", NOW)
        assert (trouble.retry_after, trouble.failure_class) == (timedelta(seconds=wait), "network")
        assert f"tier 'a10g' cannot start: {count} starts in a row were refused: a GPU was promised" in str(trouble)


def test_pauses_grow_up_to_half_an_hour() -> None:
    """Each start that is refused doubles the pause before the next one; days of it make no number overflow."""
    pauses = []
    for count in range(ALLOWED, ALLOWED + 7):
        starts = refused_starts(refused(*range(count)), NOW)
        assert starts.next_at is not None
        pauses.append((starts.next_at - NOW) / timedelta(minutes=1))
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert refused_starts(refused(*range(5000)), NOW).next_at == NOW + LONGEST_PAUSE


def test_an_old_report_does_not_hide_what_cannot_start() -> None:
    """A tier whose last server was killed a minute ago, and whose starts are refused since, is lost and not ready."""
    killed = report("serving", 100)
    found = of_tier("a10g", [killed, *refused(5, 20, 35, 50)], NOW)
    assert (found.state, found.why) == ("lost", f"its starts are refused: {NO_GPU}")
    assert found.next_start == NOW + timedelta(seconds=115)
    just_killed = [report("serving", 40), *refused(5, 20, 35)]
    assert of_tier("a10g", just_killed, NOW).state == "ready"  # nobody has asked it since
    assert of_tier("a10g", just_killed, NOW, is_absent=True).state == "lost"


def test_a_tier_that_cannot_start_does_not_recover_by_itself() -> None:
    """An hour without callers mends nothing: it is lost until a start succeeds."""
    hours_later = NOW + timedelta(hours=5)
    assert of_tier("a10g", refused(5, 20, 35), hours_later).state == "lost"
    assert of_tier("a10g", refused(5, 20), hours_later).state == "asleep"
    assert of_tier("a10g", [*refused(5, 20, 35), report("ended", -60)], hours_later).state == "asleep"


# -- what callers are told ---------------------------------------------------------------------------------------------


class Refusing:
    """A tier at zero containers: each request to it starts one, and that refuses."""

    def __init__(self, facts: SqliteDict | None = None) -> None:
        self.facts = facts
        self.starts = 0
        self.mended = threading.Event()

    def __call__(self, heard: HeardRequest, line: Connection) -> None:
        if self.mended.is_set():
            document = {"version": "1"} if heard.path == "/api/version" else {"done": True}
            line.document(document)
            return
        self.starts += 1
        said = report("refused", 0, now=CLOCK.now(), name=f"ta-{self.starts}")
        assert self.facts is not None
        self.facts.put(said.key, said.as_json())
        line.head(503, "text/plain", "Content-Length: 0")


@pytest.fixture
def many() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as pool:
        yield pool


def age(running: RunningGateway, seconds: float) -> None:
    """Move all that was reported into the past."""
    for key, value in running.facts.items():
        if key.startswith("server/"):
            said = Report.from_json(value)
            running.facts.put(key, replace(said, at=said.at - timedelta(seconds=seconds)).as_json())
    running.known_state.refresh()


def test_callers_are_told_why_a_tier_cannot_start(tmp_path: Path, many: ThreadPoolExecutor) -> None:
    """After some refused starts all who wait get 503 with the server's own reason, in their dialect; whoever comes then
    is told at once, and starts nothing, until it is time for one more try."""
    refusing = Refusing()
    pace = replace(QUICK, poke_seconds=0.5)
    with (
        ScriptedServer(whole_answer, opening=refusing) as server,
        gateway(tmp_path, {"a10g": server.url}, pace=pace, startup=60, refresh_seconds=0.0) as running,
    ):
        refusing.facts = running.facts
        answers = [many.submit(asked, running, dialect, stream=False) for dialect in DIALECTS]
        for answer, dialect in zip(answers, DIALECTS, strict=True):
            said = answer.result()
            assert said.status_code == 503, dialect.name
            assert f"cannot start: {ALLOWED} starts in a row were refused: {NO_GPU}" in said.text
            assert 0 < int(said.headers["retry-after"]) <= 60
        assert refusing.starts == ALLOWED
        for dialect in DIALECTS:
            assert asked(running, dialect).status_code == 503
        assert refusing.starts == ALLOWED
        assert held_callers(running) == 0
        assert (tier_entry(running)["state"], tier_entry(running)["why"]) == (
            "lost",
            f"its starts are refused: {NO_GPU}",
        )

        age(running, 61)
        assert asked(running, OLLAMA).status_code == 503
        assert refusing.starts == ALLOWED + 1
        assert 60 < int(asked(running, OLLAMA).headers["retry-after"]) <= 120

        age(running, 121)
        refusing.mended.set()
        assert asked(running, OLLAMA).status_code == 200
        assert {row.about.ending for row in running.rows(len(DIALECTS) * 2 + 3)} == {"error", "success"}


def test_gateways_share_what_was_refused(tmp_path: Path) -> None:
    """Another gateway on the same ledger starts nothing of its own before its time: the reports are there for all."""
    refusing = Refusing()
    with ScriptedServer(whole_answer, opening=refusing) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        for each in range(ALLOWED):
            said = report("refused", each, now=CLOCK.now())
            running.facts.put(said.key, said.as_json())
        with gateway(tmp_path, {"a10g": server.url}) as other:
            assert asked(other, OLLAMA).status_code == 503
        assert server.heard == []


def test_cannot_start_is_no_fault_of_the_caller() -> None:
    """It is of a class that may be tried again, as a job is."""
    trouble = CannotStart("no", retry_after=timedelta(seconds=5))
    assert trouble.can_retry


# -- what is new, and what is not there --------------------------------------------------------------------------------


def serving(running: RunningGateway, **more: object) -> None:
    said = Report("a10g", "ta-1", "serving", CLOCK.now(), **more)  # type: ignore[arg-type]
    running.facts.put(said.key, said.as_json())
    running.known_state.refresh()


@pytest.mark.parametrize("dialect", [OLLAMA, OPENAI], ids=lambda dialect: dialect.name)
def test_a_server_that_asks_for_a_pause_gets_one(tmp_path: Path, many: ThreadPoolExecutor, dialect: Dialect) -> None:
    """While a server takes in new weights nothing new is sent to it, and callers wait; then they are answered, and none
    has seen an error."""
    with (
        ScriptedServer(whole_answer) as server,
        gateway(tmp_path, {"a10g": server.url}, refresh_seconds=0.0) as running,
    ):
        assert asked(running, dialect).status_code == 200
        serving(running, pausing_until=CLOCK.now() + timedelta(minutes=1))
        before = len(server.heard)
        answers = [many.submit(asked, running, dialect) for _ in range(3)]
        until(lambda: held_callers(running) == 3)
        assert tier_entry(running)["why"] == "a10g takes in new weights"
        assert len(server.heard) == before
        serving(running, generation="new")
        assert all(answer.result().content.endswith(b"".join(dialect.pieces)) for answer in answers)
        assert len(server.loads) == 2  # it was unloaded for the pause


def test_a_pause_ends_though_its_server_died(tmp_path: Path) -> None:
    """A server that asked for a pause and was killed keeps callers waiting no longer than it said."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        serving(running, pausing_until=CLOCK.now() + timedelta(seconds=0.3))
        assert asked(running, OLLAMA).status_code == 200


def unseen(heard: HeardRequest, line: Connection) -> None:
    if heard.path == "/api/version":
        line.document({"version": "1"})
    else:
        line.document({"error": "model 'llama3.2:latest' not found"}, 404)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_server_with_the_newest_weights_means_it(tmp_path: Path, dialect: Dialect) -> None:
    """Once each server has the newest weights, its 404 is the answer: such a model is listed, and cannot be served."""
    pace = replace(QUICK, sure_seconds=0.1, unseen_seconds=60)
    with (
        ScriptedServer(whole_answer, opening=unseen) as server,
        gateway(tmp_path, {"a10g": server.url}, pace=pace, startup=60) as running,
    ):
        running.facts.put("weights/generation", "g2")
        serving(running, generation="g2")
        answer = asked(running, dialect, stream=False)
        assert answer.status_code == 404
        assert "is listed, but no server of tier 'a10g' can serve it: model 'llama3.2:latest' not found" in answer.text


def test_a_server_with_older_weights_is_waited_for(tmp_path: Path, many: ThreadPoolExecutor) -> None:
    """What one does not know that has not taken in the newest weights may come: the caller waits until it has."""
    pace = replace(QUICK, sure_seconds=0.1, unseen_seconds=60)
    with (
        ScriptedServer(whole_answer, opening=unseen) as server,
        gateway(tmp_path, {"a10g": server.url}, pace=pace, startup=60, refresh_seconds=0.0) as running,
    ):
        running.facts.put("weights/generation", "g2")
        serving(running, generation="g1")
        answer = many.submit(asked, running, OLLAMA)
        until(lambda: len(server.loads) > 8)
        assert not answer.done()
        serving(running, generation="g2")
        assert answer.result().status_code == 404
