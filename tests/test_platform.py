"""The control plane keeps the promises our code relies on, seen through the real client and real containers."""

import asyncio
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import modal
import pytest
from modal.client import Client

from jobs.testing.clock import HandClock
from tests.platform.plane import Platform


@pytest.fixture(scope="module")
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(scope="module")
def platform(clock: HandClock) -> Iterator[Platform]:
    with Platform(clock=clock) as platform:
        yield platform


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[Client]:
    with platform.client() as client:
        yield client


@pytest.fixture
def bell(request: pytest.FixtureRequest, client: Client) -> modal.Queue:
    return modal.Queue.from_name(request.node.name[:60], create_if_missing=True, client=client)


@pytest.fixture
def facts(request: pytest.FixtureRequest, client: Client) -> modal.Dict:
    return modal.Dict.from_name(request.node.name[:60], create_if_missing=True, client=client)


def test_queue_removes_what_it_hands_out(bell: modal.Queue) -> None:
    """A queue is first in first out, `get` removes, `iterate` does not, and an empty one says so in two ways."""
    bell.put("a")
    bell.put_many(["b", "c", "d"])

    assert list(bell.iterate()) == ["a", "b", "c", "d"]
    assert bell.get() == "a"
    assert bell.get_many(2) == ["b", "c"]
    assert bell.len() == 1
    bell.clear()
    assert bell.get(block=False) is None
    with pytest.raises(queue.Empty):
        bell.get(timeout=0.05)


def test_queue_partitions_are_apart_and_fade(bell: modal.Queue, clock: HandClock) -> None:
    """Partitions do not see each other's items, and a whole partition is gone its time to live after the last put."""
    bell.put(1, partition="pull", partition_ttl=60)
    clock.tick(50)
    bell.put(2, partition="pull", partition_ttl=60)
    bell.put(3, partition="warm")
    clock.tick(50)
    assert (bell.len(partition="pull"), bell.len(total=True), bell.len()) == (2, 3, 0)
    clock.tick(10)
    assert (bell.len(partition="pull"), bell.len(total=True)) == (0, 1)


def test_queue_full_refuses(bell: modal.Queue) -> None:
    """The 5,001st item of a partition is refused, and an item over 1 MiB is too large."""
    bell.put_many(list(range(5_000)))
    with pytest.raises(queue.Full):
        bell.put(0, block=False)
    with pytest.raises(queue.Full):
        bell.put(0, timeout=0.3)
    with pytest.raises(modal.exception.RequestSizeError):
        bell.put(b"x" * (1 << 20), partition="other")


def test_queue_get_waits_for_a_put(bell: modal.Queue) -> None:
    """A blocked `get` returns as soon as something is put, and each item goes to one of the many who wait."""
    with ThreadPoolExecutor(8) as pool:
        takers = [pool.submit(bell.get, timeout=20) for _ in range(8)]
        started = time.monotonic()
        bell.put_many(list(range(8)))
        taken = sorted(int(taker.result() or 0) for taker in takers)
    assert taken == list(range(8))
    assert time.monotonic() - started < 10


def test_lost_reply_of_a_put_puts_twice(platform: Platform, bell: modal.Queue) -> None:
    """A put whose reply is lost is repeated by the client, and then the item is there twice."""
    bell.put("once")
    platform.wire.lose_replies("QueuePut")
    bell.put("twice")
    assert bell.get_many(10) == ["once", "twice", "twice"]


def test_dict_first_writer_wins_among_threads(facts: modal.Dict) -> None:
    """Of many conditional writes of one key, from many threads, exactly one is told that it wrote."""
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: facts.put("claim", n, skip_if_exists=True), range(64)))
    assert won.count(True) == 1
    assert facts["claim"] == won.index(True)


def test_dict_holds_copies_and_lists_them_whole(facts: modal.Dict) -> None:
    """Values are copies; `get`, `pop`, `contains`, `len` and the scans agree on what is there."""
    facts.update({"a": {"n": 1}, "b": {"n": 2}})
    facts["a"]["n"] = 100
    assert dict(facts.items()) == {"a": {"n": 1}, "b": {"n": 2}}
    assert sorted(facts.keys()) == ["a", "b"]
    assert facts.put("a", {"n": 3})
    assert facts.pop("a") == {"n": 3}
    assert facts.get("a") is None
    assert ("a" in facts, "b" in facts, facts.len()) == (False, True, 1)
    with pytest.raises(KeyError):
        facts.pop("a")


def test_dict_forgets_after_seven_idle_days(facts: modal.Dict, clock: HandClock) -> None:
    """An entry fades seven days after it was last read or written; a scan keeps nothing alive."""
    facts.update({"read": 1, "idle": 2})
    clock.tick(6 * 86_400)
    assert facts["read"] == 1
    assert facts.len() == 2
    clock.tick(86_400)
    assert list(facts.keys()) == ["read"]
    assert facts.put("idle", 3, skip_if_exists=True)


def test_async_twins_reach_the_same_objects(bell: modal.Queue, facts: modal.Dict) -> None:
    """`.aio` methods and plain ones meet in the same queue and the same dict."""

    async def story() -> tuple[object, object]:
        await bell.put.aio("hello")
        await facts.put.aio("k", "v")
        return await bell.get.aio(), await facts.get.aio("k")

    assert asyncio.run(story()) == ("hello", "v")
    assert facts["k"] == "v"


def test_names_live_in_environments(client: Client) -> None:
    """One name in two environments is two objects; names nobody made and unknown environments are not found."""
    here = modal.Dict.from_name("apart", create_if_missing=True, client=client)
    there = modal.Dict.from_name("apart", create_if_missing=True, client=client, environment_name="test")
    here["k"] = 1
    assert "k" not in there
    for missing in (
        modal.Queue.from_name("nobody-made-this", client=client),
        modal.Queue.from_name("q", client=client, create_if_missing=True, environment_name="prod"),
    ):
        with pytest.raises(modal.exception.NotFoundError):
            missing.len()


RACER = """
import modal, sys
facts = modal.Dict.from_name("race", create_if_missing=True)
bell = modal.Queue.from_name("race", create_if_missing=True)
bell.get(timeout=30)
print(sum(facts.put(f"claim/{n}", sys.argv[1], skip_if_exists=True) for n in range(50)))
"""


def test_two_processes_share_one_truth(platform: Platform, client: Client) -> None:
    """Two client processes race for fifty claims; each is won once, and both processes see the same winner."""
    facts = modal.Dict.from_name("race", create_if_missing=True, client=client)
    bell = modal.Queue.from_name("race", create_if_missing=True, client=client)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, name],
            env={**os.environ, **platform.environ()},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("left", "right")
    ]
    bell.put_many(["go", "go"])
    won = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(won) == 50
    assert sorted(facts.values()) == ["left"] * won[0] + ["right"] * won[1]


def test_killed_waiter_takes_nothing_with_it(platform: Platform, bell: modal.Queue) -> None:
    """A process killed while it waits in `get` loses no item that is put afterwards."""
    waiter = subprocess.Popen(
        [sys.executable, "-c", f"import modal; modal.Queue.from_name({bell.name!r}).get()"],
        env={**os.environ, **platform.environ()},
    )
    bell.len()
    before = platform.wire.counts["QueueGet"]
    while platform.wire.counts["QueueGet"] == before:
        time.sleep(0.05)
    waiter.kill()
    waiter.wait()
    bell.put("still here")
    assert bell.get(timeout=5) == "still here"
