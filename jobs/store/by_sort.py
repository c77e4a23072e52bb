"""One dict of several: a platform's that can only be listed whole keeps each sort of entries in one of its own.

`jobs.store.keys` says which sorts there are. The oldest of the dicts is the jobs', and holds whatever belongs to no
sort; a version before this one kept everything there. So until `move` has found nothing there for a day, what a sort's
own dict does not hold is looked for in the old one as well, and what the old one holds counts: only a process of the
older version can have written it since. What counts for minutes alone (`keys.OF_MINUTES`) is one round trip always.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from loguru import logger

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict

LOOK_AGAIN = timedelta(minutes=1)
"""How often a process asks whether everything has been moved, until it has."""

MOVED_AFTER = timedelta(days=1)
"""For so long no process of the older version has written; none lives longer."""

_ABSENT = object()

_BEGINS = tuple((begin, sort) for sort, begins in keys.SORTS.items() for begin in begins)
_NEWER = tuple(begin for sort in sorted(keys.NEVER_AMONG_JOBS) for begin in keys.SORTS[sort])
_NEVER_THERE = (*keys.OF_MINUTES, *_NEWER)
_ONCE = tuple(entry.pattern.partition("<")[0] for entry in keys.TABLE if entry.is_once)


def sort_of(key: str) -> str | None:
    """The sort that a key belongs to; None where it lies with the jobs."""
    return next((sort for begin, sort in _BEGINS if key.startswith(begin)), None)


def _sorts_of(prefixes: tuple[str, ...]) -> tuple[list[str], bool]:
    """The sorts that may have keys that begin so, and whether others may."""
    wanted = prefixes or ("",)
    sorts = {sort for begin, sort in _BEGINS for each in wanted if each.startswith(begin) or begin.startswith(each)}
    return sorted(sorts), any(sort_of(each) is None for each in wanted)


class DictBySort:
    """A `ShrinkingDict` that threads may share.

    While an older version still runs, its write and ours of the same key that is written once may both succeed: that is
    so for as long as a deployment takes, and never of a job's facts, which stay where they were.

    Args:
        jobs: where the jobs' facts are, and once was everything.
        sorts: the dict of each sort.
        clock: the time.

    """

    def __init__(self, jobs: ShrinkingDict, sorts: Mapping[str, ShrinkingDict], clock: Clock) -> None:
        self._jobs = jobs
        self._sorts = sorts
        self._clock = clock
        self._lock = threading.Lock()  # never held while a dict is asked
        #: Whether the old dict needs no look any more, and when to ask next. Any thread, under `_lock`.
        self._is_moved = False
        self._ask_at = clock.monotonic()

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        own = self._own(key)
        if own is None:
            return self._jobs.put(key, value, skip_if_exists=skip_if_exists)
        if self._is_where_it_belongs(key):
            return own.put(key, value, skip_if_exists=skip_if_exists)
        if skip_if_exists and self._jobs.get(key, _ABSENT) is not _ABSENT:
            return False
        is_written = own.put(key, value, skip_if_exists=skip_if_exists)
        if not skip_if_exists:
            self._jobs.pop(key, None)  # what was there is older now
        return is_written

    def get(self, key: Any, default: Any = None) -> Any:
        own = self._own(key)
        if own is None:
            return self._jobs.get(key, default)
        if not self._is_where_it_belongs(key) and (old := self._jobs.get(key, _ABSENT)) is not _ABSENT:
            return old
        return own.get(key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        own = self._own(key)
        if own is None:
            return self._jobs.pop(key, default)
        value = own.pop(key, default)
        return value if key.startswith(_NEWER) or self._has_moved() else self._jobs.pop(key, value)

    def update(self, other: Mapping[Any, Any], /) -> None:
        """One round trip for each dict that any of them belongs to; as long as not all is moved, one more for each."""
        of: dict[str | None, dict[Any, Any]] = defaultdict(dict)
        for key, value in other.items():
            of[sort_of(key) if self._own(key) is not None else None][key] = value
        for sort, entries in of.items():
            if sort is None:
                self._jobs.update(entries)
            else:
                self._sorts[sort].update(entries)
                for key in () if sort in keys.NEVER_AMONG_JOBS or self._has_moved() else entries:
                    self._jobs.pop(key, None)  # what was there is older now

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key, _ABSENT) is not _ABSENT for key in keys)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        found: dict[Any, None] = {}
        for one, own in self._listed(prefixes):
            found.update(dict.fromkeys(one.keys(*own)))
        return iter(found)

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        found: dict[Any, Any] = {}
        for one, own in self._listed(prefixes):
            found.update(one.items(*own))
        return iter(found.items())

    def move(self) -> int:
        """Bring what lies in the old dict to its sort's own; how many entries that were. One process does it at a time.

        Safe to stop anywhere: an entry is removed when it has been written where it belongs.
        """
        begins = tuple(begin for sort in self._sorts for begin in keys.SORTS[sort])
        old = dict(self._jobs.items(*begins))
        for key, value in old.items():
            own = self._own(key)
            if own is not None:
                own.put(key, value, skip_if_exists=key.startswith(_ONCE))
                self._jobs.pop(key, None)
        now = self._clock.now()
        since = self._jobs.get(keys.SORTS_MOVING)
        if old or since is None:
            self._jobs.put(keys.SORTS_MOVING, {"v": 1, "at": isoformat(now)})
        elif now - parse_moment(since["at"]) > MOVED_AFTER and self._jobs.get(keys.SORTS_MOVED) is None:
            self._jobs.put(keys.SORTS_MOVED, {"v": 1, "at": isoformat(now)})
        if old:
            logger.info("moved {} entries to the dicts of their sorts", len(old))
        return len(old)

    def _own(self, key: Any) -> ShrinkingDict | None:
        """The dict of the key's sort; None where it lies with the jobs."""
        sort = sort_of(key)
        return self._sorts.get(sort) if sort else None

    def _is_where_it_belongs(self, key: Any) -> bool:
        return key.startswith(_NEVER_THERE) or self._has_moved()

    def _listed(self, prefixes: tuple[str, ...]) -> Iterator[tuple[ShrinkingDict, tuple[str, ...]]]:
        """The dicts to list for these prefixes, each with the prefixes to ask of it; the one that counts comes last."""
        sorts, has_rest = _sorts_of(prefixes)
        asked = [sort for sort in sorts if sort in self._sorts]
        for sort in asked:
            yield self._sorts[sort], prefixes
        is_newer = set(sorts) <= keys.NEVER_AMONG_JOBS
        if has_rest or len(asked) < len(sorts) or not (is_newer or self._has_moved()):
            yield self._jobs, prefixes

    def _has_moved(self) -> bool:
        with self._lock:
            if self._is_moved or self._clock.monotonic() < self._ask_at:
                return self._is_moved
            self._ask_at = self._clock.monotonic() + LOOK_AGAIN.total_seconds()
        has_moved = self._jobs.get(keys.SORTS_MOVED) is not None
        with self._lock:
            self._is_moved = self._is_moved or has_moved
            return self._is_moved
