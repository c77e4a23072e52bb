"""How much something does, counted: by the functions that it calls, which no busy machine changes."""

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def calls_by_name(within: tuple[str, ...]) -> Iterator[Counter[str]]:
    """How often functions of each name, in files below these folders, run in this thread until the end of this.

    A coroutine counts each time that it goes on.
    """
    counted: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(within):
            counted[frame.f_code.co_name] += 1

    before = sys.getprofile()
    with uncollected():
        sys.setprofile(note)
        try:
            yield counted
        finally:
            sys.setprofile(before)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: whoever watches it, as hypothesis does, would be counted at any moment."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def calls(work: Callable[[], Any]) -> int:
    """How many functions of Python this calls in this thread, when it is done for the second time."""
    work()
    count = 0

    def note(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    with uncollected():
        sys.setprofile(note)
        try:
            work()
        finally:
            sys.setprofile(before)
    return count
