"""Who did what: each act of an admin is a line, written before the act and again with its outcome.

So whoever is killed in between leaves a line that says what he was about to do (`begun`), and none is lost. An act that
cannot be written down is not done: the store that keeps the lines keeps what is acted on as well. What is refused
before anything is done waits for nothing, and is counted: of one caller, act, subject and reason a day has one line,
however often he comes.

No key and no prompt is ever handed in here.
"""

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from typing import NamedTuple

from jobs.access.audit_line import LONGEST, Act, AuditLine, Outcome, id_at
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, Trouble
from jobs.core.sanitize import plain, without_keys
from jobs.store.patient_calls import Calls, PatientBatchDict
from jobs.store.protocols import BatchDict

COUNTED_FOR = timedelta(minutes=1)
"""How often at most a line that counts is written again."""

MOST_COUNTED = 1_000
"""Different refusals of one day that a process tells apart by their subject. Beyond, those of one caller, act and
reason are one line: there are as many as keys, acts and classes, so nobody can fill the store."""

MOST_UNWRITTEN = 1_000
"""Lines that wait for a store that is away; more acts than that cannot have been begun before it was."""

_ORDER = count()
"""So that acts of one process and one millisecond are told in their order. Any thread may take the next."""

Later = Callable[[Callable[[], None]], object]
"""Has something done that its caller does not wait for."""

_Refusal = tuple[str, str, str, str, str]
"""Of which day, who, act, class and subject."""


def at_once(work: Callable[[], None]) -> None:
    """Do it now."""
    work()


class PostedAct(NamedTuple):
    """A job that a schedule posted, or found under way."""

    act: str
    subject: str
    job: str
    attached: bool


class Audit:
    """Writes the lines. Any thread may.

    Args:
        facts: where they are kept.
        clock: the time.
        later: has outcomes and refusals written; at once where nobody waits for an answer meanwhile.

    """

    def __init__(self, facts: BatchDict, clock: Clock, later: Later = at_once) -> None:
        self._facts = PatientBatchDict(facts, Calls(clock))
        self._clock = clock
        self._later = later
        self._writing = threading.Lock()  # held while the rest is written, so that what is newer comes later
        self._lock = threading.Lock()  # never held while the store is asked
        #: Lines that are to be written, by key. Any thread, under `_lock`, as the one below.
        self._rest: dict[str, AuditLine] = {}
        #: The line that counts each refusal of this day, and when it was handed to be written.
        self._counted: dict[_Refusal, tuple[AuditLine, float]] = {}

    def record(
        self,
        *,
        who: str,
        request: str,
        act: str,
        subject: str,
        outcome: Outcome = "done",
        why: str = "",
        job: str = "",
    ) -> AuditLine:
        """Write the line of an act that is over, or about to be; one trip.

        Raises:
            StoreTrouble: it is not written.

        """
        line = replace(_line(self._clock.now(), outcome, who, request, act, subject), why=why, job=job)
        self._facts.put(line.key, line.as_fact())
        return line

    @contextmanager
    def act(self, *, who: str, request: str, act: str, subject: str) -> Iterator[Act]:
        """Do something that is written down before, by one trip, and with its outcome after, for which nobody waits.
        What is raised inside is told by its class and raised on.

        Raises:
            StoreTrouble: it cannot be written down before, so nothing was done.

        """
        doing = Act(self.record(who=who, request=request, act=act, subject=subject, outcome="begun"))
        try:
            yield doing
        except BaseException as error:
            is_refusal = isinstance(error, Trouble) and not isinstance(error, StoreTrouble)
            self._end(replace(doing.line, outcome="refused" if is_refusal else "failed", why=type(error).__name__))
            raise
        self._end(replace(doing.line, outcome="done") if doing.line.outcome == "begun" else doing.line)

    def refused(self, *, who: str, request: str, act: str, subject: str, error: Trouble) -> None:
        """Count what was refused before anything was done. Waits for nothing and raises nothing."""
        line = _line(self._clock.now(), "refused", who, request, act, subject)
        line = replace(line, why=type(error).__name__)
        now = self._clock.monotonic()
        with self._lock:
            about = self._about(line)
            known = self._counted.get(about)
            if known is not None:
                line = replace(known[0], request=line.request, count=known[0].count + 1)
            is_due = known is None or now - known[1] >= COUNTED_FOR.total_seconds()
            self._counted[about] = line, now if known is None or is_due else known[1]
            self._keep(line)
        if is_due:
            self._later(self.write_rest)

    def write_rest(self) -> None:
        """Write what is left to be written; what cannot be written now stays for the next time, and the log says so."""
        with self._writing:
            with self._lock:
                rest, self._rest = self._rest, {}
            if not rest:
                return
            try:
                self._facts.update({key: line.as_fact() for key, line in rest.items()})
            except StoreTrouble as trouble:
                _warn("what was done is not written down yet, and is tried again: {}", trouble)
                with self._lock:
                    newer, self._rest = self._rest, {}
                    for line in (rest | newer).values():
                        self._keep(line)

    def close(self) -> None:
        """Write what is left; what cannot be written stands in the log."""
        self.write_rest()
        with self._lock:
            for line in self._rest.values():
                _warn("an act whose line is not written: {}", line.as_json())

    def _end(self, line: AuditLine) -> None:
        with self._lock:
            self._keep(line)
        self._later(self.write_rest)

    def _keep(self, line: AuditLine) -> None:
        """Have it written the next time. Under `_lock`."""
        if len(self._rest) >= MOST_UNWRITTEN and line.key not in self._rest:
            _warn("an act whose line is not written: {}", line.as_json())
            return
        self._rest[line.key] = line

    def _about(self, line: AuditLine) -> _Refusal:
        """By what it is counted. Under `_lock`."""
        day = line.id[:10]
        about = (day, line.who, line.act, line.why, line.subject)
        if about not in self._counted and len(self._counted) >= MOST_COUNTED:
            self._counted = {known: count for known, count in self._counted.items() if known[0] == day}
        if about not in self._counted and len(self._counted) >= MOST_COUNTED:
            return (*about[:-1], "")
        return about


def record_posted(facts: BatchDict, now: datetime, *, who: str, request: str, posted: Iterable[PostedAct]) -> None:
    """Write down what a schedule has posted, by one trip; none where that is nothing.

    A schedule that is killed before comes again, and finds its jobs under way.

    Raises:
        StoreTrouble: it may not be written.

    """
    lines = [
        replace(
            _line(now, "attached" if each.attached else "posted", who, request, each.act, each.subject), job=each.job
        )
        for each in posted
    ]
    if lines:
        facts.update({line.key: line.as_fact() for line in lines})


def entry_of(now: datetime, *, who: str, request: str, act: str, subject: str) -> dict[str, object]:
    """The entry of an act that is written with what it changes, by one trip."""
    line = _line(now, "done", who, request, act, subject)
    return {line.key: line.as_fact()}


def _line(now: datetime, outcome: Outcome, *said: str) -> AuditLine:
    """Said: who, by which request, which act, to what."""
    who, request, act, subject = (without_keys(plain(text, LONGEST)) for text in said)
    rest = f"{next(_ORDER) % 0x10000:04x}{secrets.token_hex(4)}"
    return AuditLine(id_at(now, rest), now, who, request, act, subject, outcome)


def _warn(text: str, *values: object) -> None:
    """Log a warning: with what takes longer to import than most commands take, and is hardly ever needed."""
    from loguru import logger  # noqa: PLC0415

    logger.opt(depth=1).warning(text, *values)
