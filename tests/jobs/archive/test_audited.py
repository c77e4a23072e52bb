"""Who did what is read page by page, the newest first, wherever it is kept, and each line once."""

from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from jobs.access.acts import ACTS
from jobs.access.audit import Audit, PostedAct, record_posted
from jobs.archive.archive import archive_facts
from jobs.archive.archived import AFTER, AUDIT, archive_at
from jobs.archive.audited import AuditQuery, archived_lines, need_act, no_archive, page
from jobs.core.errors import BadRequest
from jobs.store import keys
from jobs.store.sqlite_reader import SqliteReader
from jobs.testing.clock import HandClock
from tests.support.counting_stores import CountingStore
from tests.support.stores import Store, pass_days

WHO = ("alice", "bob", "nightly")


def fill(store: Store, count: int, every: timedelta = timedelta(hours=3)) -> None:
    for number in range(count):
        posted = [PostedAct("pull" if number % 2 else "delete", f"m{number}", f"j-{number}", attached=False)]
        record_posted(store.facts, store.clock.now(), who=WHO[number % 3], request="r", posted=posted)
        store.clock.wait(every.total_seconds())


def numbers(store: Store, folder: Path, query: AuditQuery) -> list[int]:
    """Of all pages."""
    found: list[int] = []
    while True:
        here = page(store.facts, partial(archived_lines, archive_at(folder)), query, store.clock.now())
        found += [int(line.subject[1:]) for line in here.lines]
        if here.next is None:
            return found
        assert len(here.lines) == query.limit
        query = AuditQuery(query.since, query.who, query.act, here.next, query.limit)


@pytest.mark.parametrize("limit", [1, 7, 100, None])
@pytest.mark.parametrize("is_removed", [True, False])
def test_pages_have_each_line_once(store: Store, tmp_path: Path, limit: int | None, is_removed: bool) -> None:
    """Over the ledger and the archive, whatever a page holds, also when a kill left lines in both."""
    fill(store, 60)
    kept = dict(store.facts.items(keys.AUDIT))
    assert archive_facts(store.facts, archive_at(tmp_path), store.clock.now(), lambda: None) > 10
    if not is_removed:
        store.facts.update(kept)
    long_ago = store.clock.now() - timedelta(days=365)
    assert numbers(store, tmp_path, AuditQuery(long_ago, limit=limit)) == list(range(59, -1, -1))
    alices = [number for number in range(59, -1, -1) if number % 3 == 0]
    assert numbers(store, tmp_path, AuditQuery(long_ago, who="alice", limit=limit)) == alices
    pulls = [number for number in range(59, -1, -1) if number % 2 and number % 3 == 1]
    assert numbers(store, tmp_path, AuditQuery(long_ago, "bob", "pull", limit=limit)) == pulls
    since = store.clock.now() - timedelta(hours=3 * 58)
    assert numbers(store, tmp_path, AuditQuery(since, limit=limit)) == list(range(59, 1, -1))


def test_lines_leave_the_ledger_some_days_later(store: Store, tmp_path: Path) -> None:
    """What is older than the archive waits for is in its files, and no more in the ledger."""
    fill(store, 1)
    pass_days(store, AFTER.days + 1)
    fill(store, 1)
    archive_facts(store.facts, archive_at(tmp_path), store.clock.now(), lambda: None)
    assert len(list(store.facts.keys(keys.AUDIT))) == 1
    assert len(list(archive_at(tmp_path).read(AUDIT))) == 1


def test_old_files_are_left_closed(store: Store, tmp_path: Path) -> None:
    """Who asks for the last days reads no file that is older; one that is broken would not be noticed."""
    archive = archive_at(tmp_path)
    fill(store, 2, timedelta(days=30))
    pass_days(store, 30)
    for key, fact in sorted(store.facts.items(keys.AUDIT)):
        archive.append(AUDIT, [{"key": key, "fact": fact}])
        (tmp_path / "ops" / "audit.jsonl").rename(tmp_path / "ops" / f"audit.0000{fact['subject'][1:]}.jsonl")
    (tmp_path / "ops" / "audit.00000.jsonl").write_text("{}\nnonsense\n{}\n", "utf-8")
    found = archived_lines(archive, AuditQuery(store.clock.now() - timedelta(days=61)))
    assert [line.subject for line in found] == ["m1"]


def test_the_store_is_read_a_page_at_a_time(store: Store) -> None:
    """One machine's file is read from its end; what does not make sense in it is passed over."""
    fill(store, 450, timedelta(seconds=1))
    store.facts.put(keys.audit("2026-09-15", "99"), {"v": 9})
    for facts in (store.facts, SqliteReader(store.path)):
        found = page(facts, no_archive, AuditQuery(store.clock.now() - timedelta(days=1), limit=3), store.clock.now())
        assert [line.subject for line in found.lines] == ["m449", "m448", "m447"]
        assert found.next == found.lines[-1].id


def test_a_deployment_is_asked_once() -> None:
    """A page costs one round trip, however much there is."""
    clock = HandClock()
    store = CountingStore(clock)
    Audit(store.facts, clock).record(who="alice", request="r", act="pull", subject="m")
    store.trips.begin()
    assert page(store.facts, no_archive, AuditQuery(clock.now() - timedelta(days=1), limit=9), clock.now()).lines
    assert len(store.trips.asked) == 1


def test_an_act_that_there_is_not_is_refused() -> None:
    """A kind that nobody ever writes is a mistake of whoever asks, who is told which there are."""
    with pytest.raises(BadRequest, match="no act 'pulls'") as refusal:
        need_act("pulls")
    assert all(act in str(refusal.value.hint) for act in ACTS)
