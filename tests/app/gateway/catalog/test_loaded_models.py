"""Promises of app.gateway.catalog.loaded_models: what is in memory is told as it was seen last; no server is woken."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from app.gateway.catalog.loaded_models import FOR_EVER, REUSED_SECONDS, SETTLING, UNREPORTED, LoadedModels
from app.gateway.catalog.state import KnownState
from app.gateway.inference.routing import Router
from app.model_server.report import REPORT_STALE, Loaded, Report
from jobs.core.errors import Unreachable
from jobs.models.card import Card
from jobs.models.placement import TierCapacity
from jobs.testing.clock import HandClock
from tests.support.gateways import ModelList, model
from tests.support.stores import Store

GB = 1_000_000_000
A10G = TierCapacity("a10g", 24 * GB, gpu_promised=True, context=8192)
MINUTE = timedelta(minutes=1)
KEEP = 5 * MINUTE
OTHER = replace(model("other"), card=Card({}, None, "", options={"num_ctx": 2048}))


@dataclass
class Seen:
    """What one gateway knows of tier a10g."""

    store: Store
    known: KnownState
    models: LoadedModels

    def report(self, *loaded: Loaded, container: str = "one", state: str = "serving", after: float = 0) -> None:
        """A container reports, so many seconds from now, and the gateway reads it."""
        at = self.store.clock.now() + timedelta(seconds=after)
        report = Report("a10g", container, state, at, loaded=loaded)
        self.store.facts.put(report.key, report.as_json())
        assert self.known.refresh()

    def names(self) -> list[str]:
        return sorted(each.name for report in self.models.reports() for each in report.loaded)

    def entry(self) -> Loaded:
        (entry,) = (each for report in self.models.reports() for each in report.loaded)
        return entry


def seen_by(store: Store) -> Seen:
    known = KnownState(store.facts, ModelList([model("tiny"), OTHER]), store.clock)
    assert known.refresh()
    router = Router(known, [A10G])
    models = LoadedModels(
        known,
        store.clock,
        lambda name, context: router.route(str(name), context=context).weighed,
        {"a10g": KEEP},
    )
    return Seen(store, known, models)


@pytest.fixture
def seen(store: Store) -> Seen:
    return seen_by(store)


def loaded(name: str, until: datetime, *, size: int = 6 * GB, context: int = 8192) -> Loaded:
    return Loaded(name, size, size, context, "f00", until)


def test_what_was_just_loaded_is_told_before_any_report(seen: Seen) -> None:
    """With its digest, its context, its size as far as it is known, and when it goes if nobody asks again."""
    assert seen.names() == []

    seen.models.loaded("a10g", "tiny:latest", {})

    tiny, now = model("tiny"), seen.store.clock.now()
    assert seen.entry() == Loaded("tiny:latest", tiny.size, tiny.size, 8192, tiny.digest, now + KEEP)
    assert [(each.tier, each.container, each.state) for each in seen.models.reports()] == [
        ("a10g", UNREPORTED, "serving")
    ]


def test_the_container_that_was_waking_is_the_one(seen: Seen) -> None:
    """A server that has answered has woken, though its report still says that it wakes."""
    seen.report(state="waking")
    seen.models.loaded("a10g", "tiny:latest", {})
    assert [(each.container, each.state) for each in seen.models.reports()] == [("one", "serving")]


@pytest.mark.parametrize(
    ("name", "settings", "context"),
    [("tiny:latest", {"num_ctx": 1024}, 1024), ("other:latest", {}, 2048), ("other:latest", {"num_ctx": 512}, 512)],
)
def test_the_context_is_the_one_it_was_loaded_with(
    seen: Seen, name: str, settings: dict[str, int], context: int
) -> None:
    """The request's own, else the model's, else the tier's."""
    seen.models.loaded("a10g", name, settings)
    assert seen.entry().context == context


def test_sizes_that_a_server_told_are_kept(seen: Seen) -> None:
    """Of a model that is in memory already only the time changes; with another context it was loaded anew."""
    now = seen.store.clock.now()
    seen.report(loaded("TINY:latest", now + MINUTE))
    with seen.models.used("a10g", "tiny:latest", {}, None):
        pass
    assert (seen.entry().size, seen.entry().expires_at) == (6 * GB, now + KEEP)
    seen.models.loaded("a10g", "tiny:latest", {"num_ctx": 1024})
    assert (seen.entry().size, seen.entry().context) == (model("tiny").size, 1024)


def test_a_model_is_kept_from_the_end_of_its_last_request(seen: Seen, clock: HandClock) -> None:
    """It stays while a request runs, however long that takes; then for as long as was asked for last, as Ollama has
    it."""
    with seen.models.used("a10g", "tiny:latest", {}, MINUTE):
        clock.tick(170)
        assert seen.names() == ["tiny:latest"]
    assert seen.entry().expires_at == clock.now() + MINUTE
    clock.tick(30)
    with seen.models.used("a10g", "tiny:latest", {}, None):
        pass
    assert seen.entry().expires_at == clock.now() + MINUTE
    clock.tick(60)
    assert seen.names() == []
    with seen.models.used("a10g", "tiny:latest", {}, timedelta(seconds=-1)):
        pass
    assert seen.entry().expires_at == clock.now() + FOR_EVER


def test_what_is_kept_for_no_time_goes_with_its_last_request(seen: Seen) -> None:
    """Two requests that overlap: the model is gone when the second has ended."""
    seen.report()
    with seen.models.used("a10g", "tiny:latest", {}, timedelta(0)):
        with seen.models.used("a10g", "tiny:latest", {}, None):
            pass
        assert seen.names() == ["tiny:latest"]
    assert seen.names() == []


def test_what_was_unloaded_is_gone_at_once(seen: Seen) -> None:
    """The report from before still has it."""
    now = seen.store.clock.now()
    seen.report(loaded("tiny:latest", now + MINUTE), loaded("other:latest", now + MINUTE))
    seen.models.unloaded("a10g", "TINY")
    assert seen.names() == ["other:latest"]


@pytest.mark.parametrize("newer", [False, True])
def test_a_newer_report_says_more(seen: Seen, clock: HandClock, newer: bool) -> None:
    """What a server reports of itself afterwards counts, by as much as two clocks may differ."""
    after = SETTLING.total_seconds() + (0.1 if newer else -0.1)
    seen.models.loaded("a10g", "tiny:latest", {})
    seen.models.unloaded("a10g", "other:latest")
    seen.report(loaded("other:latest", clock.now() + MINUTE), after=after)
    assert seen.names() == (["other:latest"] if newer else ["tiny:latest"])


def test_of_several_servers_each_has_to_report(seen: Seen, clock: HandClock) -> None:
    """Nobody knows which one loaded it: while one has not reported since, it may be that one."""
    seen.report(container="one")
    seen.report(container="two")
    seen.models.loaded("a10g", "tiny:latest", {})
    clock.tick(5)
    seen.report(container="one")
    assert seen.names() == ["tiny:latest"]
    seen.report(container="two")
    assert seen.names() == []


def test_of_several_servers_one_unloads(seen: Seen) -> None:
    """Nobody knows which one it was; what the others have they still have, so their reports are waited for."""
    until = seen.store.clock.now() + MINUTE
    for container in ("one", "two"):
        seen.report(loaded("tiny:latest", until), container=container)
    seen.models.unloaded("a10g", "tiny:latest")
    assert seen.names() == ["tiny:latest", "tiny:latest"]


def test_a_tier_that_is_not_there_has_nothing_in_memory(seen: Seen, clock: HandClock) -> None:
    """Neither what was seen of it counts then, nor what it reported before."""
    seen.report(loaded("other:latest", clock.now() + KEEP))
    seen.models.loaded("a10g", "tiny:latest", {})
    clock.tick(1)
    seen.models.absent("a10g")
    assert seen.names() == []
    seen.report(loaded("other:latest", clock.now() + KEEP), after=1)
    assert seen.names() == ["other:latest"]


def test_a_server_of_which_nobody_hears_is_believed_for_a_while(seen: Seen, clock: HandClock) -> None:
    """One that is killed reports nothing: what it had is told for no longer than a report counts."""
    with seen.models.used("a10g", "tiny:latest", {}, timedelta(hours=1)):
        clock.tick(REPORT_STALE.total_seconds() + 1)
        assert seen.names() == ["tiny:latest"]
    clock.tick(REPORT_STALE.total_seconds() + 1)
    assert seen.names() == []


def test_each_gateway_knows_what_it_saw(seen: Seen, store: Store, clock: HandClock) -> None:
    """Another one over the same ledger learns it by the server's report, and not before."""
    other = seen_by(store)
    seen.report()
    seen.models.loaded("a10g", "tiny:latest", {})
    assert other.known.refresh()
    assert (seen.names(), other.names()) == (["tiny:latest"], [])
    clock.tick(30)
    seen.report(loaded("tiny:latest", clock.now() + MINUTE))
    assert other.known.refresh()
    assert (seen.names(), other.names()) == (["tiny:latest"], ["tiny:latest"])


# -- where asking costs nothing ----------------------------------------------------------------------------------------


@dataclass
class Asked:
    """A server on loopback."""

    holds: Sequence[Loaded] = ()
    times: int = 0
    silent: bool = False
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> Sequence[Loaded]:
        self.times += 1
        if self.silent:
            raise Unreachable("nobody is there")
        holds = self.holds
        await self.may_answer.wait()
        return holds


def asking(seen: Seen, server: Asked) -> Seen:
    router = Router(seen.known, [A10G])
    weigh = lambda name, context: router.route(str(name), context=context).weighed  # noqa: E731
    models = LoadedModels(seen.known, seen.store.clock, weigh, {"a10g": KEEP}, {"a10g": server})
    return replace(seen, models=models)


def test_the_server_is_asked_once_for_all(seen: Seen, clock: HandClock) -> None:
    """A hundred who come at once cost two questions at the most, and nobody gets an answer from before it came."""
    server = Asked()
    here = asking(seen, server)

    async def crowd() -> None:
        first = [asyncio.create_task(here.models.refresh()) for _ in range(100)]
        await asyncio.sleep(0)
        clock.tick(0.01)
        server.holds = [loaded("tiny:latest", clock.now() + MINUTE)]
        here.models.loaded("a10g", "tiny:latest", {})
        last = asyncio.create_task(here.models.refresh())
        await asyncio.sleep(0)
        server.may_answer.set()
        await asyncio.gather(*first, last)

    asyncio.run(crowd())
    assert server.times == 2
    assert here.entry().size == 6 * GB


def test_an_answer_stands_for_a_moment(seen: Seen, clock: HandClock) -> None:
    """Who asks all the time costs two questions a second; what goes through the gateway has it asked anew."""
    server = Asked()
    here = asking(seen, server)

    async def poll() -> None:
        server.may_answer.set()
        for _ in range(100):
            await here.models.refresh()
            clock.tick(REUSED_SECONDS / 50)
        assert server.times <= 3
        before = server.times
        here.models.loaded("a10g", "tiny:latest", {})
        await here.models.refresh()
        await here.models.refresh()
        assert server.times == before + 1

    asyncio.run(poll())


def test_a_server_that_does_not_answer_is_told_of_by_what_is_known(seen: Seen) -> None:
    """A question that fails changes nothing, and holds nobody up for long."""
    here = asking(seen, Asked(silent=True))
    here.models.loaded("a10g", "tiny:latest", {})
    asyncio.run(here.models.refresh())
    assert here.names() == ["tiny:latest"]


def test_what_the_server_says_counts(seen: Seen, clock: HandClock) -> None:
    """Its answer is newer than its report and than what was seen; a model that it is about to let go is gone."""
    until = clock.now() + MINUTE
    server = Asked([loaded("tiny:latest", until), loaded("other:latest", until)])
    here = asking(seen, server)
    here.report(loaded("third:latest", until))
    here.models.unloaded("a10g", "other:latest")
    clock.tick(0.1)
    server.may_answer.set()
    asyncio.run(here.models.refresh())
    assert here.names() == ["tiny:latest"]
    clock.tick(SETTLING.total_seconds())
    asyncio.run(here.models.refresh())
    assert here.names() == ["other:latest", "tiny:latest"]
