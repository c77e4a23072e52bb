"""Which models are to be in memory first on a tier that is woken: a fact under `wanted/<tier>`, first come first.

Whoever wakes a tier writes it before the first request that may start a server; the server reads it once. What nobody
waits for any more does little harm: it counts for some minutes, and is one load. Of two who wake a tier at once the
last one's word stands, and the other's model is loaded when it is asked for.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from jobs.core import foreign
from jobs.core.clock import isoformat
from jobs.core.errors import BadName
from jobs.core.model_name import ModelName
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict

COUNTS_FOR = timedelta(minutes=15)
"""The longest that a declared start takes; clocks that differ by less than this change nothing."""

AT_ONCE = timedelta(minutes=1)
"""What was asked for so shortly before a wake belongs to it: two have come at once."""

MOST = 16
"""More would not fit a GPU anyway."""


def tell(facts: DictLike, tier: str, models: Mapping[str, datetime]) -> None:
    """Say which models are waited for, and since when, first come first: one round trip, and nothing else counts."""
    known = list(models.items())[:MOST]
    facts.put(keys.wanted(tier), {"v": 1, "models": [{"model": name, "at": isoformat(at)} for name, at in known]})


def want(facts: DictLike, tier: str, model: str, now: datetime, *, since: datetime) -> None:
    """Say that a model is waited for, behind those asked for since the wake began, by whomever; these keep their
    places."""
    known: dict[str, datetime] = {}
    for name, at in [*_read(facts.get(keys.wanted(tier))), (model, now)]:
        if at >= since - AT_ONCE:
            known.setdefault(name, at)
    tell(facts, tier, known)


def wanted(facts: ReadableDict, tier: str, now: datetime) -> list[ModelName]:
    """The models that are waited for now, first come first; a name that is none is passed over."""
    found = []
    for name, at in _read(facts.get(keys.wanted(tier))):
        try:
            model = ModelName.parse(name)
        except BadName:
            continue
        if abs(now - at) <= COUNTS_FOR and model not in found:
            found.append(model)
    return found


def _read(document: Any) -> Sequence[tuple[str, datetime]]:
    entries = map(foreign.fields, foreign.items(foreign.fields(document).get("models")))
    read = [(foreign.text(each.get("model")), foreign.moment(each.get("at"))) for each in entries]
    return [(name, at) for name, at in read if at is not None]
