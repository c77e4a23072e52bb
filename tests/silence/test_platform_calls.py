"""Each call to the platform ends: with its answer, with a second try, or in words that say who did not answer."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import modal
import pytest
from grpclib import GRPCError, Status
from modal.client import Client

from app.platform.deployment import Deployment
from app.platform.errors import FilesOpen, NotReloaded
from app.platform.limits import LIMITS, CallLimits, limits_of
from app.platform.store import LimitedDict, LimitedQueue
from app.platform.volume import LimitedVolume
from jobs.core.errors import (
    NetworkTrouble,
    NotFound,
    ServerTrouble,
    StoreTrouble,
    StoreUnavailable,
    StoreUnusable,
    TooManyRequests,
    Trouble,
)
from jobs.core.retry import NEVER, Policy
from tests.modal.platform.plane import Platform
from tests.support.waiting import PATIENCE

LIMIT = timedelta(seconds=1)
RETRY = Policy(attempts=3, within=timedelta(seconds=PATIENCE), first=timedelta(milliseconds=10))


def limits(each: timedelta, retry: Policy) -> CallLimits:
    return CallLimits(entry=each, listing=each, request=each, commit=each, reload=each, retry=retry, commit_retry=retry)


SHORT = limits(LIMIT, RETRY)
"""Where somebody is never answered; the client's own tries of one call take most of it."""
LONG = limits(timedelta(seconds=PATIENCE), RETRY)
"""Where everybody is answered: what a busy machine takes for it is no trouble."""
ONCE = limits(LIMIT, NEVER)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with Platform() as platform:
        yield platform


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


@pytest.fixture(autouse=True)
def undisturbed(platform: Platform) -> Iterator[None]:
    yield
    platform.wire.meddler = lambda *_: None


@pytest.fixture
def facts(client: Client) -> LimitedDict:
    return LimitedDict(modal.Dict.from_name("facts", create_if_missing=True, client=client), LONG)


@pytest.fixture
def limited(client: Client) -> LimitedQueue:
    return LimitedQueue(modal.Queue.from_name("queue", create_if_missing=True, client=client), LONG)


class Answers:
    """What becomes of the next calls of one name, one after the other; then all is as usual."""

    def __init__(self, name: str, *answers: Any) -> None:
        self.name = name
        self.left = list(answers)

    def __call__(self, name: str, _: str) -> Any:
        return self.left.pop(0) if name == self.name and self.left else None


def refused(status: Status) -> GRPCError:
    return GRPCError(status, "for the sake of it")


ASKED: list[tuple[str, Callable[[LimitedDict, LimitedQueue], object]]] = [
    ("DictUpdate", lambda facts, _: facts.put("key", 1)),
    ("DictGet", lambda facts, _: facts.get("key")),
    ("DictPop", lambda facts, _: facts.pop("no such key", None)),
    ("DictContents", lambda facts, _: list(facts.keys())),
    ("DictContents", lambda facts, _: dict(facts.items())),
    ("QueuePut", lambda _, limited: limited.put("id", block=False, partition="lane")),
    ("QueueLen", lambda _, limited: limited.len(partition="lane")),
    ("DictUpdate", lambda facts, _: facts.update({"key": 1, "other": 2})),
    ("QueuePut", lambda _, limited: limited.put_many(["id", "other"], block=False, partition="lane")),
]
FAILURES: dict[str, list[Any]] = {
    "never": ["never"],
    "failed precondition": [refused(Status.FAILED_PRECONDITION)],
    "exhausted": [refused(Status.RESOURCE_EXHAUSTED)],
    "away for longer than the client tries": [refused(Status.UNAVAILABLE)] * 5,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_for_a_moment_is_asked_again(platform: Platform, client: Client, failure: str) -> None:
    """A call that is refused for now, or never answered, is made again, and whoever asked hears nothing of it."""
    within = SHORT if failure == "never" else LONG
    facts = LimitedDict(modal.Dict.from_name("facts", create_if_missing=True, client=client), within)
    limited = LimitedQueue(modal.Queue.from_name("queue", create_if_missing=True, client=client), within)
    for name, ask in ASKED:
        if name == "QueuePut" and failure == "exhausted":
            continue  # this is how a full queue is told
        tried = 2 if name == "DictContents" else 5  # the client itself tries only what is no stream
        platform.wire.meddler = answers = Answers(name, *FAILURES[failure][:tried])
        ask(facts, limited)
        assert answers.left == [], name


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.UNAVAILABLE, StoreUnavailable),
        (Status.FAILED_PRECONDITION, StoreUnavailable),
        (Status.RESOURCE_EXHAUSTED, StoreUnavailable),
        (Status.UNAUTHENTICATED, StoreUnusable),
        (Status.PERMISSION_DENIED, StoreUnusable),
        (Status.NOT_FOUND, StoreUnusable),
    ],
)
def test_what_lasts_is_told_by_its_class(
    platform: Platform, client: Client, facts: LimitedDict, status: Status, kind: type[Trouble]
) -> None:
    """A store that stays away may be asked later; one that refuses us may not. Each says what was being done."""
    facts.get("hydrated")
    platform.wire.meddler = Answers("DictGet", *[refused(status)] * 50)
    with pytest.raises(StoreTrouble, match=r"^reading key of the ledger: Modal says ") as caught:
        facts.get("key")
    assert type(caught.value) is kind
    assert caught.value.hint


def test_a_refusal_for_good_is_asked_once(platform: Platform, facts: LimitedDict) -> None:
    """Trying again changes nothing there, so nobody does."""
    facts.get("hydrated")
    platform.wire.meddler = answers = Answers("DictGet", *[refused(Status.PERMISSION_DENIED)] * 5)
    with pytest.raises(StoreUnusable):
        facts.get("key")
    assert len(answers.left) == 4


@pytest.mark.parametrize(
    ("name", "doing", "ask"),
    [
        ("DictUpdate", "writing key to the ledger", ASKED[0][1]),
        ("DictContents", "reading all of the ledger", ASKED[4][1]),
        (
            "QueueGet",
            "waiting for a job in lane lane",
            lambda _, limited: limited.get(timeout=0.1, partition="lane"),
        ),
    ],
)
def test_who_is_never_answered_is_let_go(
    platform: Platform, client: Client, name: str, doing: str, ask: Callable[[LimitedDict, LimitedQueue], object]
) -> None:
    """The wait ends at its limit and says so; meanwhile and afterwards others are answered."""
    facts = LimitedDict(modal.Dict.from_name("facts", create_if_missing=True, client=client), ONCE)
    limited = LimitedQueue(modal.Queue.from_name("queue", create_if_missing=True, client=client), ONCE)
    limited.len()
    facts.put("other", "here")
    platform.wire.meddler = Answers(name, "never")
    caught: list[Exception] = []

    def wait() -> None:
        try:
            ask(facts, limited)
        except StoreUnavailable as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert facts.get("other") == "here"
    waiting.join(PATIENCE)
    limit = 1.1 if name == "QueueGet" else 1
    assert [str(error) for error in caught] == [f"{doing}: Modal did not answer within {limit:g} s"]
    facts.put("other", "still")
    assert dict(facts.items())["other"] == "still"


def test_a_long_list_is_waited_for_as_long_as_it_comes(platform: Platform, client: Client) -> None:
    """The limit of a listing is for its silence, not for all of it."""
    entries = modal.Dict.from_name("long", create_if_missing=True, client=client)
    entries.update({f"key-{number}": number for number in range(400)})
    for tried in range(40):  # a busy machine may stall for as long as the shortest of these by itself
        silence = timedelta(milliseconds=60) * 1.1**tried
        facts = LimitedDict(entries, CallLimits(entry=LIMIT, listing=silence, retry=NEVER))
        try:
            assert len(dict(facts.items())) == 400
        except StoreUnavailable:
            continue
        return
    raise AssertionError("never whole")


def test_an_empty_queue_is_no_trouble(client: Client) -> None:
    """`get` keeps its own meaning: Empty after its own timeout, which may be longer than the limit; None at once."""
    limited = LimitedQueue(modal.Queue.from_name("queue", create_if_missing=True, client=client), SHORT)
    began = time.monotonic()
    with pytest.raises(queue.Empty):
        limited.get(timeout=1.5, partition="empty")
    assert time.monotonic() - began >= 1.4
    assert limited.get(block=False, partition="empty") is None
    limited.put("id", block=False, partition="empty")
    assert limited.get(timeout=PATIENCE, partition="empty") == "id"


def test_a_full_queue_is_full(platform: Platform, limited: LimitedQueue) -> None:
    """RESOURCE_EXHAUSTED of a put is how a full queue is told."""
    limited.len()
    platform.wire.meddler = Answers("QueuePut", refused(Status.RESOURCE_EXHAUSTED))
    with pytest.raises(queue.Full):
        limited.put("id", block=False, partition="lane")


def test_a_conditional_write_whose_answer_was_lost_is_not_made_twice(platform: Platform, facts: LimitedDict) -> None:
    """The first of the writes stands, and the second says so."""
    facts.pop("once", None)
    platform.wire.lose_replies("DictUpdate", 4)  # as often as the client tries
    assert facts.put("once", "mine", skip_if_exists=True) is False
    assert facts.put("once", "other", skip_if_exists=True) is False
    assert facts.get("once") == "mine"


@pytest.fixture
def volume(client: Client) -> LimitedVolume:
    return LimitedVolume(modal.Volume.from_name("weights", create_if_missing=True, version=2, client=client), SHORT)


def test_a_commit_that_is_refused_for_now_is_made_again(
    platform: Platform, client: Client, volume: LimitedVolume
) -> None:
    """FAILED_PRECONDITION and RESOURCE_EXHAUSTED are for now; what lasts is no bug, and is worth another attempt."""
    # Outside of a container the plane itself answers FAILED_PRECONDITION, whatever came before.
    platform.wire.meddler = Answers("VolumeCommit", refused(Status.RESOURCE_EXHAUSTED), "never")
    with pytest.raises(ServerTrouble, match="committing the volume: Modal says RuntimeError: this can only") as caught:
        volume.commit()
    assert caught.value.can_retry
    platform.wire.meddler = Answers("VolumeCommit", *[refused(Status.RESOURCE_EXHAUSTED)] * 9)
    real = modal.Volume.from_name("weights", create_if_missing=True, version=2, client=client)
    with pytest.raises(TooManyRequests, match="committing the volume: Modal says ResourceExhaustedError"):
        LimitedVolume(real, LONG).commit()


def test_a_commit_that_hangs_holds_up_no_other(platform: Platform, client: Client, volume: LimitedVolume) -> None:
    """Given up, it gives its lock of the volume back."""
    real = modal.Volume.from_name("weights", create_if_missing=True, version=2, client=client)
    hasty = LimitedVolume(real, ONCE)
    with pytest.raises(NetworkTrouble):
        hasty.commit()
    platform.wire.meddler = Answers("VolumeCommit", "never")
    with pytest.raises(ServerTrouble, match="did not answer within 1 s"):
        hasty.commit()
    with pytest.raises(ServerTrouble, match="Modal says RuntimeError"):
        hasty.commit()


def test_a_reload_that_fails_for_now_leaves_it_as_it_was(platform: Platform, volume: LimitedVolume) -> None:
    """Whoever reloads goes on with what is there: one error for an open file and for a platform that is away."""
    with pytest.raises(FilesOpen, match="this can only"):
        volume.reload()
    platform.wire.meddler = Answers("VolumeReload", "never", "never")
    with pytest.raises(RuntimeError, match="reloading the volume: Modal did not answer within 1 s") as silent:
        volume.reload()
    with pytest.raises(NotReloaded, match=r"did not answer within 0\.2 s"):
        volume.reload(timedelta(seconds=0.2))
    assert not isinstance(silent.value, FilesOpen)


def test_what_is_not_deployed_is_told_from_what_is_away(platform: Platform, client: Client) -> None:
    """Not there is an answer; no answer is trouble, and never means that nothing is deployed."""
    there = Deployment("ollama-service", SHORT, client)
    assert there.has("weights_worker") is False
    assert there.url("Gateway") is None
    with pytest.raises(NotFound):
        there.send("weights_worker")
    with pytest.raises(ServerTrouble, match="calling plan_night: Modal says NotFoundError") as older:
        there.ask("plan_night")  # for somebody who is not to hear that what he asked for is not there
    assert "deploy it again" in str(older.value.hint)
    platform.wire.meddler = lambda name, _: "never" if name == "FunctionGet" else None
    with pytest.raises(ServerTrouble, match="looking up weights_worker: Modal did not answer within 1 s"):
        Deployment("ollama-service", ONCE, client).has("weights_worker")


def test_a_trial_run_may_have_shorter_limits() -> None:
    """One variable bounds each wait; without it the limits are what they are."""
    assert limits_of({}) == LIMITS
    short = limits_of({"OLLAMA_MODAL_PLATFORM_SECONDS": "2.5"})
    assert {short.entry, short.listing, short.request, short.commit, short.reload} == {timedelta(seconds=2.5)}


def test_a_beat_fits_into_a_lease_though_the_platform_hangs_once() -> None:
    """The limits leave a worker enough of its lease: one call that hangs costs no attempt."""
    from app.deployment.worker_timing import LEASE  # noqa: PLC0415 - what is compared

    assert 3 * LIMITS.entry < LEASE
