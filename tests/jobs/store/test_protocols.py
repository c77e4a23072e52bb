"""One suite of promises for every queue and dict we run on: SQLite, and the real Modal client on the control plane.

Where `OLLAMA_MODAL_TEST_ON_MODAL` is set and Modal tokens are, the same suite runs on Modal itself.
"""

import os
import queue
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import modal
import pytest

from jobs.core.clock import SystemClock
from jobs.core.errors import BadRequest
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, JobState
from jobs.ledger.ledger import Ledger
from jobs.store.protocols import QueueLike, ShrinkingDict
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.testing.clock import HandClock
from tests.modal.platform.plane import Platform

ON_MODAL = "OLLAMA_MODAL_TEST_ON_MODAL"


@dataclass
class Place:
    """A queue and a dict of one make, and what belongs to it."""

    queue: QueueLike
    facts: ShrinkingDict
    too_large: type[Exception]
    pass_time: Callable[[float], None] | None
    """Moves the store's clock; None where nobody can."""
    fill: Callable[[int, str], None]
    """Puts that many items into a partition, quickly."""


@contextmanager
def sqlite_place(home: Path) -> Iterator[Place]:
    clock = HandClock()
    bells, facts = SqliteQueue(home / "store.sqlite", clock=clock), SqliteDict(home / "store.sqlite")
    try:
        yield Place(bells, facts, BadRequest, clock.tick, lambda count, key: filled(bells, count, key))
    finally:
        bells.close()
        facts.close()


@contextmanager
def local_modal_place(home: Path) -> Iterator[Place]:
    clock = HandClock()
    with Platform(clock=clock) as platform, platform.client() as client:
        bells = modal.Queue.from_name("bells", create_if_missing=True, client=client)
        facts = modal.Dict.from_name("facts", create_if_missing=True, client=client)
        yield modal_place(bells, facts, clock.tick)


@contextmanager
def real_modal_place(home: Path) -> Iterator[Place]:
    with modal.Queue.ephemeral() as bells, modal.Dict.ephemeral() as facts:
        yield modal_place(bells, facts, None)


def modal_place(bells: modal.Queue, facts: modal.Dict, pass_time: Callable[[float], None] | None) -> Place:
    return Place(
        bells,
        facts,
        modal.exception.RequestSizeError,
        pass_time,
        lambda count, key: bells.put_many(list(range(count)), partition=key),
    )


def filled(bells: SqliteQueue, count: int, key: str) -> None:
    for number in range(count):
        bells.put(number, partition=key)


PLACES = {"sqlite": sqlite_place, "modal, local": local_modal_place, "modal": real_modal_place}


@pytest.fixture(params=PLACES, scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param == "modal" and not os.environ.get(ON_MODAL):
        pytest.skip(f"runs on Modal itself where {ON_MODAL}=1 is set and `modal token new` has been run")
    with PLACES[request.param](tmp_path_factory.mktemp("place")) as opened:
        yield opened


@pytest.fixture
def key() -> str:
    """A key, and a partition, that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


def test_items_come_first_in_first_out(place: Place, key: str) -> None:
    """Within a partition items come in the order in which they were put, each once."""
    for number in range(5):
        place.queue.put(number, partition=key)
    assert place.queue.len(partition=key) == 5
    assert [place.queue.get(partition=key) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert place.queue.len(partition=key) == 0


def test_partitions_do_not_mix(place: Place, key: str) -> None:
    """What is put into one partition is not seen in another."""
    place.queue.put("here", partition=key)
    assert place.queue.get(block=False, partition=f"{key}-other") is None
    assert place.queue.get(block=False, partition=key) == "here"


def test_an_empty_queue_says_so_twice(place: Place, key: str) -> None:
    """Not blocking, an empty queue answers None; blocking, it raises `queue.Empty` when the time is up."""
    assert place.queue.get(block=False, partition=key) is None
    with pytest.raises(queue.Empty):
        place.queue.get(timeout=0.05, partition=key)


def test_a_full_partition_says_so(place: Place, key: str) -> None:
    """The 5,001st item is refused with `queue.Full`, and there is room again when one was taken."""
    place.fill(5_000, key)
    with pytest.raises(queue.Full):
        place.queue.put("one more", block=False, partition=key)
    with pytest.raises(queue.Full):
        place.queue.put("one more", timeout=0.05, partition=key)
    place.queue.get(partition=key)
    place.queue.put("one more", block=False, partition=key)


def test_an_item_over_a_mebibyte_is_refused(place: Place, key: str) -> None:
    """An item that is too large is refused, and nothing is put."""
    with pytest.raises(place.too_large):
        place.queue.put("x" * (1 << 20), partition=key)
    assert place.queue.len(partition=key) == 0


def test_a_partition_fades(place: Place, key: str) -> None:
    """A partition is emptied its time to live after the last put into it."""
    if place.pass_time is None:
        pytest.skip("nobody can move the clock of the real platform; the local places show the same")
    place.queue.put("old", partition=key, partition_ttl=60)
    place.pass_time(59)
    place.queue.put("new", partition=key, partition_ttl=60)
    place.pass_time(59)
    assert place.queue.len(partition=key) == 2
    place.pass_time(2)
    assert place.queue.len(partition=key) == 0
    assert place.queue.get(block=False, partition=key) is None


def test_one_writer_wins(place: Place, key: str) -> None:
    """Of many writers of one key with `skip_if_exists` exactly one gets True, and its value stands."""
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: place.facts.put(key, {"n": n}, skip_if_exists=True), range(24)))
    assert won.count(True) == 1
    assert place.facts.get(key) == {"n": won.index(True)}


def test_an_entry_is_removed(place: Place, key: str) -> None:
    """`pop` answers with the entry and removes it, and with the default where there is none."""
    place.facts.put(key, {"a": 1})
    assert place.facts.pop(key, None) == {"a": 1}
    assert place.facts.pop(key, None) is None
    assert place.facts.get(key) is None
    assert place.facts.put(key, 2, skip_if_exists=True)


def test_each_item_goes_to_one_getter(place: Place, key: str) -> None:
    """Of many getters each item reaches exactly one."""
    for number in range(24):
        place.queue.put(number, partition=key)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: place.queue.get(block=False, partition=key), range(30)))
    assert sorted(item for item in got if item is not None) == list(range(24))
    assert got.count(None) == 6


def test_values_are_copies(place: Place, key: str) -> None:
    """Changing what was read, or what was put, changes nothing that is stored."""
    value = {"list": [1], "text": "ü"}
    place.facts.put(key, value)
    value["list"] = [2]
    read = place.facts.get(key)
    read["list"].append(3)
    assert place.facts.get(key) == {"list": [1], "text": "ü"}


def test_put_overwrites_unless_told_not_to(place: Place, key: str) -> None:
    """A plain put replaces and answers True; an absent key reads as the default."""
    assert place.facts.get(key) is None
    assert place.facts.get(key, "nothing") == "nothing"
    assert place.facts.put(key, 1) is True
    assert place.facts.put(key, 2) is True
    assert place.facts.put(key, 3, skip_if_exists=True) is False
    assert place.facts.get(key) == 2


def test_keys_and_items_tell_all(place: Place, key: str) -> None:
    """`keys` and `items` tell every entry, in no order."""
    wanted = {f"{key}/{number}": {"n": number} for number in range(20)}
    for each, value in wanted.items():
        place.facts.put(each, value)
    assert {each for each in place.facts.keys() if each.startswith(key)} == set(wanted)  # noqa: SIM118 - modal's Dict
    assert {each: value for each, value in place.facts.items() if each.startswith(key)} == wanted


def test_the_ledger_runs_on_it(place: Place, key: str) -> None:
    """A job is posted once by many, claimed by one, beats, is retried, ends, and tells its story; a wiped queue is
    rung again."""
    ledger = Ledger(place.queue, place.facts, SystemClock())
    with ThreadPoolExecutor(6) as pool:
        posted = list(pool.map(lambda _: ledger.post("warm", key, {"model": key}, by="suite"), range(6)))
    (id,) = {each.job.id for each in posted}
    assert sum(not each.attached for each in posted) == 1

    while place.queue.get(block=False, partition="servers") is not None:
        pass
    assert id in Ledger(place.queue, place.facts, SystemClock()).sweep().enqueued
    assert ledger.next_id("servers", timedelta(seconds=5)) == id
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda n: ledger.claim(id, worker=f"w{n}", lease=timedelta(minutes=1)), range(4)))
    (claim,) = [each for each in claims if each is not None]
    assert ledger.beat(claim, Reading(1, 2, 1.0, "loading")) is False
    assert ledger.reader.get(id).progress.completed == 1
    now = SystemClock().now()
    assert ledger.end(claim, Ending("retry", "network", "cut", not_before=now), Reading(1, 2)).state is JobState.WAITING
    again = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
    assert again is not None
    job = ledger.end(again, Ending("succeeded", result={"ok": True}), Reading(2, 2))
    assert [attempt.outcome for attempt in job.attempts] == ["retry", "succeeded"]
    assert ledger.reader.get(id) == next(each for each in ledger.reader.jobs() if each.id == id)


def test_what_is_no_json_is_refused_here(tmp_path: Path) -> None:
    """SQLite refuses values that are not plain JSON and keys that are not strings, before writing anything."""
    with sqlite_place(tmp_path) as place:
        for value in ({"at": object()}, float("nan"), {1, 2}):
            with pytest.raises(BadRequest, match="not plain JSON"):
                place.facts.put("k", value)
        with pytest.raises(BadRequest, match="is not a string"):
            place.facts.put(1, "v")
        with pytest.raises(BadRequest, match="the partition"):
            place.queue.put("v", partition="x" * 65)
        assert list(place.facts.items()) == []


def test_sqlite_survives_its_process(tmp_path: Path) -> None:
    """What was written is there for the next process that opens the file."""
    with sqlite_place(tmp_path) as place:
        place.facts.put("k", {"v": 1})
        place.queue.put("id", partition="weights")
    with sqlite_place(tmp_path) as place:
        assert place.facts.get("k") == {"v": 1}
        assert place.queue.get(block=False, partition="weights") == "id"
