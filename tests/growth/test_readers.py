"""What it costs to show how all of it stands, counted: what the page, the commands and the checks ask of a deployment's
stores, at N jobs that have ended and at 2N, and for one viewer and for fifty.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Self, TypeVar

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.fleet.schema import load
from app.gateway.auth.keys import Keys
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.catalog.state import KnownState
from app.gateway.compose import Composed, GatewayParts
from app.gateway.http_cycle import CALLER
from app.gateway.inference.routing import Router
from jobs.batches.records import BatchEnd, BatchRecord, BatchState
from jobs.core.clock import Clock, SystemClock
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, JobState
from jobs.ledger.ledger import Ledger
from jobs.listing.dead_memory import look_and_remember
from jobs.listing.recent_jobs import RECENT
from jobs.store import keys
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from tests.support.counting_stores import CountingStore, Trips
from tests.support.gateways import ModelList
from tests.support.moved_clock import HandLoop

N = 40
LEASE = timedelta(minutes=5)
FLEET = load()
PAGE = (
    "board",
    "night",
    "tiers",
    "jobs/summary",
    "jobs?limit=20&folded=true",
    "batches?limit=10",
    "models",
    "health",
    "days",
    "audit?limit=8",
)
"""All that the page asks, as it asks it when somebody comes back to it."""


class SameMoment(SystemClock):
    """Waits as any clock does, and always tells the same time."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at


class AheadClock(SystemClock):
    """Waits as any clock does, and is ahead of the machine's by as much as it was moved."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead.total_seconds()


class Past:
    """A deployment with so many jobs behind it, the last of which ended hours ago, some of them failed for good."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = CountingStore(self.clock)
        self.number = 0

    @classmethod
    def written(cls, ended: int, *, batches: int = 5) -> Self:
        past = cls()
        ledger = past.ledger()
        ledger.sweep()
        for number in range(ended):
            past.ended(ledger, "failed" if number % 10 == 0 else "succeeded")
        past.batches(batches)
        usage_recorder = UsageRecorder(past.store.facts, past.clock, "gateway-1")
        usage_recorder.add(Use(past.clock.now(), "m1:latest", "key", "a10g", "success"))
        usage_recorder.flush()
        past.clock.tick(3 * 3600)
        for key in list(past.store.facts.keys(keys.CHANGED)):  # as the archive does
            past.store.facts.pop(key)
        return past

    def copied(self) -> Self:
        """The same, for one look."""
        copy = type(self)()
        copy.clock = HandClock(self.clock.now())
        copy.store = self.store.copied(copy.clock)
        copy.number = self.number
        return copy

    def batches(self, ended: int) -> None:
        """So many batches that have ended."""
        now = self.clock.now()
        end = BatchEnd("completed", now, BatchState("completed", "w", now))
        for number in range(ended):
            id = f"batch_{number:024x}"
            record = BatchRecord(id, "openai", "", "file-1", "/v1/chat/completions", "24h", now, now)
            self.store.facts.update({keys.batch(id): record.as_json(), keys.batch_end(id): end.as_json()})

    def ledger(self) -> Ledger:
        return Ledger(self.store.queue, self.store.facts, self.clock)

    def ended(self, ledger: Ledger, outcome: str = "succeeded") -> str:
        self.number += 1
        model = f"m{self.number}"
        id = ledger.post("pull", f"{model}:latest", {"model": model}, by="test").job.id
        claim = ledger.claim(id, worker="w", lease=LEASE)
        assert claim is not None
        ending = Ending("failed", "network", "cut") if outcome == "failed" else Ending("succeeded", result={"size": 1})
        ledger.end(claim, ending, Reading())
        self.store.queue.lanes["weights"].clear()
        return id

    def check(self) -> None:
        """As a tick does."""
        look_and_remember(self.ledger().reader, self.store.facts, self.clock.now())

    def composed(self, clock: Clock | None = None) -> Composed:
        known_state = KnownState(self.store.facts, ModelList(), SystemClock())
        known_state.refresh()
        return Composed(
            GatewayParts(
                upstreams={},
                known_state=known_state,
                router=Router(known_state, FLEET.catalog_tiers()),
                keys=LiveKeys.fixed(Keys.parse("")),
                facts=self.store.facts,
                open_ledger=self.ledger,
                clock=clock or SystemClock(),
                writer="test",
                version="0.0.1",
                fleet=FLEET,
            )
        )


P = TypeVar("P", bound=Past)


class Pasts:
    """Pasts of each size, written once: whoever asks for one gets a copy, which nobody else changes."""

    def __init__(self) -> None:
        self._written: dict[tuple[type[Past], int, int], Past] = {}

    def of(self, ended: int, *, batches: int = 5) -> Past:
        return self._copied(Past, ended, batches)

    def checked(self, ended: int) -> "Checked":
        return self._copied(Checked, ended, 5)

    def _copied(self, kind: type[P], ended: int, batches: int) -> P:
        key = kind, ended, batches
        if key not in self._written:
            self._written[key] = kind.written(ended, batches=batches)
        written = self._written[key]
        assert isinstance(written, kind)
        return written.copied()


@pytest.fixture(scope="module")
def pasts() -> Pasts:
    return Pasts()


class Ask:
    """Asks a gateway; what is not answered well ends the test."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __call__(self, path: str) -> httpx.Response:
        return self._good(await self._client.get(f"/ops/v1/{path}"))

    async def post(self, path: str, body: object = None) -> httpx.Response:
        return self._good(await self._client.post(f"/ops/v1/{path}", json=body))

    def _good(self, answer: httpx.Response) -> httpx.Response:
        assert answer.is_success, answer.text
        return answer


Work = Callable[[Ask], Awaitable[object]]


class _Caller:
    """A connection of which nothing that is asked here needs more than that it knows of no request before."""

    decided = None

    def decide(self, decided: object) -> None:
        """Forget it."""


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[Ask]:
    """The application between its start and its end, and how it is asked."""
    events: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    living = asyncio.create_task(_live(app, events, said))
    await events.put({"type": "lifespan.startup"})
    await said.get()

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "extensions": {CALLER: _Caller()}}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(asked), base_url="http://gateway") as client:
        yield Ask(client)
    await events.put({"type": "lifespan.shutdown"})
    await living


async def _live(app: ASGIApp, events: asyncio.Queue[Message], said: asyncio.Queue[Message]) -> None:
    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, events.get, said.put)


class StandingGateway:
    """A gateway over a past that is asked again and again, an hour after whatever it was asked before."""

    def __init__(self, past: Past) -> None:
        self._clock = AheadClock()
        self._trips = past.store.trips
        self._runner = asyncio.Runner(loop_factory=HandLoop)
        self._serving = serving(past.composed(self._clock).app)
        self._ask = self._runner.run(self._serving.__aenter__())

    def counted(self, work: Work) -> Trips:
        """What is asked of the stores while this is done, by a gateway whose page was asked for a few seconds ago."""
        self._runner.run(self._run(work))
        return replace(self._trips, asked=[*self._trips.asked])

    async def _run(self, work: Work) -> None:
        self._clock.ahead += timedelta(hours=1)
        await pass_seconds(3600)
        await look(self._ask)
        await pass_seconds(10)
        self._trips.begin()
        await work(self._ask)

    def close(self) -> None:
        self._runner.run(self._serving.__aexit__(None, None, None))
        self._runner.close()


def counted(past: Past, work: Work) -> Trips:
    """The same of a gateway that is asked nothing else, until it has ended."""
    with closing(StandingGateway(past)) as gateway:
        gateway.counted(work)
    return past.store.trips


@pytest.fixture(scope="module")
def gateways(pasts: Pasts) -> Iterator[Mapping[int, StandingGateway]]:
    """One over N jobs that have ended, and one over 2N."""
    with ExitStack() as stack:
        yield {size: stack.enter_context(closing(StandingGateway(pasts.of(size)))) for size in (N, 2 * N)}


async def pass_seconds(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HandLoop)
    loop.ahead += seconds
    await asyncio.sleep(0)  # what was shared is let go
    await asyncio.sleep(0)


async def look(ask: Ask) -> None:
    for path in PAGE:
        await ask(path)


def counted_first(past: Past, work: Work) -> Trips:
    """What is asked of the stores by a gateway that has only begun."""

    async def run() -> None:
        async with serving(past.composed(SameMoment(past.clock.now())).app) as ask:
            past.store.trips.begin()
            await work(ask)

    with asyncio.Runner(loop_factory=HandLoop) as runner:
        runner.run(run())
    return past.store.trips


def asking(path: str) -> Work:
    return lambda ask: ask(path)


LISTS = ("jobs/summary", "jobs?limit=20", "jobs?limit=20&q=m1&state=failed", "jobs?dead=true&folded=true")

READERS: dict[str, tuple[Work, int]] = {
    "the page": (look, 9),
    **{path: (asking(path), 2) for path in LISTS},
    **{path: (asking(path), most) for path, most in (("board", 1), ("health", 3), ("night", 4), ("days", 2))},
    **{
        path: (asking(path), 1)
        for path in ("audit?since=1d", "keys", "cost?since=7d", "usage", "cold?since=7d", "windows")
    },
    "batches?limit=20": (asking("batches?limit=20"), 2),
    **{path: (asking(path), 0) for path in ("tiers", "models", "limits")},
}
"""What somebody looks at, and the most round trips of it."""

ELSEWHERE = {
    "GET /batches/{id}": "its record, its end, how it stands, and its job: test_one_batch_costs_the_same",
    "POST /batches/estimate": "what `cost` reads, and how fast batches were: one listing more",
    "POST /batches/{id}/cancel": "the same, and the cancel of its job: `cancel_queued` in test_round_trips.py",
    "GET /jobs/{id}": "one job by its keys: `job ID` in test_commands.py",
    "GET /jobs/{id}/events": "`look` in test_round_trips.py, shared by all who follow it",
    "GET /keys/{name}": "as `keys`; what is done with one: test_round_trips.py",
    **dict.fromkeys(("POST /keys", "PATCH /keys/{name}", "DELETE /keys/{name}"), "`make`, `set`, `revoke` there"),
    "POST /keys/{name}/rotate": "`rotate` in test_round_trips.py",
    "GET /plan": "what a night does before it posts: test_round_trips.py",
    "GET /plan/prune": "as a night's",
    "GET /route": "from memory, as `models`: test_gateway_models.py",
    "POST /jobs": "`post_new` and others in test_round_trips.py",
    "POST /jobs/{id}/cancel": "`cancel_queued` and `cancel_running` in test_round_trips.py",
    "POST /jobs/{id}/dismiss": "a read and two writes of one job",
    "POST /jobs/{id}/retry": "`retry` and `retry_delete` in test_round_trips.py",
    "POST /jobs/retry": "a look at the dead letters, and a post for each of fifty",
    "POST /jobs/dismiss": "a look at the dead letters, and two writes for each of fifty",
}
"""What is counted in another file, or follows from what is."""


def test_each_operation_of_the_api_is_counted(pasts: Pasts) -> None:
    """Whatever the document of the API tells of has a row above, or a line that says where it is counted."""
    told: list[str] = []

    async def ask_for_document(ask: Ask) -> None:
        paths = (await ask("openapi.json")).json()["paths"]
        told.extend(f"{method.upper()} {path.removeprefix('/ops/v1')}" for path in paths for method in paths[path])

    counted(pasts.of(1), ask_for_document)
    rows = {f"GET /{path.partition('?')[0]}" for path in READERS if path != "the page"}
    assert set(told) == rows | ELSEWHERE.keys()


@pytest.mark.parametrize("reader", READERS)
def test_a_look_keeps_to_its_budget(reader: str, gateways: Mapping[int, StandingGateway]) -> None:
    """Each thing that is shown costs no more round trips than its budget says, and no more with twice the past."""
    work, most = READERS[reader]
    few, many = (gateways[size].counted(work) for size in (N, 2 * N))
    assert len(few) <= most, few.asked
    assert (len(few), few.listed) == (len(many), many.listed)


@pytest.mark.parametrize("number", [0, N - 1])
def test_one_batch_costs_the_same(number: int, pasts: Pasts) -> None:
    """However many there are: a read of its record, and one of its end."""
    path = f"batches/batch_{number:024x}"
    few, many = (counted(pasts.of(1, batches=size), asking(path)) for size in (N, 2 * N))
    assert (len(few), few.listed) == (len(many), many.listed) == (2, 0)


def test_a_list_of_batches_reads_each_record_and_end_once(pasts: Pasts) -> None:
    """As many round trips however many there are: they stay for as long as files are kept, and no longer."""
    few, many = (counted(pasts.of(1, batches=size), asking("batches?limit=20")) for size in (N, 2 * N))
    assert len(few) == len(many) == 2
    assert many.listed - few.listed == 2 * N


LONG = 2 * RECENT
RUNNING, QUEUED = 3, 2
FIRST: dict[str, tuple[Work, int]] = {
    "the page": (look, 9 + RUNNING),
    **{path: (asking(path), 2 + RUNNING) for path in (*LISTS[:2], LISTS[3], "jobs?state=open", "../../metrics")},
    **{path: (asking(path), most + RUNNING) for path, most in (("health", 3), ("night", 4))},
}
"""What a gateway is asked first, of the jobs: a read for each that runs. A search that finds less than a page among the
newest reads on, as does who turns pages: below."""


class Checked(Past):
    """The same with some jobs under way, and a tick some minutes ago."""

    @classmethod
    def written(cls, ended: int, *, batches: int = 5) -> Self:
        past = super().written(ended, batches=batches)
        ledger = past.ledger()
        for number in range(RUNNING + QUEUED):
            id = ledger.post("pull", f"open{number}:latest", {"model": f"open{number}"}, by="test").job.id
            assert number >= RUNNING or ledger.claim(id, worker="w", lease=LEASE)
        past.check()
        past.clock.tick(200)
        past.ended(ledger)
        past.ended(ledger, "failed")
        return past


@pytest.mark.parametrize("reader", FIRST)
def test_a_first_look_streams_no_job_that_has_ended(reader: str, pasts: Pasts) -> None:
    """A gateway that has only begun shows the newest jobs, counts all and tells of failures by what goes on, what has
    changed and what the last tick remembered, however many have ended."""
    work, most = FIRST[reader]
    few, many = (counted_first(pasts.checked(size), work) for size in (LONG, 2 * LONG))
    assert len(few) <= most, few.asked
    assert "items of jobs" not in few.asked
    assert (len(few), few.listed) == (len(many), many.listed)


def test_who_reads_on_has_all_jobs_listed_once(pasts: Pasts) -> None:
    """Pages follow one another through the newest jobs without a listing of all; the first one after these makes one,
    and none comes twice or is left out."""
    past = pasts.checked(LONG)
    ids: list[str] = []
    listings: list[int] = []

    async def read_on(ask: Ask) -> None:
        path = "jobs?limit=30"
        while path:
            page = (await ask(path)).json()
            ids.extend(job["id"] for job in page["jobs"])
            listings.append(past.store.trips.asked.count("items of jobs"))
            path = page["next"] and f"jobs?limit=30&cursor={page['next']}"

    counted_first(past, read_on)
    assert ids == [job.id for job in past.ledger().reader.jobs()]
    assert listings[:3] == [0, 0, 0]
    assert listings[-1] == 1


def test_what_an_older_version_left_is_read_once(pasts: Pasts) -> None:
    """Where no tick has left the newest jobs and their number, all are read by the first look, and by no other."""
    past = pasts.checked(N)
    noted = dict(past.store.facts.get(keys.DEAD_LETTERS))
    del noted["ended"]
    past.store.facts.put(keys.DEAD_LETTERS, noted)
    jobs = past.ledger().reader.jobs()
    told = []

    async def look_twice(ask: Ask) -> None:
        for _ in range(2):
            told.append((await ask("jobs/summary")).json()["counts"])
            await pass_seconds(10)

    trips = counted_first(past, look_twice)
    assert trips.asked.count("items of jobs") == 1
    assert told == 2 * [{state: sum(job.state is state for job in jobs) for state in JobState}]


@pytest.mark.parametrize("reader", READERS)
def test_fifty_viewers_cost_as_much_as_one(reader: str, gateways: Mapping[int, StandingGateway]) -> None:
    """Fifty who look within the same seconds ask the stores what one does."""
    work, _ = READERS[reader]

    async def fifty(ask: Ask) -> None:
        await asyncio.gather(*(work(ask) for _ in range(50)))

    one, all_of_them = gateways[N].counted(work), gateways[N].counted(fifty)
    assert len(all_of_them) <= len(one) + 1, all_of_them.asked  # whether the ledger answers, where all come at once
    assert all_of_them.listed <= one.listed


def test_who_changes_something_is_shown_it_at_once(pasts: Pasts) -> None:
    """A post, a dismissal and a retry are in the next list of whoever made them, though one was shown a moment ago."""
    past = pasts.of(N)

    async def act(ask: Ask) -> None:
        async def listed(path: str) -> list[str]:
            return [job["subject"] for job in (await ask(path)).json()["jobs"]]

        dead = (await ask("jobs?dead=true")).json()["jobs"]
        await ask.post("jobs", {"kind": "pull", "model": "brand-new"})
        assert "brand-new:latest" in await listed("jobs?limit=20")
        await ask.post(f"jobs/{dead[0]['id']}/dismiss")
        await ask.post(f"jobs/{dead[1]['id']}/retry")
        assert await listed("jobs?dead=true") == [job["subject"] for job in dead[2:]]

    counted(past, act)
