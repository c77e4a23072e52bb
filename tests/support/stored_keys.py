"""Which entries of the table of keys a stored key belongs to."""

import re
from collections.abc import Iterable

from jobs.store.keys import TABLE, KeyPattern

PARTS = {
    # of a job, of jobs that were retired together, of a batch, or of a line of the audit
    "id": r"-?[a-z0-9]+-\d+|(?:msg)?batch_[0-9a-f]{24}|\d\d:\d\d:\d\d\.\d{3}Z-[0-9a-f]{12}",
    "day": r"\d{4}-\d\d-\d\d",
    "month": r"\d{4}-\d\d",
    "span": r"\d{4}-\d\d(?:-\d\d)?",
    "change": "opened|recovered",
    "name": r"[A-Za-z0-9_.-]+",
    "subject": ".+",
    "key": ".+",
    "model": ".+",
    **dict.fromkeys(("n", "k", "place"), r"\d+"),
    **dict.fromkeys(("kind", "tier", "who", "lane", "writer", "container", "account"), "[^/]+"),
}
"""What stands for each part of a pattern; a subject may be a model's name, and hold slashes."""


def is_of(entry: KeyPattern, key: str) -> bool:
    pattern = re.sub("<([a-z]+)>", lambda part: f"(?:{PARTS[part[1]]})", entry.pattern)
    return re.fullmatch(pattern, key) is not None


def patterns_of(keys: Iterable[str]) -> set[str]:
    """The patterns of these keys, each of which belongs to exactly one."""
    known = {key: [entry.pattern for entry in TABLE if is_of(entry, key)] for key in keys}
    odd = {key: patterns for key, patterns in known.items() if len(patterns) != 1}
    assert not odd, f"keys of no entry, or of several: {odd}"
    return {patterns[0] for patterns in known.values()}
