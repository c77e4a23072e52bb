"""Incidents: once each, with their recovery, whoever looks, however often, and whether or not somebody listens."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.scheduler.alert_check import deliver
from jobs.core.errors import BadRequest, Refused, Stalled, Unreachable
from jobs.core.retry import AT_ONCE, NEVER
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.incidents import TRIES, AlertDelivery, Case, Incident, cases, due_alerts, record
from jobs.telemetry.webhook import Webhook
from jobs.testing.clock import HandClock
from tests.support.processes import free_port
from tests.support.stores import Store, open_store
from tests.support.webhooks import WebhookServer, webhook_server

LOST = Incident("tier", "a10g", "tier a10g is lost", "look at its log")
DEAD = Incident("job", "pull/llama3.2:latest", "the pull of llama3.2:latest failed for good")


def check(store: Store, *found: Incident) -> list[Case]:
    return record(store.facts, cases(dict(store.facts.items())), found, store.clock.now())


def told(store: Store) -> list[str]:
    """What a webhook hears now."""
    heard: list[str] = []
    deliver(store.facts, store.clock, heard.append)
    return heard


def minutes(store: Store, count: float) -> None:
    store.clock.wait(60 * count)


# What is written down


def test_an_incident_is_told_once_with_its_recovery(store: Store) -> None:
    """However many ticks see it, an incident is told once when it comes up and once when it has passed."""
    heard = []
    for found in [(LOST,)] * 5 + [()] * 8:
        check(store, *found)
        heard += told(store)
        minutes(store, 5)
    assert heard == ["ollama-modal: tier a10g is lost\nlook at its log", "ollama-modal: passed: tier a10g is lost"]


def test_what_flaps_is_one_incident(store: Store) -> None:
    """What comes and goes from one tick to the next is told once; a new one, hours later, is told again."""
    heard = []
    for found in [(LOST,), (), (LOST,), (), (LOST,), (), (), (), (), (LOST,)]:
        check(store, *found)
        heard += told(store)
        minutes(store, 5)
    assert [line.split()[1] for line in heard] == ["tier", "passed:", "tier"]
    assert [case.n for case in cases(dict(store.facts.items()))] == [1, 2]


def test_two_looks_at_once_open_one_case(store: Store) -> None:
    """Two ticks that both see a new incident write one case, and so do two that see it pass."""
    entries = dict(store.facts.items())
    for _ in range(2):
        record(store.facts, cases(entries), [LOST, DEAD], store.clock.now())
    minutes(store, 20)
    entries = dict(store.facts.items())
    for _ in range(2):
        record(store.facts, cases(entries), [DEAD], store.clock.now())
    found = cases(dict(store.facts.items()))
    assert [(case.id, case.is_open) for case in found] == [("job/pull/llama3.2:latest/1", True), ("tier/a10g/1", False)]


def test_a_case_tells_its_life(store: Store) -> None:
    """A case as JSON says since when, until when, and of what somebody was told."""
    check(store, LOST)
    told(store)
    minutes(store, 30)
    check(store)
    [case] = cases(dict(store.facts.items()))
    document = case.as_json()
    assert (document["opened_at"], document["recovered_at"]) == ("2026-01-01T00:00:00.000Z", "2026-01-01T00:30:00.000Z")
    assert document["told"] == ["opened"]


# Telling


def test_two_deliveries_tell_once(store: Store) -> None:
    """Of two deliveries that see the same news, one tells it."""
    check(store, LOST)
    entries = dict(store.facts.items())
    [alert] = due_alerts(cases(entries))
    first, second = (AlertDelivery(store.facts, store.clock, entries) for _ in range(2))
    assert first.may_send(alert)
    assert not second.may_send(alert)
    first.settle(alert)
    minutes(store, 10)
    assert not second.may_send(alert)
    assert not AlertDelivery(store.facts, store.clock, dict(store.facts.items())).may_send(alert)


def test_what_did_not_get_through_is_tried_again(store: Store) -> None:
    """A webhook that fails hears of it later, each thing once, recoveries after what they recover from."""
    check(store, LOST)

    def fail(_: str) -> None:
        raise Unreachable("no connection")

    assert deliver(store.facts, store.clock, fail) == 0
    minutes(store, 1)
    assert told(store) == []  # somebody may still be at it
    check(store)
    minutes(store, 20)
    check(store)
    assert [line.split()[1] for line in told(store)] == ["tier"]
    assert [line.split()[1] for line in told(store)] == ["passed:"]
    assert told(store) == []


def test_a_dead_webhook_is_given_up(store: Store) -> None:
    """After many tries nobody is told any more, so that no incident is tried for ever."""
    check(store, LOST)
    tries = 0

    def fail(_: str) -> None:
        nonlocal tries
        tries += 1
        raise Unreachable("no connection")

    for _ in range(TRIES + 20):
        check(store, LOST)
        deliver(store.facts, store.clock, fail)
        minutes(store, 5)
    assert tries == TRIES


class Counted(SqliteDict):
    """A dict that counts what each round trip would be."""

    reads = writes = passes = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.reads += 1
        return super().get(key, default)

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        self.writes += 1
        return super().put(key, value, skip_if_exists=skip_if_exists)

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        self.passes += 1
        return super().items(*prefixes)


@pytest.mark.parametrize("count", [5, 10, 40])
def test_a_webhook_that_is_down_costs_the_same_each_tick(count: int, store: Store) -> None:
    """However often it was tried and however many incidents wait: one pass over the entries, and a read and a write for
    what is tried in this tick."""
    found = [Incident("job", f"pull/m{n}", f"the pull of m{n} failed for good") for n in range(count)]
    facts = Counted(store.path)

    def fail(_: str) -> None:
        raise Unreachable("no connection")

    costs = set()
    for _ in range(TRIES):
        check(store, *found)
        facts.reads = facts.writes = facts.passes = 0
        deliver(facts, store.clock, fail)
        costs.add((facts.passes, facts.reads, facts.writes))
        minutes(store, 5)
    facts.close()
    assert costs == {(1, 1, 1)}


def test_old_news_is_no_due_alerts(store: Store) -> None:
    """Who sets a webhook up hears of what is wrong now, and not of what passed last week."""
    check(store, LOST)
    minutes(store, 20)
    check(store)
    minutes(store, 60 * 24 * 2)
    check(store, DEAD)
    assert told(store) == ["ollama-modal: the pull of llama3.2:latest failed for good"]


TICKS = st.lists(
    st.tuples(st.sampled_from([(), (LOST,), (DEAD,), (LOST, DEAD)]), st.booleans(), st.sampled_from([1, 5, 30])),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(ticks=TICKS)
def test_no_order_doubles_or_loses_an_alert(
    ticks: list[tuple[tuple[Incident, ...], bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever comes up and passes while the webhook fails now and then: each case is told once, then its recovery."""
    store = open_store(tmp_path_factory.mktemp("incidents") / "l", HandClock())
    heard: list[str] = []

    def fail(_: str) -> None:
        raise Unreachable("no connection")

    quiet = [((), False, 5)] * (2 * len(ticks) + 8)  # of each incident one alert a tick goes out
    for found, fails, wait in [*ticks, *quiet]:
        check(store, *found)
        deliver(store.facts, store.clock, fail if fails else heard.append)
        minutes(store, wait)
    known = cases(dict(store.facts.items()))
    for incident in (LOST, DEAD):
        words = [
            "passed" if text.startswith("ollama-modal: passed") else "opened"
            for text in heard
            if incident.message in text
        ]
        assert words == ["opened", "passed"] * sum(case.incident == incident for case in known)
    store.close()


# The webhook


@pytest.fixture
def hook() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


def test_a_webhook_hears_what_slack_understands(hook: WebhookServer) -> None:
    """A message is one JSON object with `text`; an error of the moment is tried again."""
    hook.answers = [500, 429, 200]
    Webhook(hook.url, policy=AT_ONCE).send("tier a10g is lost")
    assert hook.heard == [("application/json", {"text": "tier a10g is lost"})] * 3


def test_a_webhook_that_drips_is_left(hook: WebhookServer) -> None:
    """A webhook that keeps a connection busy without ever answering is left when its time is up."""
    hook.answers = [0]
    with pytest.raises(Stalled, match="the webhook has not answered for 0 s"):
        Webhook(hook.url, policy=NEVER, within=timedelta(seconds=0.3)).send("hello")


def test_no_message_shows_the_address(hook: WebhookServer) -> None:
    """The address is a secret: neither what a webhook refuses, nor one that is not there, shows it."""
    hook.answers = [404]
    with pytest.raises(Refused, match="the webhook answered 404") as refused:
        Webhook(hook.url, policy=NEVER).send("hello")
    assert "secret" not in str(refused.value)
    with pytest.raises(Unreachable) as unreachable:
        Webhook(f"http://127.0.0.1:{free_port()}/services/secret", policy=NEVER).send("hello")
    assert "secret" not in str(unreachable.value)
    with pytest.raises(BadRequest, match="does not begin with https://") as bad:
        Webhook("hooks.slack.com/services/secret")
    assert "hooks" not in str(bad.value)
    assert not isinstance(bad.value.__cause__, Exception)


def test_facts_of_incidents_are_plain(tmp_path: Path) -> None:
    """A case opens again from the facts that were written."""
    facts = SqliteDict(tmp_path / "l")
    clock = HandClock()
    record(facts, [], [LOST], clock.now())
    [case] = cases(dict(facts.items()))
    assert case.incident == LOST
    facts.close()
