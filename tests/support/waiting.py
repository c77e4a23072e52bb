"""Waiting for what other threads and processes do, in real time."""

import inspect
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

PATIENCE = 300.0
"""Seconds. A busy machine stalls for many of them; what passes costs no more than it takes."""

WHOLE = 2 * PATIENCE
"""Seconds, for a program that does many things in a row, of which each may take its time."""


def until(
    is_so: Callable[[], Any], what: str = "", *, patience: float = PATIENCE, shows: Callable[[], object] | None = None
) -> Any:
    """Ask again and again until the answer is true, and return it.

    Fails after `patience` seconds, in words that say what was waited for: `what`, or else the question as it is
    written; and what there was instead: what `shows` returns, or else the last answer.
    """
    began = time.monotonic()
    while not (answer := is_so()):
        waited = time.monotonic() - began
        if waited > patience:
            instead = answer if shows is None else shows()
            raise AssertionError(f"not within {patience:g} s: {what or _as_written(is_so)}; instead: {instead}")
        time.sleep(min(0.005 + waited / 20, 0.1))
    return answer


def least(measure: Callable[[], float], bound: float, *, tries: int = 5) -> float:
    """The least of what is measured: again where it is above the bound, for a machine that stalls only ever adds.

    What the code itself adds is there each time.
    """
    found = measure()
    for _ in range(tries - 1):
        if found <= bound:
            break
        found = min(found, measure())
    return found


def worked(work: Callable[[], object]) -> float:
    """The seconds for which this thread had a processor for it."""
    before = time.thread_time()
    work()
    return time.thread_time() - before


class Stalls:
    """What threads of these processes are kept waiting for a processor from here on, as Linux counts it."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._before = self._counted()

    @property
    def seconds(self) -> float:
        """So far, of all threads together that are still there."""
        return sum(waited - self._before.get(thread, 0) for thread, waited in self._counted().items()) / 1e9

    def _counted(self) -> dict[Path, int]:
        found: dict[Path, int] = {}
        for file in (file for pid in self._pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                found[file] = int(file.read_text("ascii").split()[1])
        return found


def _as_written(question: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(question).strip()
    except (OSError, TypeError):  # a partial, or a method of something built in
        return repr(question)
