"""Removes what the ledger holds of retired jobs. The only place where a fact is ever taken away.

A key that may be written once is safe only while it is there: whoever slept meanwhile would find it free. So the marks
of retired jobs come first (`Ledger.retire`), their attempts go an hour later, their ids a month later.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from jobs.core.clock import parse_moment
from jobs.ledger.ledger import live_key, point
from jobs.store.protocols import ShrinkingDict

CLEARED_AFTER = timedelta(hours=1)
"""No pass over all entries lasts so long, so none sees half a job."""

ID_KEPT = timedelta(days=30)
"""Who began to post or to claim before the job ended has long gone by then."""


def clear(facts: ShrinkingDict, now: datetime) -> int:
    """Remove the facts of jobs that were retired a while ago, and much later the ids; how many entries those were.

    Safe to run any number of times at once, and to stop anywhere.
    """
    entries = dict(facts.items())
    marks = {key.removeprefix("gone/"): value for key, value in entries.items() if key.startswith("gone/")}
    ages = {id: now - parse_moment(mark["at"]) for id, mark in marks.items()}
    removed = 0
    for key in entries:
        sort, _, tail = key.partition("/")
        age = ages.get(tail.partition("/")[0])
        if sort in {"claim", "beat", "end", "cancel"} and age is not None and age > CLEARED_AFTER:
            removed += _removed(facts, key)
    for id, age in ages.items():
        if age > ID_KEPT:
            removed += _free(facts, id, entries.get(f"job/{id}"))
    return removed


def _free(facts: ShrinkingDict, id: str, fact: Mapping[str, Any] | None) -> int:
    """Give an id up, its line pointed past it first, so that nobody posts under it again."""
    line, _, generation = id.rpartition("-")
    if fact is not None:
        pointer = facts.get(live_key(fact["kind"], fact["subject"]))
        if pointer is not None and pointer["line"] == line and pointer["generation"] <= int(generation):
            point(facts, fact["kind"], fact["subject"], line, int(generation) + 1)
    return _removed(facts, f"job/{id}") + _removed(facts, f"gone/{id}")


def _removed(facts: ShrinkingDict, key: str) -> int:
    return int(facts.pop(key, None) is not None)
