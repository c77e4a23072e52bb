"""An app that was stopped for a week is told as it comes back what its ledger has forgotten; others hear nothing."""

import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.fleet.schema import declared
from app.scheduler import absence, runs
from app.scheduler.alert_check import check
from jobs.archive.archive_files import Archive
from jobs.archive.archived import archive_at
from jobs.core.clock import isoformat
from jobs.listing.dead_memory import look_and_remember
from jobs.store import keys
from tests.support.checkout import ROOT
from tests.support.stores import Store

FLEET = declared()


@pytest.fixture
def archive(tmp_path: Path, store: Store) -> Archive:
    """The archive of a volume, written to now."""
    archive = archive_at(tmp_path)
    archive.append("jobs", [{"id": "x-1"}])
    written_at(tmp_path, store.clock.now())
    return archive


def written_at(volume: Path, at: datetime) -> None:
    for path in (volume / "ops").glob("*"):
        os.utime(path, (at.timestamp(), at.timestamp()))


def tick(store: Store) -> None:
    context = runs.ScheduleContext(store.ledger(), store.facts, FLEET, store.clock, lambda _: None)
    runs.tick(context, lambda: None, lambda *_: None, lambda: None)


def forget(store: Store) -> None:
    """As a Dict does whose entries nobody touched."""
    for key in list(store.facts.keys()):
        store.facts.pop(key)


def told(store: Store) -> Mapping[str, Any]:
    """What is open of it: message and hint."""
    cases = check(
        look_and_remember(store.ledger().reader, store.facts, store.clock.now()), store.facts, FLEET, store.clock.now()
    ).open
    return {case.incident.message: case.incident.hint for case in cases if case.incident.subject == absence.ABSENCE}


def test_a_tick_after_a_week_tells_what_is_lost(store: Store) -> None:
    """Where the tick before is still known: how long, since when, what may be lost, what is left, what to do."""
    tick(store)
    last = store.clock.now()
    store.clock.wait(timedelta(days=9).total_seconds())
    tick(store)
    [(message, hint)] = told(store).items()
    assert message.startswith(f"the app was away for 9 days, since {last:%Y-%m-%d} at the latest")
    assert all(each in message for each in absence.lost())
    assert "the weights and their archive are as they were" in hint
    tick(store)
    assert len(told(store)) == 1


def test_who_finds_the_archive_alone_tells_it_as_well(store: Store, archive: Archive) -> None:
    """Where all is forgotten: the gateway, or the weights worker, which see the volume."""
    tick(store)
    store.clock.wait(timedelta(days=8).total_seconds())
    forget(store)
    tick(store)  # nothing here knows of the time before
    assert not told(store)
    store.clock.wait(60)
    for _ in range(2):
        absence.note_old_archive(store.facts, archive, store.clock.now())
    (message,) = told(store)
    assert message.startswith("the app was away for 8 days")
    assert isoformat(store.clock.now())[:10] not in message


def test_it_is_told_for_a_day(store: Store, archive: Archive) -> None:
    """Then it has passed, and the next such week is told anew."""
    store.clock.wait(timedelta(days=8).total_seconds())
    absence.note_old_archive(store.facts, archive, store.clock.now())
    assert told(store)
    store.clock.wait(timedelta(days=1.1).total_seconds())
    assert not told(store)


def test_others_hear_nothing(store: Store, archive: Archive, tmp_path: Path) -> None:
    """A first deployment, one of a volume that is in use, and one that archives nothing for weeks while it runs."""
    absence.note_old_archive(store.facts, archive_at(tmp_path / "new"), store.clock.now())
    tick(store)
    for _ in range(5):
        store.clock.wait(timedelta(days=3).total_seconds())
        tick(store)
        absence.note_old_archive(store.facts, archive, store.clock.now())
    store.facts.pop(keys.TICK_DONE)  # a deployment that is new, over weights that somebody has just worked on
    store.facts.pop(keys.NIGHTS_SINCE)
    written_at(tmp_path, store.clock.now() - timedelta(days=6))
    absence.note_old_archive(store.facts, archive, store.clock.now())
    tick(store)
    assert not told(store)


def test_the_document_names_all_that_fades() -> None:
    """What the table of keys says is lost stands in the section about where everything lies, word for word."""
    text = (
        (ROOT / "app/README.md").read_text("utf-8").split("## Where it lies, and how to remove it")[1].split("\n## ")[0]
    )
    said = re.sub(r"\s+", " ", text)
    assert [each for each in absence.lost() if each not in said] == []
