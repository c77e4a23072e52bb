"""A debug mode: reports what held the event loop up for longer than a limit, with the stack that it was seen in.

    OLLAMA_MODAL_DEBUG_LOOP=2ms

asyncio's own debug mode is no help here: under uvloop it times no callback of a socket, and it checks so much else that
everything is slow. This one times each callback, and a thread looks at the stack of one that takes long. Only names of
functions and files are told, no values. Without the variable nothing of this is there, and nothing costs anything.
"""

import asyncio
import gc
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any

from loguru import logger

from app.gateway.event_loop.callbacks import Callback, WrappingLoop
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest

VARIABLE = "OLLAMA_MODAL_DEBUG_LOOP"

TOLD_EVERY = timedelta(seconds=10)
"""So often a line tells of the same callback; the times in between are counted in the next."""

SHORTEST_PAUSE_SECONDS = 0.0005
"""Between two looks at the loop, however short the limit is."""

MOST_UNTOLD = 1_000
"""Reports that wait for the thread that tells them; what comes beyond is counted all the same."""

MOST_FRAMES = 12
"""Of a stack, those that were called last."""

_SPAN = re.compile(r"(\d{1,5}(?:\.\d{1,3})?) ?(ms|s)", re.ASCII)


@dataclass(frozen=True)
class Block:
    """One time that the event loop was held up.

    Args:
        what: the callback, by its function; or a garbage collection.
        seconds: how long it took.
        work_seconds: how long the loop's thread worked meanwhile; the rest it waited for a core, or for other threads
            to let go of the interpreter.
        stack: where it was when it was looked at, the last call first; empty where it ended before that.

    """

    what: str
    seconds: float
    work_seconds: float
    stack: tuple[str, ...] = ()

    def __str__(self) -> str:
        seen = f", at {' < '.join(self.stack)}" if self.stack else ""
        return (
            f"the event loop was held up for {1000 * self.seconds:.1f} ms, {1000 * self.work_seconds:.1f} ms of it by"
            f" work of its own, by {self.what}{seen}"
        )


@dataclass
class _Running:
    """A callback under way. The loop's thread makes it; the thread that watches puts `stack` in, once."""

    began: float
    stack: tuple[str, ...] = ()


@dataclass
class _Told:
    """When a line told of a callback last, and how often it was seen since."""

    at: float
    since: int = 0


def watch_of(environ: Mapping[str, str], clock: Clock) -> "LoopWatch | None":
    """The watch that the environment asks for, if it does.

    Raises:
        BadRequest: the limit is no time.

    """
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return None
    found = _SPAN.fullmatch(text)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not seconds:
        raise BadRequest(f"{VARIABLE} is {text!r}, and no time", hint="a time looks like 2ms, 0.5ms or 1s")
    return LoopWatch(timedelta(seconds=seconds), clock)


class LoopWatch:
    """Watches one event loop, which `new_loop` makes.

    Args:
        limit: what takes longer is reported.
        clock: for pauses, and how often something is told.
        tell: takes a report, and how often the same callback was seen since the last one; in a thread of ours.

    """

    def __init__(self, limit: timedelta, clock: Clock, tell: "Callable[[Block, int], None] | None" = None) -> None:
        self.limit = limit
        self._limit = limit.total_seconds()
        self._clock = clock
        self._tell = tell or _log
        #: How often something took longer. Only grows; the loop's thread counts, or whichever collects garbage.
        self.blocks = 0
        #: How often a stack was looked at. Only grows; the thread that watches counts.
        self.looks = 0
        #: Of the loop's thread; the one that watches reads it.
        self._running: _Running | None = None
        #: The thread that the loop runs in; set by its first callback.
        self._loop_thread = 0
        #: Put in by whichever thread saw it, taken out by the one that tells.
        self._untold: deque[Block] = deque(maxlen=MOST_UNTOLD)
        #: By callback; of the thread that tells.
        self._told: dict[str, _Told] = {}
        #: When a collection began; of whichever thread collects, and there is one at a time.
        self._collecting_since = 0.0
        self._switch_seconds = sys.getswitchinterval()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop watch", daemon=True)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """An event loop that is watched from its first callback on."""
        return WrappingLoop(self.timed)

    def start(self) -> None:
        """Look at stacks, and tell what was seen."""
        # Else a thread that wants to look gets to run after five milliseconds only.
        self._switch_seconds = sys.getswitchinterval()
        sys.setswitchinterval(min(self._switch_seconds, max(self._limit / 4, SHORTEST_PAUSE_SECONDS / 4)))
        gc.callbacks.append(self._note_collection)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        if self._note_collection in gc.callbacks:
            gc.callbacks.remove(self._note_collection)
        sys.setswitchinterval(self._switch_seconds)

    def timed(self, callback: Callback) -> Callback:
        """The callback, timed."""

        def run_timed(*args: Any) -> Any:
            if self._running is not None:  # within another one, whose time this is part of
                return callback(*args)
            self._loop_thread = threading.get_ident()
            worked = time.thread_time()
            running = self._running = _Running(time.monotonic())
            try:
                return callback(*args)
            finally:
                self._running = None
                seconds = time.monotonic() - running.began
                if seconds > self._limit:
                    work_seconds = time.thread_time() - worked
                    self._note(Block(name_of(callback), seconds, work_seconds, running.stack))

        return run_timed

    def _note(self, block: Block) -> None:
        self.blocks += 1
        self._untold.append(block)

    def _note_collection(self, phase: str, about: Mapping[str, int]) -> None:
        """A collection holds up the loop in whichever thread it runs."""
        now = time.monotonic()
        if phase == "start":
            self._collecting_since = now
        elif (seconds := now - self._collecting_since) > self._limit:
            self._note(Block(f"a garbage collection of generation {about['generation']}", seconds, seconds))

    def _watch(self) -> None:
        while not self._clock.wait(max(self._limit / 2, SHORTEST_PAUSE_SECONDS), self._stopping):
            self._look()
            self.tell_seen()
        self.tell_seen()

    def _look(self) -> None:
        running = self._running
        if running is None or running.stack or time.monotonic() - running.began < self._limit:
            return
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - there is no other way to a thread's stack
        if frame is not None and self._running is running:
            running.stack = _stack(frame)
            self.looks += 1

    def tell_seen(self) -> None:
        """Tell of what was seen, of each callback not too often."""
        while self._untold:
            block, now = self._untold.popleft(), self._clock.monotonic()
            told = self._told.get(block.what)
            if told is not None and now - told.at < TOLD_EVERY.total_seconds():
                told.since += 1
                continue
            self._told[block.what] = _Told(now)
            self._tell(block, told.since if told else 0)


def _log(block: Block, since: int) -> None:
    logger.warning("{}{}", block, f"; {since} times more since it was told last" if since else "")


def name_of(callback: Any) -> str:
    """What a callback is, by its function; of a task, by that of its coroutine."""
    while isinstance(callback, partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine = owner.get_coro()
        return str(getattr(coroutine, "__qualname__", None) or type(coroutine).__name__)
    return str(getattr(callback, "__qualname__", None) or type(callback).__name__)


def _stack(frame: FrameType | None) -> tuple[str, ...]:
    """The calls within a callback, the last first."""
    names: list[str] = []
    while frame is not None and frame.f_code is not _RUN_TIMED and len(names) < MOST_FRAMES:
        code = frame.f_code
        names.append(f"{code.co_qualname} ({'/'.join(code.co_filename.split('/')[-2:])}:{frame.f_lineno})")
        frame = frame.f_back
    return tuple(names)


_RUN_TIMED = next(each for each in LoopWatch.timed.__code__.co_consts if hasattr(each, "co_code"))
"""Below it are the loop's own frames."""
