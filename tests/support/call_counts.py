"""How much something does, counted: by the functions that it calls, which no busy machine changes."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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
