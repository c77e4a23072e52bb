"""Promises of the table of keys: what is stored is listed there, once, with its writer and lifetime."""

from datetime import UTC, datetime, timedelta
from types import FunctionType

import pytest

from app.fleet.file import read
from app.fleet.schema import parse
from app.scheduler import outages
from app.scheduler.wake_budget import Wakes
from jobs.core.clock import isoformat
from jobs.core.errors import Unreachable
from jobs.store import keys
from tests.support.sample_history import Lived
from tests.support.stored_keys import patterns_of
from tests.support.stores import Store

STORED = {
    "aliases": "overwritten",
    "audit/<day>/<id>": "overwritten",
    "batch/<id>": "once",
    "batch_end/<id>": "once",
    "batch_files": "overwritten",
    "batch_pass/<id>": "overwritten",
    "batch_speed/<tier>/<model>": "overwritten",
    "batch_state/<id>": "overwritten",
    "beat/<id>/<n>": "overwritten",
    "cancel/<id>": "once",
    "changed/<id>": "overwritten",
    "changes_forgotten": "overwritten",
    "claim/<id>/<n>": "once",
    "cold/<tier>/<container>/<n>": "overwritten",
    "dead_letters": "overwritten",
    "dismissed/<id>": "once",
    "end/<id>/<n>": "once",
    "gone/<id>": "overwritten",
    "grant/<key>/<span>/<n>": "once",
    "health/<tier>/<n>": "once",
    "incident/<key>/<n>": "once",
    "job/<id>": "once",
    "key/<name>/<n>": "once",
    "last_used": "overwritten",
    "leave/<tier>": "overwritten",
    "live/<kind>/<subject>": "overwritten",
    "meter/<tier>/<container>": "overwritten",
    "nightly/ran": "overwritten",
    "nightly/since": "once",
    "nightly/tries": "overwritten",
    "open/<id>": "overwritten",
    "open_complete": "overwritten",
    "platform/<who>": "overwritten",
    "recovered/<key>/<n>": "once",
    "refused_wake/<tier>/<day>": "overwritten",
    "seen/<key>": "overwritten",
    "server/<tier>/<container>": "overwritten",
    "sorts/moved": "overwritten",
    "sorts/moving": "overwritten",
    "spent/<month>": "overwritten",
    "still_open": "overwritten",
    "telling/<key>/<n>/<change>/<k>": "once",
    "tick/done": "overwritten",
    "told/<key>/<n>/<change>": "once",
    "upkeep/memory": "overwritten",
    "usage/<day>/<writer>": "overwritten",
    "took/<key>/<span>/<account>": "overwritten",
    "wake/<tier>/<day>/<n>": "once",
    "wanted/<tier>": "overwritten",
    "warming/<tier>": "overwritten",
    "weights/generation": "overwritten",
    "weights/models": "overwritten",
    "weights/room": "overwritten",
    "window/<tier>": "overwritten",
    "worker/<lane>": "overwritten",
    "cleared": "overwritten",
}
"""As they were stored from the first day on: what a ledger holds must be found by later code."""


def test_keys_stay_as_they_are() -> None:
    """Every key has the form that older ledgers hold, and is written once, or over and over, as it was."""
    assert {entry.pattern: "once" if entry.is_once else "overwritten" for entry in keys.TABLE} == STORED
    assert len(keys.TABLE) == len(STORED)


def test_each_key_says_who_writes_it_and_how_long_it_lives() -> None:
    """No entry leaves out what it says, who writes it, or until when it is there."""
    assert all(entry.says and entry.writer and entry.lives for entry in keys.TABLE)


def test_the_table_has_all_that_the_module_names() -> None:
    """Each prefix, each key that stands alone, and each function that makes a key is listed in the table."""
    named = {name: value for name, value in vars(keys).items() if not name.startswith("_")}
    texts = {value for name, value in named.items() if name.isupper() and isinstance(value, str)}
    made = {name for name, value in named.items() if isinstance(value, FunctionType) and name != "dataclass"}
    patterns = [entry.pattern for entry in keys.TABLE]

    assert texts == {pattern.partition("<")[0] for pattern in patterns}
    assert made == {pattern.partition("/")[0] for pattern in patterns if "<" in pattern}


def test_no_prefix_begins_another() -> None:
    """Whoever reads by a prefix gets the keys of one pattern, and no others."""
    prefixes = [entry.pattern.partition("<")[0] for entry in keys.TABLE]

    assert not [(one, other) for one in prefixes for other in prefixes if one != other and other.startswith(one)]


@pytest.mark.parametrize("subject", ["*", "llama3.2:latest", "hf.co/user/repo:Q4_K_M"])
def test_what_jobs_leave_behind_is_in_the_table(store: Store, subject: str) -> None:
    """Each key of a job that was claimed, heard of, cancelled and retired belongs to exactly one entry."""
    ledger = store.ledger()
    job = ledger.post("verify", subject, {}, by="test").job
    ledger.claim(job.id, worker="w", lease=timedelta(seconds=-1))
    ledger.cancel(job.id, by="test")
    ledger.sweep()
    ledger.sweep()
    ledger.retire(ledger.reader.get(job.id))

    assert patterns_of(store.facts.keys()) == {
        *("job/<id>", "live/<kind>/<subject>", "claim/<id>/<n>", "end/<id>/<n>", "cancel/<id>", "gone/<id>"),
        *("open_complete", "changed/<id>"),
    }


def test_what_weeks_leave_behind_is_in_the_table(store: Store) -> None:
    """Each key of weeks of requests, containers, servers, jobs and a night belongs to exactly one entry."""
    Lived(store.facts, store.queue, datetime.now(UTC)).all()

    assert patterns_of(store.facts.keys()) >= {"usage/<day>/<writer>", "meter/<tier>/<container>", "health/<tier>/<n>"}


def test_what_goes_wrong_is_in_the_table(store: Store) -> None:
    """So does each key of a platform that fails, of ticks that did not come, and of a budget that is used up."""
    fleet, now = parse(read(), "fleet.toml"), datetime(2026, 10, 5, 10, tzinfo=UTC)
    wakes = Wakes(store.facts, fleet)
    outages.note(store.facts, "tick", {"the sweep": Unreachable("away")}, now)
    store.facts.put(keys.TICK_DONE, {"v": 1, "at": isoformat(now - timedelta(hours=1))})
    outages.note_gap(store.facts, timedelta(minutes=5), now)
    outages.note_done(store.facts, now)
    while wakes.take("a10g", f"reason {wakes.used('a10g', now)}", now):
        pass

    assert patterns_of(store.facts.keys()) == {
        *("platform/<who>", "tick/done", "wake/<tier>/<day>/<n>", "refused_wake/<tier>/<day>")
    }
