"""Removes what the ledger holds of retired jobs. The only place where a fact is ever taken away.

A key that may be written once is safe only while it is there: whoever slept meanwhile would find it free. So the marks
of retired jobs come first (`Ledger.retire`), their attempts go an hour later, their ids a month later.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from jobs.core.clock import parse_moment
from jobs.ledger.attempts import point
from jobs.ledger.open_jobs import CHANGES_KEPT
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict

ATTEMPT_FACTS = (keys.CLAIM, keys.BEAT, keys.END, keys.CANCEL, keys.DISMISSED)

CLEARED_AFTER = timedelta(hours=1)
"""No pass over all entries lasts so long, so none sees half a job."""

ID_KEPT = timedelta(days=30)
"""Who began to post or to claim before the job ended has long gone by then."""


def clear(facts: ShrinkingDict, now: datetime) -> int:
    """Remove the facts of jobs that were retired a while ago, and much later the ids; how many entries those were.

    And what was told of changes that everybody has heard of by now.

    Safe to run any number of times at once, and to stop anywhere.
    """
    entries = dict(facts.items(*keys.OF_JOBS))
    marks = {key.removeprefix(keys.GONE): value for key, value in entries.items() if key.startswith(keys.GONE)}
    ages = {id: now - parse_moment(mark["at"]) for id, mark in marks.items()}
    removed = 0
    for key in entries:
        if key.startswith(ATTEMPT_FACTS):
            age = ages.get(key.split("/")[1])
            if age is not None and age > CLEARED_AFTER:
                removed += _removed(facts, key)
    for id, age in ages.items():
        if age > ID_KEPT:
            removed += _free(facts, id, entries.get(keys.job(id)))
    for key, change in list(facts.items(keys.CHANGED)):
        if now - parse_moment(change["at"]) > CHANGES_KEPT:
            removed += _removed(facts, key)
    return removed


def _free(facts: ShrinkingDict, id: str, fact: Mapping[str, Any] | None) -> int:
    """Give an id up, its line pointed past it first, so that nobody posts under it again."""
    line, _, generation = id.rpartition("-")
    if fact is not None:
        pointer = facts.get(keys.live(fact["kind"], fact["subject"]))
        if pointer is not None and pointer["line"] == line and pointer["generation"] <= int(generation):
            point(facts, fact["kind"], fact["subject"], line, int(generation) + 1)
    return _removed(facts, keys.job(id)) + _removed(facts, keys.gone(id))


def _removed(facts: ShrinkingDict, key: str) -> int:
    return int(facts.pop(key, None) is not None)
