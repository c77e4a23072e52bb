"""The shapes of a queue and a dict that the ledger uses, with their contracts.

`jobs.store.sqlite` has both on one machine. A deployment's are `modal.Queue`, and Modal's Dicts behind what adds the
reads by prefix that they lack, limits and errors (`app.platform`). Parameter names and defaults are those of modal 1.6
(queue.py:302-789, dict.py:297-652), as far as they are used. All of it raises `StoreTrouble` when the store fails,
beside `queue.Full` and `queue.Empty`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol


class QueueLike(Protocol):
    """It carries, and does not keep: items may vanish, so nothing but an id is ever put in.

    - FIFO within a partition, no order across partitions.
    - An item is gone the moment `get` returns it; there is no acknowledgement.
    - A partition is cleared a day after the last put into it.
    """

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        """Add one item.

        - A full partition (5,000 items): waits while `block`, else raises `queue.Full`.
        - An item over 1 MiB is refused.
        """

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        """Remove and return the oldest item.

        - Exactly one of several getters receives an item.
        - Empty: waits while `block`; raises `queue.Empty` after `timeout` seconds; without `block` returns None.
        """

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        """Add several items, in this order, by one round trip; as `put` does each.

        - A partition that has no room for all of them: as `put`; some may be there.
        """

    def len(self, *, partition: str | None = None) -> int:
        """How many items wait in one partition."""


class ReadableDict(Protocol):
    """A map of string keys to plain JSON-able values, for whoever only reads it.

    - Values are copies: changing one that was read changes nothing stored.
    - No order, no transactions; entries fade after 7 idle days on Modal, and listing them does not keep them.
    - To list by prefixes costs what they answer: on SQLite exactly, on Modal all entries of the same sorts
      (`jobs.store.keys`). Without any it costs everything there is.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or `default` when the key is absent."""

    def keys(self, *prefixes: str) -> Iterator[Any]:
        """The keys that begin as one of these, or all, in no order.

        - Entries written meanwhile may or may not be seen.
        """

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        """The entries whose keys begin as one of these, or all, in no order.

        - Entries written meanwhile may or may not be seen: this is no snapshot.
        """


class DictLike(ReadableDict, Protocol):
    """One that can be written."""

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        """Write one entry.

        - With `skip_if_exists` this is the one atomic conditional write: of any number of racing writers exactly one
          gets True, all others False and no effect.
        - A reply lost on the way may be retried by the client, so False can also mean "it was already me".
        """


class BatchDict(DictLike, Protocol):
    """One that takes several entries at once."""

    def update(self, other: Mapping[Any, Any], /) -> None:
        """Write several entries by one round trip, whatever stood there.

        - Should it fail, some of them may be written.
        """


class ShrinkingDict(BatchDict, Protocol):
    """One from which entries can be removed. Facts are removed by the archive alone: to write once means never to."""

    def pop(self, key: Any, default: Any = None) -> Any:
        """Remove one entry and return its value, or `default` when it is absent."""

    def remove_all(self, keys: Iterable[str], /) -> int:
        """Remove these; how many were there.

        - In one step on SQLite, one by one on Modal: should it fail, some of them may be gone.
        """
