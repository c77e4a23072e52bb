"""Many entries in one step, and entries by their time: what SQLite can, and other dicts do one by one or not at all.

Modal's Dicts have neither. Who asks has an answer that is as good there, and costs what it costs.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jobs.store.protocols import ReadableDict, ShrinkingDict


class Moment(NamedTuple):
    """Where an entry stands among those of its sort, the oldest first. Two of one millisecond have an order, too."""

    at: str
    """As `isoformat` writes it, which sorts as text."""
    key: str = ""


@runtime_checkable
class TimedDict(Protocol):
    """One that finds the entries of some sorts by their `at` (`jobs.store.keys.BY_TIME`), and reads no others."""

    def by_time(self, prefix: str, after: Moment, until: str, most: int) -> "list[Moment] | None":
        """Where entries stand whose keys begin so: those after one moment and until another, so many at most.

        None when it has to be learnt by listing them all.
        """


@runtime_checkable
class BulkDict(Protocol):
    """One that writes or removes many entries in one step: all of them, or none."""

    def add_all(self, entries: Mapping[str, Any]) -> None:
        """Write these; where a key is there already, what is there stays."""

    def remove_all(self, keys: Iterable[str]) -> int:
        """Remove these; how many were there."""


def by_time(facts: ReadableDict, prefix: str, after: Moment, until: str, most: int) -> list[Moment] | None:
    """As `TimedDict.by_time`; None of a dict that cannot."""
    return facts.by_time(prefix, after, until, most) if isinstance(facts, TimedDict) else None


def add_all(facts: ShrinkingDict, entries: Mapping[str, Any]) -> None:
    """As `BulkDict.add_all`; one by one where the dict cannot."""
    if isinstance(facts, BulkDict):
        facts.add_all(entries)
        return
    for key, value in entries.items():
        facts.put(key, value, skip_if_exists=True)


def remove_all(facts: ShrinkingDict, keys: Iterable[str]) -> int:
    """As `BulkDict.remove_all`; one by one where the dict cannot."""
    if isinstance(facts, BulkDict):
        return facts.remove_all(keys)
    return sum(facts.pop(key, None) is not None for key in keys)
