"""What leaves the ledger for files that only grow: beside the weights of a deployment, in the home of one machine.

A deployment's Dict forgets what nobody touches for seven days; one machine's file forgets nothing, and would grow for
years. Appended first, then committed, then removed: whoever is killed in between leaves a record twice, and none
nowhere; readers tell it once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from loguru import logger

from jobs.access import grants
from jobs.archive.archive_files import Archive
from jobs.archive.archived import AFTER, AUDIT, CASES, COLD, JOBS, METERS, REPORTS, TURNS, USAGE, WAKES
from jobs.core import foreign
from jobs.core.clock import parse_moment
from jobs.core.units import counted
from jobs.ledger.expiry import clearing
from jobs.ledger.job import Job
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict
from jobs.telemetry import incidents, usage

_NEVER = datetime.min.replace(tzinfo=UTC)

COUNTED_AFTER = timedelta(days=1)
"""A container that has not counted or reported for so long has ended."""

OBSERVED = (
    *(keys.HEALTH, keys.METER, keys.SERVER, keys.WAKE, keys.REFUSED_WAKE, keys.USAGE, keys.COLD, keys.AUDIT),
    *keys.CASES,
)
"""What is taken out when it is old, beside jobs."""

_PARTS_AFTER_KEY = {keys.SEEN: 0, keys.INCIDENT: 1, keys.RECOVERED: 1, keys.TOLD: 2, keys.TELLING: 3}
"""What follows an incident's key in each kind of key about it: its number, the change, the try."""

AT_ONCE = 500
"""Jobs that are archived in one step."""

Commit = Callable[[], object]
Learn = Callable[[Sequence[Job]], object]
Entries = Mapping[str, Any]


def nothing(_: Sequence[Job]) -> None:
    """Learn nothing."""


# -- jobs --------------------------------------------------------------------------------------------------------------


def archive_jobs(
    ledger: Ledger, facts: ShrinkingDict, archive: Archive, now: datetime, commit: Commit, *, learn: Learn = nothing
) -> int:
    """Take the jobs that ended long enough ago out of the ledger, which is kept in `facts`; how many those were."""
    return sum(archiving_jobs(ledger, facts, archive, now, commit, learn=learn))


def archiving_jobs(
    ledger: Ledger,
    facts: ShrinkingDict,
    archive: Archive,
    now: datetime,
    commit: Commit,
    *,
    learn: Learn = nothing,
    since: datetime | None = None,
) -> Iterator[int]:
    """The same, some jobs a step: how many went in each; none where only what is left of others was removed.

    Who takes no further step leaves the rest for next time.

    Args:
        ledger: the jobs.
        facts: the dict that keeps them.
        archive: where they go.
        now: the time.
        commit: has what was written there last.
        learn: told of the jobs of a step before the ledger forgets them, of some perhaps twice.
        since: those that ended before are archived already, as whoever asks knows.

    """
    count, leaving = 0, ledger.reader.ended(since=since, until=now - AFTER)
    while jobs := list(islice(leaving, AT_ONCE)):
        archive.append(JOBS, (job.as_json() for job in sorted(jobs, key=lambda job: job.age)))
        commit()
        learn(jobs)
        ledger.retire(*jobs)
        count += len(jobs)
        yield len(jobs)
    if count:
        logger.info("archived {}", counted(count, "job"))
    for _ in clearing(facts, now):
        yield 0
    if archive.index(JOBS):
        commit()


# -- what was observed -------------------------------------------------------------------------------------------------


def archive_facts(facts: ShrinkingDict, archive: Archive, now: datetime, commit: Commit) -> int:
    """Take what was observed long enough ago out of the Dict; how many entries those were."""
    entries = dict(facts.items(*OBSERVED, *keys.FOR_SERVERS))
    leaving = {
        TURNS: _old_turns(entries, now),
        METERS: _old(entries, (keys.METER,), now - COUNTED_AFTER),
        REPORTS: _old(entries, (keys.SERVER,), now - COUNTED_AFTER),
        WAKES: _old(entries, (keys.WAKE, keys.REFUSED_WAKE), now - AFTER),
        COLD: _old(entries, (keys.COLD,), now - AFTER),
        AUDIT: _old(entries, (keys.AUDIT,), now - AFTER),
        CASES: _old_cases(entries, now),
        USAGE: _old_usage(entries, now),
    }
    for sort, old in leaving.items():
        archive.append(sort, ({"key": key, "fact": entries[key]} for key in sorted(old)))
    gone = [key for old in leaving.values() for key in old]
    if gone:
        commit()
        usage.keep_last_used(facts, [row for key in leaving[USAGE] for row in usage.rows_of(entries[key])])
        for key in gone:
            facts.pop(key, None)
        logger.info("archived {}", counted(len(gone), "fact"))
    for key in _passed(entries, now):
        facts.pop(key, None)
    grants.tidy_all(facts, now)
    return len(gone)


def _passed(entries: Entries, now: datetime) -> Iterator[str]:
    """What the containers of a tier were told long ago. Of one that is gone nobody says it anew."""
    for key, fact in entries.items():
        if key.startswith(keys.WARMING):
            said = [foreign.fields(fact).get("until")]
        elif key.startswith(keys.WANTED):
            said = [foreign.fields(each).get("at") for each in foreign.items(foreign.fields(fact).get("models"))]
        elif key.startswith(keys.LEAVE):
            said = [foreign.fields(fact).get(each) for each in ("woken_at", "over_at")]
        else:
            continue
        if max(filter(None, map(foreign.moment, said)), default=_NEVER) < now - AFTER:
            yield key


def _old(entries: Entries, prefixes: tuple[str, ...], before: datetime) -> list[str]:
    return [key for key, fact in entries.items() if key.startswith(prefixes) and parse_moment(fact["at"]) < before]


def _old_turns(entries: Entries, now: datetime) -> list[str]:
    """A tier's history, but for its last entry: that is how it is, unless the tier is gone."""
    numbers: dict[str, int] = {}
    for key in entries:
        if key.startswith(keys.HEALTH):
            tier, _, n = key.removeprefix(keys.HEALTH).partition("/")
            numbers[tier] = max(numbers.get(tier, 0), int(n))
    last = {key for tier, n in numbers.items() if entries[key := keys.health(tier, n)]["state"] != "gone"}
    return [key for key in _old(entries, (keys.HEALTH,), now - AFTER) if key not in last]


def _old_cases(entries: Entries, now: datetime) -> list[str]:
    """All facts of incidents that have passed, of which no later one of the same key is known."""
    known = incidents.cases(entries)
    recent = {case.incident.key for case in known if not case.recovered_at or now - case.recovered_at <= AFTER}
    over = {case.incident.key for case in known} - recent
    about = ((key, key.partition("/")) for key in entries if key.startswith(keys.CASES))
    return [key for key, (word, slash, rest) in about if rest.rsplit("/", _PARTS_AFTER_KEY[word + slash])[0] in over]


def _old_usage(entries: Entries, now: datetime) -> list[str]:
    """Days so old that no writer adds to them any more."""
    first = (now - timedelta(days=usage.MAX_DAYS + 1)).date().isoformat()
    return [key for key in entries if key.startswith(keys.USAGE) and key.removeprefix(keys.USAGE)[:10] < first]
