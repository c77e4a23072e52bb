"""Which keys begin as asked: the part of listing by prefixes that each store needs; and what one store has in order."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast


def shortest(prefixes: Iterable[str]) -> list[str]:
    """The prefixes without those that another one covers; of none at all, the one of everything."""
    kept: list[str] = []
    for prefix in sorted(prefixes) or [""]:
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept


def beginning(keys: Iterable[str], prefixes: tuple[str, ...]) -> Iterator[str]:
    """Those that begin as one of these; all, where there are none."""
    return (key for key in keys if not prefixes or key.startswith(prefixes))


class InOrderOfPosting(Protocol):
    """What a dict of one machine has beside: the requests of jobs, found by when they were posted."""

    def posted_before(self, at: str, key: str, most: int) -> list[tuple[str, Any]]:
        """So many entries of requests, the newest first, of those that stand before this moment and key."""

    def count_posted(self) -> int:
        """How many requests there are."""


def in_order_of_posting(facts: object) -> InOrderOfPosting | None:
    """The same dict where it has that, or what it hands on."""
    if getattr(facts, "posted_before", None) is not None:
        return cast("InOrderOfPosting", facts)
    return cast("InOrderOfPosting | None", getattr(facts, "order", None))
