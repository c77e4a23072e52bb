"""The shapes of `modal.Queue` and `modal.Dict` that the ledger uses, with their contracts.

The real ones satisfy these structurally, and so do those that a deployment puts around them, for limits and errors;
`jobs.store.sqlite` has their one-machine counterparts. Parameter names and defaults are those of modal 1.6
(queue.py:302-789, dict.py:297-652), as far as they are used. All of it raises `StoreTrouble` when the store fails,
beside `queue.Full` and `queue.Empty`.
"""

from collections.abc import Iterator
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

    def len(self, *, partition: str | None = None) -> int:
        """How many items wait in one partition."""


class ReadableDict(Protocol):
    """A map of string keys to plain JSON-able values, for whoever only reads it.

    - Values are copies: changing one that was read changes nothing stored.
    - No order, no prefix reads, no transactions; entries fade after 7 idle days on Modal.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or `default` when the key is absent."""

    def keys(self) -> Iterator[Any]:
        """All keys, in no order; entries written meanwhile may or may not be seen."""

    def items(self) -> Iterator[tuple[Any, Any]]:
        """All entries, in no order; entries written meanwhile may or may not be seen."""


class DictLike(ReadableDict, Protocol):
    """One that can be written."""

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        """Write one entry.

        - With `skip_if_exists` this is the one atomic conditional write: of any number of racing writers exactly one
          gets True, all others False and no effect.
        - A reply lost on the way may be retried by the client, so False can also mean "it was already me".
        """


class ShrinkingDict(DictLike, Protocol):
    """One from which entries can be removed. Only the archive does that; to write once means never to remove."""

    def pop(self, key: Any, default: Any = None) -> Any:
        """Remove one entry and return its value, or `default` when it is absent."""
