"""Counts what SQLite does for an answer: the steps of its machine, some ten for each row that it looks at.

Every connection that is opened meanwhile is counted, whoever opens it; so is each way of asking, whatever it returns.
"""

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest


class Steps:
    """Those of the connections that were opened since `watch`."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        connect = sqlite3.connect

        def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)
            connection.set_progress_handler(self._step, 1)
            return connection

        monkeypatch.setattr(sqlite3, "connect", connected)

    def _step(self) -> int:
        self.count += 1
        return 0

    def of(self, work: Callable[[], object]) -> int:
        """How many it took."""
        before = self.count
        work()
        return self.count - before


def steps_of(work: Callable[[], object]) -> int:
    """How many this takes of the connections that it opens itself. What came before it runs at its usual speed."""
    steps = Steps()
    with pytest.MonkeyPatch.context() as patch:
        steps.watch(patch)
        return steps.of(work)
