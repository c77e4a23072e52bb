"""What the dict of one machine has beside: entries found by their time or their key, and requests by their posting.

Modal's Dicts know no order. Who asks has an answer that is as good there, and costs a listing.
"""

from typing import Any, NamedTuple, Protocol, cast


class Moment(NamedTuple):
    """Where an entry stands among those of its sort, the oldest first. Two of one millisecond have an order, too."""

    at: str
    """As `isoformat` writes it, which sorts as text."""
    key: str = ""


class InOrder(Protocol):
    """A dict that has these indexes, and reads no other entries for an answer."""

    def by_time(self, prefix: str, after: Moment, until: str, most: int) -> list[Moment]:
        """Where entries stand whose keys begin so, of those sorts that are kept by their `at`
        (`jobs.store.keys.BY_TIME`): those after one moment and until another, the oldest first, so many at most."""

    def last(self, prefix: str, before: str, most: int) -> list[tuple[str, Any]]:
        """So many entries whose keys begin so and come before that key, the last of them first."""

    def posted_before(self, at: str, key: str, most: int) -> list[tuple[str, Any]]:
        """So many entries of requests, the newest first, of those that stand before this moment and key."""

    def count_posted(self) -> int:
        """How many requests there are."""

    def unended(self, since: str) -> list[str]:
        """The ids of the requests of that moment or later that have no end which is final by itself, nor a mark of the
        archive. What was lost at its last attempt is among them."""


def in_order(facts: object) -> InOrder | None:
    """The same dict where it has that, or what it hands on."""
    if getattr(facts, "posted_before", None) is not None:
        return cast("InOrder", facts)
    return cast("InOrder | None", getattr(facts, "order", None))
