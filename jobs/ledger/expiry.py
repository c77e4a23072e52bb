"""Removes what the ledger holds of retired jobs. The only place where a fact is ever taken away.

A key that may be written once is safe only while it is there: whoever slept meanwhile would find it free. So the marks
of retired jobs come first (`Ledger.retire`), their attempts go an hour later, their ids a month later.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from jobs.core.clock import isoformat, parse_moment
from jobs.ledger.attempts import point
from jobs.ledger.open_jobs import CHANGES_KEPT
from jobs.store import keys
from jobs.store.in_order import InOrder, Moment, in_order
from jobs.store.protocols import ShrinkingDict

ATTEMPT_FACTS = (keys.CLAIM, keys.BEAT, keys.END, keys.CANCEL, keys.DISMISSED)

CLEARED_AFTER = timedelta(hours=1)
"""No pass over all entries lasts so long, so none sees half a job."""

ID_KEPT = timedelta(days=30)
"""Who began to post or to claim before the job ended has long gone by then."""


AT_ONCE = 500
"""Jobs that are removed in one step, where the store can."""


def clear(facts: ShrinkingDict, now: datetime) -> int:
    """Remove the facts of jobs that were retired a while ago, and much later the ids; how many entries those were.

    And what was told of changes that everybody has heard of by now.

    Safe to run any number of times at once, and to stop anywhere.
    """
    return sum(clearing(facts, now))


def clearing(facts: ShrinkingDict, now: datetime) -> Iterator[int]:
    """The same, some jobs a step: how many entries went in each."""
    order = in_order(facts)
    yield _forget_changes(facts, order, now)
    if order is None:
        yield _clear_all(facts, now)
    else:
        yield from _clearing_by_time(facts, order, now)


def _clear_all(facts: ShrinkingDict, now: datetime) -> int:
    entries = dict(facts.items(*keys.OF_JOBS))
    marks = {key.removeprefix(keys.GONE): value for key, value in entries.items() if key.startswith(keys.GONE)}
    ages = {id: now - parse_moment(mark["at"]) for id, mark in marks.items()}
    old = (key for key in entries if key.startswith(ATTEMPT_FACTS) and _age_of(key, ages) > CLEARED_AFTER)
    removed = facts.remove_all(old)
    for id, age in ages.items():
        if age > ID_KEPT:
            removed += _free(facts, {id: entries.get(keys.job(id))})
    return removed


def _forget_changes(facts: ShrinkingDict, order: InOrder | None, now: datetime) -> int:
    """Of what became of jobs, what everybody has heard of by now."""
    first, until, removed = Moment(""), isoformat(now - CHANGES_KEPT), 0  # what was removed is found no more
    facts.put(keys.CHANGES_FORGOTTEN, {"v": 1, "at": until})
    if order is None:
        told = list(facts.items(keys.CHANGED))
        return facts.remove_all(key for key, change in told if change["at"] <= until)
    while changes := order.by_time(keys.CHANGED, first, until, AT_ONCE):
        removed += facts.remove_all(change.key for change in changes)
    return removed


def _age_of(key: str, ages: Mapping[str, timedelta]) -> timedelta:
    return ages.get(key.split("/")[1], timedelta(0))


def _clearing_by_time(facts: ShrinkingDict, order: InOrder, now: datetime) -> Iterator[int]:
    """By the marks that are old enough, and no others.

    How far it came is written down after each step. A mark from before that, which a clock that was set back wrote
    later, is met when its id is given up.
    """
    known = facts.get(keys.CLEARED)
    at = Moment(*known["upto"]) if known else Moment("")
    while marks := order.by_time(keys.GONE, at, isoformat(now - CLEARED_AFTER), AT_ONCE):
        yield facts.remove_all(_attempt_facts(facts, map(_id_of, marks)))
        at = marks[-1]
        facts.put(keys.CLEARED, {"v": 1, "upto": [*at]})
    first = Moment("")  # what was given up is found no more
    while marks := order.by_time(keys.GONE, first, isoformat(now - ID_KEPT), AT_ONCE):
        ids = list(map(_id_of, marks))
        removed = facts.remove_all(_attempt_facts(facts, ids))
        yield removed + _free(facts, {id: facts.get(keys.job(id)) for id in ids})


def _id_of(mark: Moment) -> str:
    return mark.key.removeprefix(keys.GONE)


def _attempt_facts(facts: ShrinkingDict, ids: Iterable[str]) -> list[str]:
    """The keys of all facts of these jobs, but for the request and the mark."""
    found: list[str] = []
    for id in ids:
        found += (keys.cancel(id), keys.dismissed(id))
        found += facts.keys(keys.claim(id, ""), keys.beat(id, ""), keys.end(id, ""))
    return found


def _free(facts: ShrinkingDict, requests: Mapping[str, Mapping[str, Any] | None]) -> int:
    """Give ids up, their lines pointed past them first, so that nobody posts under them again."""
    for id, fact in requests.items():
        line, _, generation = id.rpartition("-")
        if fact is not None:
            pointer = facts.get(keys.live(fact["kind"], fact["subject"]))
            if pointer is not None and pointer["line"] == line and pointer["generation"] <= int(generation):
                point(facts, fact["kind"], fact["subject"], line, int(generation) + 1)
    # The mark last: while it is there the rest is found again.
    removed = facts.remove_all(map(keys.job, requests))
    return removed + facts.remove_all(map(keys.gone, requests))
