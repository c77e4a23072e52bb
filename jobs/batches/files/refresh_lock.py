"""Many may use files at once, and one may refresh while nobody does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class RefreshLock:
    """Threads share one. Whoever waits to be alone goes before those who come later; who uses files may do so twice."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        #: How many use files, how many wait to be alone, and whether somebody is. Under `_turn`.
        self._using = 0
        self._waiting = 0
        self._is_alone = False
        self._mine = threading.local()  # how often this thread uses files just now

    @contextmanager
    def using(self) -> Iterator[None]:
        """While files are open."""
        deep = getattr(self._mine, "deep", 0)
        if not deep:
            with self._turn:
                self._turn.wait_for(lambda: not self._is_alone and not self._waiting)
                self._using += 1
        self._mine.deep = deep + 1
        try:
            yield
        finally:
            self._mine.deep = deep
            if not deep:
                with self._turn:
                    self._using -= 1
                    self._turn.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While nobody has a file open. Not for who uses files already: he would wait for himself."""
        with self._turn:
            self._waiting += 1
            try:
                self._turn.wait_for(lambda: not self._is_alone and not self._using)
                self._is_alone = True
            finally:
                self._waiting -= 1
                self._turn.notify_all()
        try:
            yield
        finally:
            with self._turn:
                self._is_alone = False
                self._turn.notify_all()
