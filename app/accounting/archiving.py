"""Brings the archive up to date: the same steps on a deployment's volume and in the home of one machine.

There a worker does it after its work. Here a thread does it while `up` runs, at its start and every hour: a step at a
time, so that nobody waits for the archive, and again later where the disk is full or the ledger away.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from jobs.access.audit import PostedAct, record_posted
from jobs.access.keys.key_copy import NAME, keep_keys
from jobs.archive.archive import Commit, archive_facts, archiving_jobs
from jobs.archive.archive_files import Archive
from jobs.archive.archived import AFTER, archive_at
from jobs.batches.files.files_due import LISTED, due
from jobs.core.clock import Clock, parse_moment
from jobs.core.errors import Trouble
from jobs.core.units import counted
from jobs.home.home import Home
from jobs.ledger.job import Job
from jobs.ledger.kinds import KINDS
from jobs.ledger.ledger import Ledger
from jobs.ledger.open_jobs import CHANGES_KEPT
from jobs.listing.dead_memory import look_and_remember
from jobs.store import keys
from jobs.store.files import translated
from jobs.store.protocols import DictLike, ShrinkingDict
from jobs.weights.history import recall, remember

if TYPE_CHECKING:
    from jobs.store.sqlite import SqliteDict

EVERY = timedelta(hours=1)
"""What is a few days old does not hurry."""

AGAIN = timedelta(minutes=1)
"""After one that failed."""

BY_UP = "up"
"""Who posts what becomes due while no schedule looks."""

PAUSE = timedelta(milliseconds=250)
"""Between two steps: five hundred jobs take some 100 ms, and whoever is served meanwhile comes first."""


def archiving(
    ledger: Ledger,
    facts: ShrinkingDict,
    archive: Archive,
    now: datetime,
    commit: Commit,
    *,
    since: datetime | None = None,
    lock: Path | None = None,
) -> Iterator[int]:
    """Take what is old out of the ledger, a step at a time: how much went in each.

    First the keys are copied there, and what they have lost is put back: that cannot wait.

    Before a job or a day of usage leaves, what the upkeep of the weights has to know of it is written down: no night
    need have seen it, and without a fleet none comes. So is how the jobs stand, before any change is forgotten: without
    a fleet no check writes that. Where nobody has, all jobs are read for it, once those have left that are to leave.
    """
    if lost := keep_keys(facts, archive.folder / NAME, now, commit, lock=lock):
        logger.error("the ledger had lost keys, and they are put back from their copy: {}", ", ".join(lost))
    remember(facts, recall(facts, ()))
    was_looked_at = facts.get(keys.DEAD_LETTERS) is not None
    if was_looked_at:
        look_and_remember(ledger.reader, facts, now)

    def learn(jobs: Sequence[Job]) -> None:
        remember(facts, recall(facts, jobs))

    yield from archiving_jobs(ledger, facts, archive, now, commit, learn=learn, since=since)
    if not was_looked_at:
        look_and_remember(ledger.reader, facts, now)
    yield archive_facts(facts, archive, now, commit)


def is_archived(facts: DictLike, now: datetime) -> bool:
    """Whether what is old was archived less than `EVERY` ago, as what was forgotten then tells. On a clock that was set
    back nobody knows."""
    forgotten = facts.get(keys.CHANGES_FORGOTTEN)
    return forgotten is not None and timedelta(0) <= now - parse_moment(forgotten["at"]) - CHANGES_KEPT < EVERY


def nothing_to_commit() -> None:
    """What is on this machine's disk is there."""


class ArchiveThread:
    """Archives what is old in a home, in a thread of its own for as long as `up` runs."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self._archive = archive_at(home.root)
        self._stopping = threading.Event()
        #: Opened by whoever runs a round first: our thread, but for tests.
        self._opened: tuple[Ledger, SqliteDict] | None = None
        #: Those that ended before are archived, by a round that came to its end; None before one has, and when the
        #: clock was set back. As above.
        self._archived_until: datetime | None = None
        #: Why the last round failed, if it did. Our thread writes it, any thread reads it.
        self._trouble: Trouble | None = None
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It leaves after the step that it is at."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def problems(self) -> tuple[str, ...]:
        """What the archive waits for."""
        trouble = self._trouble
        return () if trouble is None else (f"what is old is not archived for now: {trouble}",)

    def run_once(self) -> int:
        """Archive what is old now, and give its room back; how much went, as far as we were let.

        Raises:
            Trouble: the disk or the ledger fails. What was not archived is where it was.

        """
        count = 0
        with translated("archiving what is old"):
            if self._opened is None:
                self._opened = self._home.ledger(self._clock), self._home.facts()
            ledger, facts = self._opened
            now = self._clock.now()
            since = self._archived_until if self._archived_until and self._archived_until < now - AFTER else None
            for went in archiving(ledger, facts, self._archive, now, nothing_to_commit, since=since):
                count += went
                if self._clock.wait(PAUSE.total_seconds(), self._stopping):
                    return count
            self._archived_until = now - AFTER
            self._prune_batches(ledger, facts, now)
            ledger.index_missing()  # what an older version has posted meanwhile; so a start need not look far back
            while given := facts.give_back():
                logger.debug("gave {} of the ledger's file back", counted(given, "page"))
                if self._clock.wait(PAUSE.total_seconds(), self._stopping):
                    break
        return count

    def _prune_batches(self, ledger: Ledger, facts: "SqliteDict", now: datetime) -> None:
        """Have files of batches looked through when something of them is due: without a fleet no night does."""
        stack = self._home.read_stack()
        if stack is not None and (why := due(dict(facts.items(*LISTED)), (), now, stack.batches.keep)):
            posted = ledger.post(*KINDS["prune_batches"].request(), by=BY_UP)
            if not posted.attached:
                act = PostedAct(posted.job.kind, posted.job.subject, posted.job.id, attached=False)
                record_posted(facts, now, who=BY_UP, request="archive", posted=[act])
                logger.info("posted prune_batches, job {}: {}", posted.job.id, why)

    def try_once(self) -> timedelta:
        """The same, but what fails is said and told as a problem; how long to wait before the next round."""
        try:
            self.run_once()
        except Trouble as trouble:
            self._said(trouble)
            return AGAIN
        except Exception as error:  # noqa: BLE001 - nothing is removed before it is archived, and `up` goes on
            logger.opt(exception=error).error("what is old could not be archived, and is tried again: {}", error)
        else:
            self._said(None)
        return EVERY

    def _run(self) -> None:
        while not self._clock.wait(self.try_once().total_seconds(), self._stopping):
            pass

    def _said(self, trouble: Trouble | None) -> None:
        """Say it once as it goes, and once when it is over."""
        if trouble is not None and (self._trouble is None or str(trouble) != str(self._trouble)):
            logger.warning("what is old is not archived for now, and stays in the ledger: {}", trouble)
        if trouble is None and self._trouble is not None:
            logger.info("what is old is archived again")
        self._trouble = trouble
