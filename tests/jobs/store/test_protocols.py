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

from app.platform.store import LimitedDict
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
class StorePair:
    """A queue and a dict of one make, and what belongs to it."""

    queue: QueueLike
    facts: ShrinkingDict
    too_large: type[Exception]
    pass_time: Callable[[float], None] | None
    """Moves the store's clock; None where nobody can."""
    fill: Callable[[int, str], None]
    """Puts that many items into a partition, quickly."""


@contextmanager
def sqlite_pair(home: Path) -> Iterator[StorePair]:
    clock = HandClock()
    queue, facts = SqliteQueue(home / "store.sqlite", clock=clock), SqliteDict(home / "store.sqlite")
    try:
        yield StorePair(queue, facts, BadRequest, clock.tick, lambda count, key: filled(queue, count, key))
    finally:
        queue.close()
        facts.close()


@contextmanager
def local_modal_pair(home: Path) -> Iterator[StorePair]:
    clock = HandClock()
    with Platform(clock=clock) as platform, platform.client() as client:
        queue = modal.Queue.from_name("queue", create_if_missing=True, client=client)
        facts = modal.Dict.from_name("facts", create_if_missing=True, client=client)
        yield modal_pair(queue, facts, clock.tick)


@contextmanager
def real_modal_pair(home: Path) -> Iterator[StorePair]:
    with modal.Queue.ephemeral() as queue, modal.Dict.ephemeral() as facts:
        yield modal_pair(queue, facts, None)


def modal_pair(queue: modal.Queue, facts: modal.Dict, pass_time: Callable[[float], None] | None) -> StorePair:
    return StorePair(
        queue,
        LimitedDict(facts),
        modal.exception.RequestSizeError,
        pass_time,
        lambda count, key: queue.put_many(list(range(count)), partition=key),
    )


def filled(queue: SqliteQueue, count: int, key: str) -> None:
    for number in range(count):
        queue.put(number, partition=key)


PAIRS = {"sqlite": sqlite_pair, "modal, local": local_modal_pair, "modal": real_modal_pair}


@pytest.fixture(params=PAIRS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorePair]:
    if request.param == "modal" and not os.environ.get(ON_MODAL):
        pytest.skip(f"runs on Modal itself where {ON_MODAL}=1 is set and `modal token new` has been run")
    with PAIRS[request.param](tmp_path_factory.mktemp("store")) as opened:
        yield opened


@pytest.fixture
def key() -> str:
    """A key, and a partition, that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


def test_items_come_first_in_first_out(pair: StorePair, key: str) -> None:
    """Within a partition items come in the order in which they were put, each once."""
    for number in range(5):
        pair.queue.put(number, partition=key)
    assert pair.queue.len(partition=key) == 5
    assert [pair.queue.get(partition=key) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert pair.queue.len(partition=key) == 0


def test_partitions_do_not_mix(pair: StorePair, key: str) -> None:
    """What is put into one partition is not seen in another."""
    pair.queue.put("here", partition=key)
    assert pair.queue.get(block=False, partition=f"{key}-other") is None
    assert pair.queue.get(block=False, partition=key) == "here"


def test_an_empty_queue_says_so_twice(pair: StorePair, key: str) -> None:
    """Not blocking, an empty queue answers None; blocking, it raises `queue.Empty` when the time is up."""
    assert pair.queue.get(block=False, partition=key) is None
    with pytest.raises(queue.Empty):
        pair.queue.get(timeout=0.05, partition=key)


def test_several_items_come_in_their_order(pair: StorePair, key: str) -> None:
    """Several items put at once come behind those that wait, in their order, and in no other partition."""
    pair.queue.put("first", partition=key)
    pair.queue.put_many(["second", "third"], block=False, partition=key)
    assert pair.queue.len(partition=key) == 3
    assert [pair.queue.get(block=False, partition=key) for _ in range(4)] == ["first", "second", "third", None]


def test_a_full_partition_says_so(pair: StorePair, key: str) -> None:
    """The 5,001st item is refused with `queue.Full`, and there is room again when one was taken."""
    pair.fill(5_000, key)
    with pytest.raises(queue.Full):
        pair.queue.put("one more", block=False, partition=key)
    pair.queue.get(partition=key)
    pair.queue.put("one more", block=False, partition=key)


def test_an_item_over_a_mebibyte_is_refused(pair: StorePair, key: str) -> None:
    """An item that is too large is refused, and nothing is put."""
    with pytest.raises(pair.too_large):
        pair.queue.put("x" * (1 << 20), partition=key)
    assert pair.queue.len(partition=key) == 0


def test_a_partition_fades(pair: StorePair, key: str) -> None:
    """A partition is emptied a day after the last put into it."""
    if pair.pass_time is None:
        pytest.skip("nobody can move the clock of the real platform; the local places show the same")
    day = 24 * 3600
    pair.queue.put("old", partition=key)
    pair.pass_time(day - 1)
    pair.queue.put("new", partition=key)
    pair.pass_time(day - 1)
    assert pair.queue.len(partition=key) == 2
    pair.pass_time(2)
    assert pair.queue.len(partition=key) == 0
    assert pair.queue.get(block=False, partition=key) is None


def test_one_writer_wins(pair: StorePair, key: str) -> None:
    """Of many writers of one key with `skip_if_exists` exactly one gets True, and its value stands."""
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: pair.facts.put(key, {"n": n}, skip_if_exists=True), range(24)))
    assert won.count(True) == 1
    assert pair.facts.get(key) == {"n": won.index(True)}


def test_an_entry_is_removed(pair: StorePair, key: str) -> None:
    """`pop` answers with the entry and removes it, and with the default where there is none."""
    pair.facts.put(key, {"a": 1})
    assert pair.facts.pop(key, None) == {"a": 1}
    assert pair.facts.pop(key, None) is None
    assert pair.facts.get(key) is None
    assert pair.facts.put(key, 2, skip_if_exists=True)


def test_each_item_goes_to_one_getter(pair: StorePair, key: str) -> None:
    """Of many getters each item reaches exactly one."""
    for number in range(24):
        pair.queue.put(number, partition=key)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: pair.queue.get(block=False, partition=key), range(30)))
    assert sorted(item for item in got if item is not None) == list(range(24))
    assert got.count(None) == 6


def test_values_are_copies(pair: StorePair, key: str) -> None:
    """Changing what was read, or what was put, changes nothing that is stored."""
    value = {"list": [1], "text": "ü"}
    pair.facts.put(key, value)
    value["list"] = [2]
    read = pair.facts.get(key)
    read["list"].append(3)
    assert pair.facts.get(key) == {"list": [1], "text": "ü"}


def test_put_overwrites_unless_told_not_to(pair: StorePair, key: str) -> None:
    """A plain put replaces and answers True; an absent key reads as the default."""
    assert pair.facts.get(key) is None
    assert pair.facts.get(key, "nothing") == "nothing"
    assert pair.facts.put(key, 1) is True
    assert pair.facts.put(key, 2) is True
    assert pair.facts.put(key, 3, skip_if_exists=True) is False
    assert pair.facts.get(key) == 2


def test_several_entries_are_written_at_once(pair: StorePair, key: str) -> None:
    """Several entries are written whatever stood there, and no other one."""
    pair.facts.put(f"{key}/a", 1)
    pair.facts.put(f"{key}/c", 1)
    pair.facts.update({f"{key}/a": 2, f"{key}/b": {"n": 3}})
    assert [pair.facts.get(f"{key}/{name}") for name in "abc"] == [2, {"n": 3}, 1]


def test_keys_and_items_tell_all(pair: StorePair, key: str) -> None:
    """`keys` and `items` tell every entry, in no order."""
    wanted = {f"{key}/{number}": {"n": number} for number in range(20)}
    for each, value in wanted.items():
        pair.facts.put(each, value)
    assert {each for each in pair.facts.keys() if each.startswith(key)} == set(wanted)  # noqa: SIM118 - modal's Dict
    assert {each: value for each, value in pair.facts.items() if each.startswith(key)} == wanted


def test_the_ledger_runs_on_it(pair: StorePair, key: str) -> None:
    """A job is posted once by many, claimed by one, beats, is retried, ends, and tells its story; a wiped queue is
    filled again."""
    ledger = Ledger(pair.queue, pair.facts, SystemClock())
    with ThreadPoolExecutor(6) as pool:
        posted = list(pool.map(lambda _: ledger.post("warm", key, {"model": key}, by="suite"), range(6)))
    (id,) = {each.job.id for each in posted}
    assert sum(not each.attached for each in posted) == 1

    while pair.queue.get(block=False, partition="servers") is not None:
        pass
    assert id in Ledger(pair.queue, pair.facts, SystemClock()).sweep().enqueued
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
    with sqlite_pair(tmp_path) as pair:
        for value in ({"at": object()}, float("nan"), {1, 2}):
            with pytest.raises(BadRequest, match="not plain JSON"):
                pair.facts.put("k", value)
        with pytest.raises(BadRequest, match="is not a string"):
            pair.facts.put(1, "v")
        with pytest.raises(BadRequest, match="the partition"):
            pair.queue.put("v", partition="x" * 65)
        assert list(pair.facts.items()) == []


def test_sqlite_survives_its_process(tmp_path: Path) -> None:
    """What was written is there for the next process that opens the file."""
    with sqlite_pair(tmp_path) as pair:
        pair.facts.put("k", {"v": 1})
        pair.queue.put("id", partition="weights")
    with sqlite_pair(tmp_path) as pair:
        assert pair.facts.get("k") == {"v": 1}
        assert pair.queue.get(block=False, partition="weights") == "id"
