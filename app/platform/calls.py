"""Runs one call to Modal: it waits within a limit, tries again while that helps, and fails in our words.

A call runs on one event loop of ours, so that whoever asked can stop waiting and the call itself is cancelled: what it
held on to (a lock of the Volume, a stream of the connection) is free for the next one. A call that was given up may
have taken effect all the same; so only what may be done twice is given a retry policy.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from loguru import logger

from app.platform.errors import PlatformPart, no_answer, trouble_of
from jobs.core.errors import Trouble
from jobs.core.retry import NEVER, Policy

T = TypeVar("T")


class _CallLoop:
    """The event loop on which calls run, in a thread of its own, which the first call starts."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        #: Written once, by the first caller under `_starting`; its thread runs it, every caller reads it.
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, call: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="platform-calls", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(call, self._loop)


_call_loop = _CallLoop()


def run(
    call: Callable[[], Coroutine[Any, Any, T]],
    *,
    of: PlatformPart,
    doing: str,
    within: timedelta,
    retry: Policy = NEVER,
    moved: Callable[[], int] = lambda: 0,
) -> T:
    """What the call returns.

    Args:
        call: begins it, anew for each try.
        of: whether it asks the store, or something else.
        doing: what is going on, as in "reading the ledger".
        within: how long one try may take; begins anew whenever the call has moved.
        retry: how often it is tried, where trying again can help.
        moved: a count that grows while the call gets on.

    Raises:
        Trouble: the platform failed, or did not answer in time; `StoreTrouble` where it is the store.

    """
    return retry.call(
        lambda: _tried_once(call, of, doing, within.total_seconds(), moved),
        sleep=time.sleep,
        before_retry=lambda trouble: logger.info("tried again: {}", trouble),
    )


def _tried_once(
    call: Callable[[], Coroutine[Any, Any, T]], of: PlatformPart, doing: str, seconds: float, moved: Callable[[], int]
) -> T:
    future = _call_loop.begin(call())
    try:
        if _is_done(future, seconds, moved):
            return future.result()
    except Exception as error:
        if isinstance(error, Trouble) or (trouble := trouble_of(error, of, doing)) is None:
            raise
        raise trouble from error
    except BaseException:  # somebody interrupts us: the call is of no use to anybody
        future.cancel()
        raise
    future.cancel()
    raise no_answer(of, doing, seconds)


def _is_done(future: "concurrent.futures.Future[T]", seconds: float, moved: Callable[[], int]) -> bool:
    """Whether it ended, or moved, within each so many seconds."""
    before = moved()
    while not concurrent.futures.wait([future], seconds).done:
        so_far = moved()
        if so_far == before:
            return False
        before = so_far
    return True
