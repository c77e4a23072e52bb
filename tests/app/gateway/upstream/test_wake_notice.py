"""How soon a gateway notices that a tier which it wakes is there: by its own question, or by what the server says."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.gateway.upstream.holding import HoldTiming
from app.model_server.report import Report
from tests.support.dialects import OLLAMA, whole_answer
from tests.support.gateways import CLOCK, QUICK, asked, gateway
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from jobs.store.sqlite import SqliteDict


class Coming:
    """A tier at zero containers, whose first question starts one that says something at once; it lets nobody in before
    it was asked so many times more."""

    def __init__(self, state: str, times: int) -> None:
        self.facts: SqliteDict | None = None
        self.asked = 0
        self._state, self._times = state, times

    def __call__(self, heard: HeardRequest, line: Connection) -> None:
        if heard.path != "/api/version" or self.asked > self._times:
            line.document({"version": "1", "done": True})
            return
        self.asked += 1
        if self.asked == 1:
            assert self.facts is not None
            now = CLOCK.now() + timedelta(milliseconds=10)  # what is written has milliseconds, and it comes after
            said = Report("a10g", "ta-1", self._state, now, started_at=now)
            self.facts.put(said.key, said.as_json())
        line.head(503, "text/plain", "Content-Length: 0")


def woken(folder: Path, coming: Coming, startup: float = PATIENCE, **pace: float) -> int:
    """The status of an answer from a sleeping tier that may take these seconds to wake."""
    with (
        ScriptedServer(whole_answer, opening=coming) as server,
        gateway(
            folder,
            {"a10g": server.url},
            pace=replace(QUICK, **pace),  # type: ignore[arg-type]
            startup=startup,
            refresh_seconds=0.0,
        ) as running,
    ):
        coming.facts = running.facts
        return asked(running, OLLAMA).status_code


def test_a_server_that_starts_is_asked_often(tmp_path: Path) -> None:
    """Once one has said that it starts, it is asked twenty times within a fraction of what the usual pauses would take,
    and its callers are served."""
    coming = Coming("waking", 20)

    assert woken(tmp_path, coming, startup=60, poke_seconds=4.0, near_poke_seconds=0.01) == 200
    assert coming.asked == 21


def test_a_start_that_lasts_is_asked_seldom_again(tmp_path: Path) -> None:
    """One that began long ago has bytes to read, and is left in peace."""
    coming = Coming("waking", 20)

    assert woken(tmp_path, coming, startup=5, poke_seconds=1.0, near_poke_seconds=0.01, near_seconds=0.0) == 503
    assert coming.asked <= 8


def test_what_a_server_says_counts_before_the_next_question(tmp_path: Path) -> None:
    """One that says it serves is asked at once, though the next question was an hour away; until its proxy lets the
    gateway in, it is asked often."""
    coming = Coming("serving", 3)

    assert woken(tmp_path, coming, poke_seconds=3600.0, near_poke_seconds=0.01) == 200
    assert coming.asked == 4


def heard_in_a_wake(folder: Path, has: str, **more: object) -> list[str]:
    """What a container that has this model is asked for, from when it is there until its caller is answered, all by one
    session."""

    def opening(heard: HeardRequest, line: Connection) -> None:
        line.document({"models": [{"name": has}]} if heard.only_looks else {"done": True, "done_reason": "load"})

    with (
        ScriptedServer(whole_answer, asleep=3, opening=opening) as server,
        gateway(folder, {"a10g": server.url}, is_remote=True, most_containers=2) as running,
    ):
        assert asked(running, OLLAMA, **more).status_code == 200
        assert len({each.header("modal-session-id") for each in server.heard}) == 1
        assert {each.path for each in server.heard[:3]} == {"/api/ps"}
        return [each.path for each in server.heard[3:]]


def test_a_model_that_is_there_is_not_asked_for(tmp_path: Path) -> None:
    """A server has loaded what it was woken for before it answers, and says so to who asks whether it is there: nothing
    but the caller's own request follows."""
    assert heard_in_a_wake(tmp_path, "llama3.2:latest") == ["/api/ps", OLLAMA.path]


@pytest.mark.parametrize(
    ("has", "options"), [("qwen3:latest", {}), ("", {}), ("llama3.2:latest", {"num_ctx": 8192})], ids=str
)
def test_what_is_not_there_as_it_is_wanted_is_loaded(tmp_path: Path, has: str, options: dict[str, int]) -> None:
    """Where it has another one, or the caller wants it loaded otherwise, the load is the gateway's own as ever."""
    assert heard_in_a_wake(tmp_path, has, options=options) == ["/api/ps", "/api/generate", OLLAMA.path]


def test_tiers_that_come_at_once_share_the_questions() -> None:
    """However many of them are near, no more is asked in a second than of one; and none less often than of one that is
    far."""
    timing = HoldTiming()
    one = 1 / timing.until_next_poke(1)

    for near in range(1, 10):
        assert near / timing.until_next_poke(near) == pytest.approx(one)
    assert one <= 50  # a workspace may ask 200 times a second, and callers are among those
    assert timing.until_next_poke(0) == timing.until_next_poke(1000) == timing.poke_seconds
