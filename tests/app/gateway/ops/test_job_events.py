"""A job's events: what they tell, and that a client that was cut off misses no move and hears none twice."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.ops.job_events import Revision, as_it_stood, news
from app.gateway.ops.ledger_pool import LedgerPool
from jobs.core.errors import BadRequest, NotFound
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, Job, JobFacts, JobState, fold
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from tests.support.ops_api import CHAT_KEY, OpsApi, ops_api, served
from tests.support.stores import claimed
from tests.support.waiting import PATIENCE, until

LEASE = timedelta(seconds=60)
ENDS = ("retry", "lost", "succeeded", "failed", "cancelled")


def at(second: int) -> str:
    return f"2026-09-15T08:{second // 60:02}:{second % 60:02}.000Z"


def told(ends: list[str], *, beat: int | None = None, open_end: bool = False) -> Job:
    """A job with these attempts; the last one still runs when `open_end`, and has beaten so many seconds in."""
    facts = JobFacts(
        job={"id": "j-1", "kind": "pull", "subject": "m:latest", "lane": "weights", "attempts_allowed": 99}
        | {"posted_at": at(0), "request": {"model": "m"}, "posted_by": "t"}
    )
    for n in range(1, len(ends) + 1 + open_end):
        facts.claims[n] = {"at": at(10 * n), "lease_seconds": 30.0, "worker": "w"}
        if n <= len(ends):
            facts.ends[n] = {"at": at(10 * n + 5), "outcome": ends[n - 1], "class": "network", "message": f"end {n}"}
    if open_end and beat is not None:
        last = len(ends) + 1
        progress = {"completed": beat, "total": 99, "bytes_per_second": 1.0, "status": "pulling"}
        facts.beats[last] = {"at": at(10 * last + beat), "progress": progress}
    return fold(facts)


LIFE = [
    told([]), told([], open_end=True), told([], open_end=True, beat=2), told([], open_end=True, beat=4),
    told(["retry"]), told(["retry"], open_end=True), told(["retry"], open_end=True, beat=1),
    told(["retry", "lost"]), told(["retry", "lost"], open_end=True, beat=3), told(["retry", "lost", "succeeded"]),
]  # fmt: skip
"""Each moment of a job's life at which it can be looked at, in order."""


def test_revisions_grow_with_every_fact() -> None:
    """Later is greater, whoever looks: they are made from the facts alone."""
    revisions = [Revision.of(job) for job in LIFE]
    assert revisions == sorted(set(revisions))
    assert [str(each) for each in revisions] == [
        "0.0", "1.0", "1.2000", "1.4000", "2.0", "3.0", "3.1000", "4.0", "5.3000", "6.0",
    ]  # fmt: skip
    assert [Revision.parse(str(each)) for each in revisions] == revisions


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "-1.0", "1.0.0", "01.0", "1.٣", "9999999.0", "one", "1.0\n"])
def test_what_is_no_event_is_refused(text: str) -> None:
    """An id that we never gave is a mistake, and said to be one."""
    with pytest.raises(BadRequest, match="Last-Event-ID"):
        Revision.parse(text)


def test_the_whole_story_is_told_to_whoever_comes_late() -> None:
    """Every move with the job as it stood then; the last is the job as it is."""
    heard = [(str(revision), job.state, len(job.attempts)) for revision, job in news(LIFE[-1], None)]
    assert heard == [
        ("0.0", JobState.QUEUED, 0),
        ("1.0", JobState.RUNNING, 1),
        ("2.0", JobState.WAITING, 1),
        ("3.0", JobState.RUNNING, 2),
        ("4.0", JobState.WAITING, 2),
        ("5.0", JobState.RUNNING, 3),
        ("6.0", JobState.SUCCEEDED, 3),
    ]
    assert [job for _, job in news(LIFE[-1], None)][-1] == LIFE[-1]
    running = as_it_stood(LIFE[-1], 3).attempts
    assert (running[0].message, running[1].message, running[1].outcome) == ("end 1", None, None)


@given(st.lists(st.integers(0, len(LIFE) - 1), min_size=1, max_size=12).map(sorted), st.data())
def test_no_move_is_missed_or_told_twice_wherever_a_client_is_cut_off(looks: list[int], data: st.DataObject) -> None:
    """Cut off after any event and at any look, a client that goes on from there hears each move exactly once."""
    seen: Revision | None = None
    heard: list[Revision] = []
    for look in looks:
        fresh = [revision for revision, _ in news(LIFE[look], seen)]
        kept = fresh[: data.draw(st.integers(0, len(fresh)))]  # the rest is lost with the connection
        heard += kept
        seen = kept[-1] if kept else seen
    heard += [revision for revision, _ in news(LIFE[-1], seen)]
    assert heard == sorted(set(heard))
    assert [revision.moves for revision in heard if not revision.beat] == list(range(7))


# -- on the wire -------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path) -> Iterator[OpsApi]:
    with ops_api(tmp_path) as opened:
        yield opened


@pytest.fixture
def ledger(api: OpsApi) -> Ledger:
    return api.ledger()


def posted(ledger: Ledger) -> str:
    return ledger.post("pull", "m:latest", {"model": "m"}, by="t", attempts=3).job.id


def events(lines: Iterator[str], count: int | None = None) -> list[dict[str, Any]]:
    """So many events of a stream, or all until it ends."""
    found: list[dict[str, Any]] = []
    event: dict[str, Any] = {}
    while count is None or len(found) < count:
        line = next(lines, None)
        if line is None:
            break
        name, _, value = line.partition(": ")
        if not line and "data" in event:
            found.append(event | {"data": json.loads(event["data"])})
            event = {}
        elif name:
            event[name] = value
    return found


def follow(url: str, id: str, after: str | None = None) -> Any:
    headers = {"x-api-key": CHAT_KEY} | ({"last-event-id": after} if after else {})
    return httpx.stream("GET", f"{url}/ops/v1/jobs/{id}/events", headers=headers, timeout=PATIENCE)


def test_a_stream_tells_each_move_as_it_comes_and_ends_with_the_job(api: OpsApi, ledger: Ledger) -> None:
    """Queued, running, how far, done: each while it is so, each as the job's own JSON; then the stream is over."""
    id = posted(ledger)
    with served(api.app()) as url, follow(url, id) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        lines = stream.iter_lines()
        (queued,) = events(lines, 1)
        claim = claimed(ledger, id)
        (running,) = events(lines, 1)
        ledger.beat(claim, Reading(5, 10, 1.0, "pulling"))
        (further,) = events(lines, 1)
        ledger.end(claim, Ending("succeeded", result={"model": "m"}), Reading(10, 10))
        (done,) = events(lines)
    assert [each["event"] for each in (queued, running, further, done)] == ["move", "move", "progress", "move"]
    assert [each["data"]["state"] for each in (queued, running, further, done)] == [
        "queued", "running", "running", "succeeded",
    ]  # fmt: skip
    assert further["data"]["progress"]["completed"] == 5
    assert done["data"] == ledger.reader.get(id).as_json()


def test_a_client_goes_on_after_a_restart_of_the_gateway(api: OpsApi, ledger: Ledger) -> None:
    """The ids mean the same to another process: with the last one, only what came after it is told."""
    id = posted(ledger)
    ledger.end(claimed(ledger, id), Ending("retry", "network", "cut"), Reading())
    with served(api.app()) as url, follow(url, id) as stream:
        heard = events(stream.iter_lines(), 2)
    assert [each["id"] for each in heard] == ["0.0", "1.0"]
    ledger.end(claimed(ledger, id), Ending("succeeded"), Reading())
    with served(api.app()) as url:
        with follow(url, id, heard[-1]["id"]) as stream:
            rest = events(stream.iter_lines())
        assert [each["id"] for each in rest] == ["2.0", "3.0", "4.0"]
        assert [each["data"]["state"] for each in rest] == ["waiting", "running", "succeeded"]
        with follow(url, id, rest[-1]["id"]) as stream:
            assert stream.status_code == 204  # which tells a browser not to come again
        with follow(url, id, "9.0") as stream:
            assert stream.status_code == 400


def test_only_so_many_follow_at_once(api: OpsApi, ledger: Ledger) -> None:
    """One too many is told when to come again; when somebody leaves, there is room."""
    id = posted(ledger)
    with served(api.app(followers=1)) as url:
        with follow(url, id) as first:
            lines = first.iter_lines()  # which ends the stream when nobody holds it
            assert len(events(lines, 1)) == 1
            with follow(url, id) as second:
                assert (second.status_code, second.headers["retry-after"]) == (429, "10")
        until(lambda: _is_let_in(url, id))


def _is_let_in(url: str, id: str) -> bool:
    with follow(url, id) as stream:
        return bool(stream.status_code == 200)


def test_whoever_leaves_leaves_nothing_behind(api: OpsApi, ledger: Ledger) -> None:
    """Forty followers of one job come and go: it is read no more often than for one, and every stream is given back."""
    id = posted(ledger)
    reads: list[str] = []

    class Counting(SqliteDict):
        def get(self, key: Any, default: Any = None) -> Any:
            if key == keys.job(id):
                reads.append(key)
            return super().get(key, default)

    def counted() -> Ledger:
        store = api.store()
        return Ledger(store.queue, Counting(store.path), api.clock)

    app = api.app(api.ops_context(open_ledger=counted))
    with served(app) as url:
        for _ in range(2):
            streams = [follow(url, id) for _ in range(20)]
            opened = [each.__enter__() for each in streams]
            assert all(len(events(each.iter_lines(), 1)) == 1 for each in opened)
            for each in streams:
                each.__exit__(None, None, None)
        until(lambda: _settled(reads))
        claimed(ledger, id)
        with follow(url, id) as stream:
            assert [each["id"] for each in events(stream.iter_lines(), 2)] == ["0.0", "1.0"]
    assert ledger.reader.get(id).state is JobState.RUNNING


def _settled(reads: list[str]) -> bool:
    """Nobody looks at the job any more."""
    before = len(reads)
    time.sleep(0.3)
    return len(reads) == before


def test_followers_share_their_looks(api: OpsApi, ledger: Ledger) -> None:
    """A hundred that look at once read the ledger once, and each is told when there is no such job."""
    id = posted(ledger)

    async def look_together() -> None:
        ledger_pool = LedgerPool(api.ledger, every=timedelta(milliseconds=50))
        api.ledger_pool.append(ledger_pool)
        jobs = await asyncio.gather(*(ledger_pool.job(id) for _ in range(100)))
        assert all(job is jobs[0] for job in jobs)
        gone = await asyncio.gather(*(ledger_pool.job("nope-1") for _ in range(5)), return_exceptions=True)
        assert all(isinstance(each, NotFound) for each in gone)
        await asyncio.sleep(0.3)
        assert not ledger_pool._reads

    asyncio.run(look_together())
