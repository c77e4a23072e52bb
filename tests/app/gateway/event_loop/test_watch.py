"""Promises of the debug mode: what held the event loop up is told, by its functions alone; off, it is not there."""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
import uvloop

from app.gateway.event_loop.watch import TOLD_EVERY, VARIABLE, Block, LoopWatch, name_of, watch_of
from jobs.core.clock import SystemClock
from jobs.core.errors import BadRequest
from jobs.testing.clock import HandClock
from tests.support.dialects import OLLAMA, whole_answer
from tests.support.gateways import asked, gateway
from tests.support.processes import free_port
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE

NOTHING = timedelta(0)
"""A limit that everything exceeds."""

Told = list[tuple[Block, int]]


@contextmanager
def watching(limit: timedelta) -> Iterator[tuple[LoopWatch, Told]]:
    """A watch that looks, and what it tells."""
    told: Told = []
    watch = LoopWatch(limit, SystemClock(), lambda *report: told.append(report))
    watch.start()
    try:
        yield watch, told
    finally:
        watch.stop()


def by_hand(clock: HandClock) -> tuple[LoopWatch, Told]:
    """A watch of everything that looks when it is told to."""
    told: Told = []
    return LoopWatch(NOTHING, clock, lambda *report: told.append(report)), told


def quick(_: str = "") -> None:
    pass


def hold_up(watch: LoopWatch) -> None:
    """Keep the loop until somebody has looked at it."""
    until = time.monotonic() + PATIENCE
    while not watch.looks and time.monotonic() < until:
        time.sleep(0.001)


async def step(watch: LoopWatch) -> None:
    hold_up(watch)


def test_what_holds_the_loop_up_is_told_with_its_stack() -> None:
    """By the coroutine's name, for how long, and where it was; and it is counted."""
    limit = timedelta(milliseconds=20)
    with watching(limit) as (watch, told), asyncio.Runner(loop_factory=watch.new_loop) as runner:
        runner.run(step(watch))
    block = next(block for block, _ in told if block.stack)
    assert block.what == "step"
    assert block.seconds > limit.total_seconds()
    assert [frame.split(" (")[0] for frame in block.stack][:2] == ["hold_up", "step"]
    assert "event_loop/test_watch.py:" in block.stack[0]
    assert watch.blocks >= 1


def test_what_sockets_bring_is_timed_too(tmp_path: Path) -> None:
    """The server's own callbacks and the clients' alike, which asyncio's debug mode leaves out under uvloop."""
    watch, told = by_hand(HandClock())
    with (
        ScriptedServer(whole_answer) as server,
        gateway(tmp_path, {"a10g": server.url}, new_loop=watch.new_loop) as found,
    ):
        asked(found, OLLAMA)
    watch.tell_seen()
    seen = {block.what for block, _ in told}
    assert {"StrictHttpProtocol.data_received", "Connection.data_received", "HttpCycle.run"} <= seen


def test_one_callback_is_told_of_now_and_then(clock: HandClock) -> None:
    """At once, then with how often it was seen meanwhile; another one is told of at once, too."""
    watch, told = by_hand(clock)
    for _ in range(3):
        watch.timed(quick)()
    watch.timed(by_hand)(clock)
    watch.tell_seen()
    assert [(block.what, since) for block, since in told] == [("quick", 0), ("by_hand", 0)]
    clock.tick(TOLD_EVERY.total_seconds())
    watch.timed(quick)()
    watch.tell_seen()
    assert [(block.what, since) for block, since in told[2:]] == [("quick", 2)]
    assert watch.blocks == 5


def test_no_values_are_told(clock: HandClock) -> None:
    """Names of functions and files, whatever they were called with."""
    watch, told = by_hand(clock)
    watch.timed(partial(quick, "a prompt"))()
    watch.timed(quick)("a key")
    watch.tell_seen()
    assert {block.what for block, _ in told} == {"quick"}
    text = " ".join(str(block) for block, _ in told)
    assert "prompt" not in text
    assert "key" not in text


def test_what_is_called_within_a_callback_is_part_of_it(clock: HandClock) -> None:
    """One report, of the outer one."""
    watch, told = by_hand(clock)
    watch.timed(watch.timed(quick))()
    watch.tell_seen()
    assert len(told) == watch.blocks == 1


def test_an_exception_passes() -> None:
    """What a callback raises is the caller's, as without a watch."""
    watch, _ = by_hand(HandClock())
    with pytest.raises(ZeroDivisionError):
        watch.timed(lambda: 1 / 0)()
    assert watch.blocks == 1


def test_a_collection_is_told() -> None:
    """In whichever thread it runs: it stops all of them."""
    with watching(NOTHING) as (_, told):
        gc.collect()
    assert "a garbage collection of generation 2" in {block.what for block, _ in told}


def test_at_its_end_all_is_as_before() -> None:
    """The turns of threads, the callbacks of the collector, and no thread is left."""
    before = sys.getswitchinterval(), list(gc.callbacks)
    with watching(timedelta(milliseconds=2)):
        assert sys.getswitchinterval() <= 0.0005
    assert (sys.getswitchinterval(), list(gc.callbacks)) == before
    assert "loop watch" not in {thread.name for thread in threading.enumerate()}


def test_off_nothing_of_it_is_there(tmp_path: Path) -> None:
    """The loop is uvloop's own, no thread looks, nothing is counted."""
    before = sys.getswitchinterval(), list(gc.callbacks)
    with gateway(tmp_path, {"a10g": f"http://127.0.0.1:{free_port()}"}) as running:
        assert running.composed.new_loop is uvloop.new_event_loop
        assert (sys.getswitchinterval(), list(gc.callbacks)) == before
        assert "loop watch" not in {thread.name for thread in threading.enumerate()}
        assert "loop_blocks" not in httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text


def test_on_it_is_counted(tmp_path: Path) -> None:
    """By the meters, from nothing on."""
    watch = LoopWatch(timedelta(hours=1), SystemClock())
    with gateway(tmp_path, {"a10g": f"http://127.0.0.1:{free_port()}"}, loop_watch=watch) as running:
        assert "ollama_modal_loop_blocks_total 0.0" in httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text


@pytest.mark.parametrize(("text", "seconds"), [("2ms", 0.002), (" 0.5 ms ", 0.0005), ("1s", 1.0), ("1.5 s", 1.5)])
def test_the_environment_says_the_limit(text: str, seconds: float) -> None:
    """In milliseconds or seconds."""
    watch = watch_of({VARIABLE: text}, SystemClock())
    assert watch is not None
    assert watch.limit == timedelta(seconds=seconds)


@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}, {VARIABLE: "  "}])
def test_without_the_variable_there_is_no_watch(environ: dict[str, str]) -> None:
    """Nor with one that says nothing."""
    assert watch_of(environ, SystemClock()) is None


@pytest.mark.parametrize("text", ["on", "2", "0ms", "-1ms", "2min", "1e3ms", "9999999ms"])
def test_a_limit_that_is_no_time_is_refused(text: str) -> None:
    """With the variable, what it says, and what it could."""
    with pytest.raises(BadRequest, match=VARIABLE) as caught:
        watch_of({VARIABLE: text}, SystemClock())
    assert "2ms" in str(caught.value.hint)


def test_a_callback_without_a_name_is_told_by_its_kind() -> None:
    """As an object that can be called."""

    class Caller:
        def __call__(self) -> None:
            pass

    assert name_of(Caller()).endswith("Caller")
