"""Who used what: one row a day for each model, key, tier and ending, kept as facts `usage/<day>/<writer>`.

Counting costs the caller nothing: `add` sums up in place, and never waits and never raises. A thread writes the sums
down; each writer has keys of its own and writes whole sums, so writing twice changes nothing. However many uses come
between two writes, all of them are told; what is given up after weeks without a store is counted.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, Protocol, Self

from jobs.core import foreign
from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.core.errors import BadName
from jobs.core.model_name import ModelName
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict
from jobs.telemetry import request_times
from jobs.telemetry.request_times import Asked, Times

EVERY = timedelta(seconds=10)
"""What a killed process may lose."""

MAX_ROWS = 2_000
"""Of one day. Beyond that, models and batches without a row share one without a name: no caller's text may fill the
ledger."""

MAX_DAYS = 14
"""Days that may wait for a store that does not answer."""


READ_DAYS = 90
"""What a reader looks at unless it says how far back: on a platform each entry is a request of some 30 ms."""


class Used(Protocol):
    """What is counted of one request that was answered, or was not. `model` is empty when it named none that is here;
    tokens of which nobody told are None. `shared_seconds` counts in place of `seconds`, where it is there.
    """

    @property
    def at(self) -> datetime: ...
    @property
    def model(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def tier(self) -> str: ...
    @property
    def ending(self) -> str: ...
    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def output_tokens(self) -> int | None: ...
    @property
    def first_byte_seconds(self) -> float | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def shared_seconds(self) -> float | None: ...
    @property
    def batch(self) -> str: ...


class Use(NamedTuple):
    """One use, by itself."""

    at: datetime
    model: str
    key: str
    tier: str
    ending: str
    prompt_tokens: int | None = 0
    output_tokens: int | None = 0
    first_byte_seconds: float | None = None
    seconds: float = 0.0
    batch: str = ""
    shared_seconds: float | None = None


@dataclass(frozen=True, order=True)
class About:
    """What the uses of one row have in common; `batch` is empty where they were no lines of one."""

    day: str
    model: str
    key: str
    tier: str
    ending: str
    batch: str = ""


@dataclass(frozen=True)
class Sums:
    """Uses, added up. `first_byte_seconds` is the sum over the `first_bytes` uses that came so far; `seconds` are those
    that requests took, and of lines of a batch, which a server answers beside one another, their part of its time."""

    count: int
    prompt_tokens: int
    output_tokens: int
    first_bytes: int
    first_byte_seconds: float
    seconds: float
    last_at: datetime

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.count + other.count,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.first_bytes + other.first_bytes,
            self.first_byte_seconds + other.first_byte_seconds,
            self.seconds + other.seconds,
            max(self.last_at, other.last_at),
        )


@dataclass(frozen=True)
class Row:
    """A line of the usage: what it is about, and the sums."""

    about: About
    sums: Sums

    def as_json(self) -> dict[str, Any]:
        about, sums = asdict(self.about), self.sums
        if not self.about.batch:
            del about["batch"]  # as rows were before there were batches
        return {
            **about,
            **asdict(sums),
            "first_byte_seconds": round(sums.first_byte_seconds, 6),
            "seconds": round(sums.seconds, 6),
            "last_at": isoformat(sums.last_at),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        day, model, key, tier, ending = (str(document[part]) for part in ("day", "model", "key", "tier", "ending"))
        about = About(day, model, key, tier, ending, str(document.get("batch") or ""))
        sums = Sums(
            count=int(document["count"]),
            prompt_tokens=int(document["prompt_tokens"]),
            output_tokens=int(document["output_tokens"]),
            first_bytes=int(document["first_bytes"]),
            first_byte_seconds=float(document["first_byte_seconds"]),
            seconds=float(document["seconds"]),
            last_at=parse_moment(document["last_at"]),
        )
        return cls(about, sums)


UsageSums = dict[About, Sums]

_Named = tuple[str, str, str, str, str]
"""Model, key, tier, ending and batch."""


class _Running:
    """Uses that are being added up, in place: there is one for each request, and this is all it costs."""

    __slots__ = ("_count", "_first_byte_seconds", "_first_bytes", "_last_at", "_output", "_prompt", "_seconds")

    def __init__(self) -> None:
        self._count = self._prompt = self._output = self._first_bytes = 0
        self._first_byte_seconds = self._seconds = 0.0
        self._last_at: datetime | None = None

    def add(self, use: Used) -> None:
        self._count += 1
        self._prompt += use.prompt_tokens or 0
        self._output += use.output_tokens or 0
        self._seconds += use.seconds if use.shared_seconds is None else use.shared_seconds
        if use.first_byte_seconds is not None:
            self._first_bytes += 1
            self._first_byte_seconds += use.first_byte_seconds
        if self._last_at is None or use.at > self._last_at:
            self._last_at = use.at

    def sums(self) -> Sums:
        """What they come to; of one use at least."""
        assert self._last_at is not None
        return Sums(
            self._count,
            self._prompt,
            self._output,
            self._first_bytes,
            self._first_byte_seconds,
            self._seconds,
            self._last_at.astimezone(UTC),
        )


def _running(rows: dict[_Named, _Running], named: _Named) -> _Running:
    """A new row; beyond the most of a day, the one without a name that models without a row share."""
    if len(rows) >= MAX_ROWS:
        named = ("", *named[1:4], "")
    return rows.setdefault(named, _Running())


class UsageRecorder:
    """The usage that one process writes down.

    `written + dropped + pending` is what was added; nothing is counted twice.

    Args:
        facts: the ledger's dict.
        clock: for pauses, and to tell which days are over.
        writer: names this process among all that write; the same one again goes on with the sums that it finds.
        every: how often the sums are written.

    """

    def __init__(self, facts: DictLike, clock: Clock, writer: str, *, every: timedelta = EVERY) -> None:
        self._facts = facts
        self._clock = clock
        self._writer = writer
        self._every = every
        self._counting = threading.Lock()  # held for one use, or to take away what came; never while anything is summed
        #: What came since the last flush, by day: added by the threads of callers, taken away by the one that flushes;
        #: under `_counting`.
        self._new: dict[str, dict[_Named, _Running]] = {}
        self._day = 0, ""
        #: Written likewise, under `_counting`, as `written` and `dropped`.
        self._unwritten = 0
        self._flushing = threading.Lock()
        #: What the store has not taken yet, by day. Of the thread that flushes, which holds `_flushing`.
        self._pending: dict[str, UsageSums] = {}
        #: What the store is known to hold; likewise.
        self._kept: dict[str, UsageSums] = {}
        #: When callers asked, by day: what waits for the store, and what it holds. Likewise.
        self._pending_times: dict[str, Times] = {}
        self._kept_times: dict[str, Times] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="usage", daemon=True)
        self.written = 0
        """Uses that are in the store."""
        self.dropped = 0
        """Uses that nobody will hear of."""
        #: Written under `_flushing`; any thread reads it.
        self.trouble: str | None = None
        """Why the last flush failed, if it did."""

    def add(self, use: Used) -> None:
        """Count a use; at once, and whatever happens."""
        with self._counting:
            day = self._day_of(use.at)
            rows = self._new.get(day)
            if rows is None:
                rows = self._new[day] = {}
            named = (use.model, use.key, use.tier, use.ending, use.batch)
            running = rows.get(named)
            if running is None:
                running = _running(rows, named)
            running.add(use)
            self._unwritten += 1

    def _day_of(self, at: datetime) -> str:
        """The day in UTC, which is worded once; under `_counting`."""
        if at.tzinfo is not UTC:
            return at.astimezone(UTC).date().isoformat()
        if (number := at.toordinal()) != self._day[0]:
            self._day = number, at.date().isoformat()
        return self._day[1]

    @property
    def pending(self) -> int:
        """Uses that are not in the store yet."""
        with self._counting:
            return self._unwritten

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, as far as the store takes it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.flush()

    def flush(self) -> bool:
        """Write down what was added so far; false when the store did not take all of it: then the next flush does."""
        with self._flushing:
            self._take()
            done = [self._write(day) for day in sorted(self._pending)]
            self._forget()
            return all(done)

    def _keep(self) -> None:
        while not self._clock.wait(self._every.total_seconds(), self._stopping):
            self.flush()

    def _take(self) -> None:
        """What came since, to what waits for the store."""
        with self._counting:
            new, self._new = self._new, {}
        for day, rows in new.items():
            waiting = self._pending.setdefault(day, {})
            times = self._pending_times.setdefault(day, {})
            for named, running in rows.items():
                about, sums = About(day, *named), running.sums()
                _enter_bounded(waiting, about, sums)
                if (
                    about.tier and not about.batch
                ):  # no caller of a line waits; what was added up together came within `every` of the last of it
                    request_times.note(times, about.tier, about.model, sums.last_at, sums.count)

    def _write(self, day: str) -> bool:
        """Write a day's sums: those that are known to be in the store, and those that came since."""
        key, rows = keys.usage(day, self._writer), self._pending[day]
        try:
            if day not in self._kept:
                found = self._facts.get(key)
                self._kept[day], self._kept_times[day] = _read(found), times_of(found)
            total = _bounded(_sum([self._kept[day], rows]))
            times = request_times.added([self._kept_times[day], self._pending_times.get(day, {})])
            document = {
                "v": 1,
                "rows": [Row(*entry).as_json() for entry in sorted(total.items())],
                "times": request_times.as_json(times),
            }
            self._facts.put(key, document)
        except Exception as error:  # noqa: BLE001 - a store that fails must cost no caller anything
            self._failed(f"{type(error).__name__}: {error}")
            return False
        self.trouble = None
        self._kept[day], self._kept_times[day] = total, times
        self._settled(day, is_written=True)
        return True

    def _settled(self, day: str, *, is_written: bool) -> None:
        """A day's sums wait no longer: they are in the store, or given up."""
        count = _count(self._pending.pop(day))
        self._pending_times.pop(day, None)
        with self._counting:
            self._unwritten -= count
            if is_written:
                self.written += count
            else:
                self.dropped += count

    def _failed(self, why: str) -> None:
        if why != self.trouble:
            from loguru import logger  # noqa: PLC0415 - takes long to import, and a command that reads seldom needs it

            logger.warning("usage could not be written down; it is kept and tried again: {}", why)
        self.trouble = why

    def _forget(self) -> None:
        """Days that are over and written need not be kept here; of too many that wait, the oldest is given up."""
        today = self._clock.now().astimezone(UTC).date().isoformat()
        for day in [day for day in self._kept if day < today and day not in self._pending]:
            del self._kept[day], self._kept_times[day]
        for day in sorted(self._pending)[:-MAX_DAYS]:
            self._settled(day, is_written=False)
            from loguru import logger  # noqa: PLC0415 - takes long to import, and a command that reads seldom needs it

            logger.error("the usage of {} is given up: the store did not take it for {} days", day, MAX_DAYS)


# -- reading -----------------------------------------------------------------------------------------------------------


def usage(facts: ReadableDict, *, since: date | None = None, past: Mapping[str, Any] | None = None) -> list[Row]:
    """All rows, those of all writers added up, oldest day first; without `since`, those of the last `READ_DAYS`.

    `past` is what has left the ledger, by the keys that it had there.
    """
    return usage_in({**(past or {}), **dict(facts.items(keys.USAGE))}, since=since)


def usage_in(entries: Mapping[str, Any], *, since: date | None = None) -> list[Row]:
    """The same of entries that somebody has listed, of whatever sorts."""
    known = {key: entry for key, entry in entries.items() if key.startswith(keys.USAGE)}
    first = since.isoformat() if since else _first_day(known)
    sums_of_each = [_read(entry) for key, entry in known.items() if key.removeprefix(keys.USAGE) >= first]
    return [Row(about, sums) for about, sums in sorted(_sum(sums_of_each).items())]


def asked(entries: Mapping[str, Any]) -> Mapping[str, Asked]:
    """When callers asked each tier, by these entries of the ledger."""
    days = ((key.removeprefix(keys.USAGE)[:10], entry) for key, entry in entries.items() if key.startswith(keys.USAGE))
    return request_times.by_tier((date.fromisoformat(day), times_of(entry)) for day, entry in days)


def times_of(document: Any) -> Times:
    """When callers asked, by one entry; nothing, if an older program wrote it."""
    return request_times.from_json(foreign.fields(document).get("times"))


def keep(facts: DictLike, now: datetime) -> None:
    """Read each entry of days past by its key, which on Modal keeps it from fading; a listing does not."""
    last = (now - keys.LASTS).astimezone(UTC).date().isoformat()
    for key in list(facts.keys(keys.USAGE)):
        if key.removeprefix(keys.USAGE)[:10] < last:
            facts.get(key)


def _first_day(known: Iterable[str]) -> str:
    """The first of the days worth reading, counted back from the newest that anybody wrote."""
    newest = max((key.removeprefix(keys.USAGE)[:10] for key in known), default="")
    try:
        return (date.fromisoformat(newest) - timedelta(days=READ_DAYS - 1)).isoformat()
    except ValueError:
        return ""


def last_used(facts: ReadableDict, rows: Iterable[Row] | None = None) -> Mapping[str, datetime]:
    """When each model was last asked for, by its folded name; one that is not in it was not, as far as is known.

    `rows` are those of `usage`, where somebody has them already.
    """
    return _newer(_moments(facts.get(keys.LAST_USED)), usage(facts) if rows is None else rows)


def last_used_in(entries: Mapping[str, Any]) -> Mapping[str, datetime]:
    """The same by entries that somebody has listed, of whatever sorts."""
    return _newer(_moments(entries.get(keys.LAST_USED)), usage_in(entries))


def keep_last_used(facts: DictLike, rows: Iterable[Row]) -> None:
    """Keep when models were last used by these rows, which are about to leave the ledger."""
    known = _moments(facts.get(keys.LAST_USED))
    facts.put(keys.LAST_USED, {name: isoformat(at) for name, at in _newer(known, rows).items()})


def rows_of(document: Any) -> list[Row]:
    """The rows of one entry."""
    return [Row(about, sums) for about, sums in sorted(_read(document).items())]


def _moments(known: Mapping[str, str] | None) -> dict[str, datetime]:
    return {name: parse_moment(at) for name, at in (known or {}).items()}


def _newer(known: Mapping[str, datetime], rows: Iterable[Row]) -> dict[str, datetime]:
    found = dict(known)
    for row in rows:
        try:
            name = str(ModelName.parse(row.about.model).folded())
        except BadName:  # the row of those that named no model
            continue
        found[name] = max(row.sums.last_at, found.get(name, row.sums.last_at))
    return found


def _read(document: Any) -> UsageSums:
    """The sums of one entry; a row that makes no sense is passed over."""
    rows = foreign.items(foreign.fields(document).get("rows"))
    return _sum([{row.about: row.sums} for row in _rows(rows)])


def _rows(documents: Iterable[Any]) -> Iterator[Row]:
    for document in documents:
        try:
            yield Row.from_json(document)
        except (KeyError, TypeError, ValueError):
            from loguru import logger  # noqa: PLC0415 - takes long to import, and a command that reads seldom needs it

            logger.warning("a row of the usage makes no sense and is passed over: {!r}", document)


def _sum(entries: Iterable[UsageSums]) -> UsageSums:
    total: UsageSums = {}
    for rows in entries:
        for about, sums in rows.items():
            _enter(total, about, sums)
    return total


def _enter(rows: UsageSums, about: About, sums: Sums) -> None:
    known = rows.get(about)
    rows[about] = known + sums if known else sums


def _enter_bounded(rows: UsageSums, about: About, sums: Sums) -> None:
    """The same; beyond the most rows of a day, models without a row share one without a name."""
    if about not in rows and len(rows) >= MAX_ROWS:
        about = replace(about, model="", batch="")
    _enter(rows, about, sums)


def _bounded(rows: UsageSums) -> UsageSums:
    """Beyond the most rows a day may have, those of the models that were asked for least are one."""
    if len(rows) <= MAX_ROWS:
        return rows
    ordered = sorted(rows.items(), key=lambda entry: -entry[1].count)
    rest: UsageSums = {}
    for about, sums in ordered[MAX_ROWS:]:
        _enter(rest, replace(about, model="", batch=""), sums)
    return _sum([dict(ordered[:MAX_ROWS]), rest])


def _count(rows: UsageSums) -> int:
    return sum(sums.count for sums in rows.values())
