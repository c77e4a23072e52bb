"""Threads that move one at a time, from one store operation to the next, in an order that the test chooses.

A race is a matter of who moves when between two operations on the shared store. Here that order is an input: the test
draws it, so a failing order is found by search, shrunk, and replayed.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jobs.store.protocols import QueueLike, ShrinkingDict


class Killed(BaseException):
    """The actor's process is gone: nothing it would have done after this point happens."""


class Actor:
    """One thread. It stands still before each store operation until `step` lets it do that one."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self.done = False
        self.loses_reply = False
        self._killed = False
        self._go = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self._act = act
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._stands.acquire()

    def step(self, *, loses_reply: bool = False) -> None:
        """Let it go on to its next store operation, or to its end."""
        if self.done:
            return
        self.loses_reply = loses_reply
        self._go.release()
        self._stands.acquire()

    def kill(self) -> None:
        self._killed = True
        while not self.done:
            self.step()

    def stand(self) -> None:
        """Called by the stores before each operation."""
        self._stands.release()
        self._go.acquire()
        if self._killed:
            raise Killed(self.name)

    def _main(self) -> None:
        _CURRENT.actor = self
        try:
            self.stand()
            self._act()
        except Killed:
            pass
        except BaseException as failure:
            self.failure = failure
        finally:
            self.done = True
            self._stands.release()


_CURRENT = threading.local()


def _stand() -> Actor:
    actor: Actor = _CURRENT.actor
    actor.stand()
    return actor


class TurnDict:
    """A dict whose operations wait for the actor's turn. A lost reply hides a conditional put's success."""

    def __init__(self, real: ShrinkingDict) -> None:
        self._real = real

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        loses_reply = _stand().loses_reply
        written = self._real.put(key, value, skip_if_exists=skip_if_exists)
        return written and not (skip_if_exists and loses_reply)

    def get(self, key: Any, default: Any = None) -> Any:
        _stand()
        return self._real.get(key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        _stand()
        return self._real.pop(key, default)

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key) is not None for key in keys)

    def update(self, other: Mapping[Any, Any], /) -> None:
        for key, value in other.items():
            _stand()
            self._real.put(key, value)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        _stand()
        return self._real.keys(*prefixes)

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        _stand()
        return self._real.items(*prefixes)


class TurnQueue:
    def __init__(self, real: QueueLike) -> None:
        self._real = real

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        _stand()
        self._real.put(v, block, partition=partition)

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        _stand()
        self._real.put_many(vs, block, partition=partition)

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        _stand()
        return self._real.get(block, timeout, partition=partition)

    def len(self, *, partition: str | None = None) -> int:
        _stand()
        return self._real.len(partition=partition)
