"""What the last night did: its reasons are written down as it posts, the rest is told from the jobs as they stand now.

Kept under `NIGHT_RAN`, overwritten each night: when it was due and came, its jobs and why, what it left alone, how far
the weights are read.

It posts nothing and asks nobody. A report is plain values, so that it reads the same here and from a gateway elsewhere.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from jobs.cli.terminal.table import GiveWay, table_rows
from jobs.core.clock import isoformat, parse_moment
from jobs.core.sanitize import plain
from jobs.core.units import counted, human_bytes
from jobs.ledger.job import BY_NIGHTLY, Job, JobState
from jobs.store import keys
from jobs.store.protocols import ReadableDict
from jobs.telemetry.incidents import Case, cases
from jobs.telemetry.night_tries import last_tries

UNKNOWN = "archived"
"""The state of a job that has left the ledger since."""


@dataclass(frozen=True)
class NightJob:
    """A job that the night posted, and why; `size` is how many bytes it is about, where that is known."""

    id: str
    kind: str
    subject: str
    why: str
    size: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "kind": self.kind, "subject": self.subject, "why": self.why, "size": self.size}


@dataclass(frozen=True)
class ReadShare:
    """How far the weights are read: how many bytes they are, in how many days, and when none is left unread."""

    bytes: int
    days: int
    all_read_by: datetime

    def as_json(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "days": self.days, "all_read_by": isoformat(self.all_read_by)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(document["bytes"], document["days"], parse_moment(document["all_read_by"]))


@dataclass(frozen=True)
class Ran:
    """What is kept of a night.

    Args:
        due: when its run was due.
        at: when it came.
        posted: its jobs.
        left: what it left alone, and why.
        share: how far the weights are read; None where nobody wrote that down.
        tries: how often it was tried until it ran.
        trouble: what the last of those met that failed.

    """

    due: datetime
    at: datetime
    posted: tuple[NightJob, ...] = ()
    left: tuple[str, ...] = ()
    share: ReadShare | None = None
    tries: int = 1
    trouble: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "due": isoformat(self.due),
            "at": isoformat(self.at),
            "jobs": [each.as_json() for each in self.posted],
            "left": list(self.left),
            "share": self.share and self.share.as_json(),
            "tries": self.tries,
            "trouble": self.trouble,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Also of a record that knows only when the night came."""
        share = document.get("share")
        return cls(
            parse_moment(document.get("due", document["at"])),
            parse_moment(document["at"]),
            tuple(NightJob(**each) for each in document.get("jobs", ())),
            tuple(document.get("left", ())),
            ReadShare.from_json(share) if share else None,
            document.get("tries", 1),
            document.get("trouble", ""),
        )

    def after(self, before: "Ran | None") -> "Ran":
        """This run, when the same night ran before: it adds to what that one posted."""
        if before is None or before.due != self.due:
            return self
        known = {each.id: each for each in (*before.posted, *self.posted)}
        left = tuple(dict.fromkeys((*before.left, *self.left)))
        both = replace(before, posted=tuple(known.values()), left=left)
        return replace(both, share=before.share or self.share)


def ran_last(facts: ReadableDict | Mapping[str, Any]) -> Ran | None:
    """The night that ran last."""
    fact = facts.get(keys.NIGHT_RAN)
    return Ran.from_json(fact) if fact else None


OF_NIGHTS = (keys.NIGHT_RAN, keys.NIGHT_TRIES, *keys.CASES)
"""How the keys begin of what `report` goes by, beside the jobs."""


def report(entries: Mapping[str, Any], jobs: Iterable[Job]) -> dict[str, Any]:
    """The last night, by the entries of the ledger's dict and its jobs; `at` is None where none has come yet."""
    ran, failing = ran_last(entries), _failing(entries)
    if ran is None:
        return {
            **dict.fromkeys(("due", "at", "share", "tries", "trouble")),
            "failing": failing,
            "summary": f"no night has come yet{_which_fails(failing)}",
            "pulled_bytes": 0,
            "freed_bytes": 0,
            "verified_bytes": 0,
            **{each: [] for each in ("jobs", "left", "opened", "passed")},
        }
    known = {job.id: job for job in jobs}
    until = (parse_moment(failing["due"]) if failing else ran.due) + timedelta(days=1)
    rows = [_row(posted, known.get(posted.id)) for posted in _posted(ran, known.values(), until)]
    incidents = cases(entries)
    night = {
        "due": isoformat(ran.due),
        "at": isoformat(ran.at),
        "jobs": rows,
        "pulled_bytes": sum(each["pulled_bytes"] for each in rows),
        "freed_bytes": sum(each["freed_bytes"] for each in rows),
        "verified_bytes": sum(each["verified_bytes"] for each in rows),
        "share": ran.share and ran.share.as_json(),
        "opened": [_case(case, case.opened_at) for case in incidents if case.opened_at >= ran.due],
        "passed": [_case(case, case.recovered_at) for case in incidents if (case.recovered_at or ran.due) > ran.due],
        "left": list(ran.left),
        "tries": ran.tries,
        "trouble": ran.trouble or None,
        "failing": failing,
    }
    return {**night, "summary": _summary(night)}


def ids_of_night(entries: ReadableDict | Mapping[str, Any]) -> Sequence[str]:
    """The jobs that the night which ran last tells of, its own and those that it found under way."""
    ran = ran_last(entries)
    return () if ran is None else [each.id for each in ran.posted]


def _failing(entries: Mapping[str, Any]) -> dict[str, Any] | None:
    """The night after the one that ran last, when it was tried and has not run."""
    ran, tries = ran_last(entries), last_tries(entries)
    if tries is None or not tries.has_failed or (ran is not None and ran.due >= tries.due):
        return None
    return {
        "due": isoformat(tries.due),
        "tries": tries.count,
        "at": tries.at and isoformat(tries.at),
        "trouble": tries.trouble or None,
        "next_at": isoformat(tries.next_at) if tries.next_at else None,
    }


def _posted(ran: Ran, jobs: Iterable[Job], until: datetime) -> Iterator[NightJob]:
    """Its jobs; also those of a run that broke off before it could be written down, this one or the next."""
    yield from ran.posted
    written = {each.id for each in ran.posted}
    for job in sorted(jobs, key=lambda job: job.posted_at):
        if job.posted_by == BY_NIGHTLY and ran.due <= job.posted_at < until and job.id not in written:
            yield NightJob(job.id, job.kind, job.subject, "posted by a run that broke off")


def _row(posted: NightJob, job: Job | None) -> dict[str, Any]:
    last = job.attempts[-1] if job and job.attempts else None
    is_trouble = job is not None and job.state in {JobState.FAILED, JobState.WAITING}
    result = (job and job.result) or {}
    return {
        **posted.as_json(),
        "state": str(job.state) if job else UNKNOWN,
        "class": last.failure_class if last and is_trouble else None,
        "message": last.message if last and is_trouble else None,
        "pulled_bytes": result.get("fetched_bytes", 0) + result.get("resumed_bytes", 0) if posted.kind == "pull" else 0,
        "freed_bytes": result.get("freed_bytes", 0) if posted.kind == "prune" else 0,
        "verified_bytes": result.get("bytes", 0) if posted.kind == "verify" else 0,
    }


def _case(case: Case, at: datetime | None) -> dict[str, Any]:
    incident = case.incident
    about = {"kind": incident.kind, "subject": incident.subject, "message": incident.message}
    return {"at": at and isoformat(at), **about}


# -- in words ----------------------------------------------------------------------------------------------------------


def _summary(night: Mapping[str, Any]) -> str:
    """The night in one line: `5 jobs, 4 succeeded, 1 failed; pulled 3.2 GB, freed 0 B, verified 1.1 GB`."""
    states = Counter(str(each["state"]) for each in night["jobs"])
    count = len(night["jobs"])
    parts = [counted(count, "job") if count else "nothing was to be done"]
    parts += [f"{states[state]} {state}" for state in (*map(str, JobState), UNKNOWN) if states[state]]
    moved = [f"{did} {human_bytes(night[f'{did}_bytes'])}" for did in ("pulled", "freed", "verified")]
    text = f"{', '.join(parts)}; {', '.join(moved)}" if count else parts[0]
    since = [f"{len(night[what])} {what}" for what in ("opened", "passed") if night[what]]
    text = f"{text}; incidents since: {', '.join(since)}" if since else text
    return f"{text}{_which_fails(night['failing'])}"


def _which_fails(failing: Mapping[str, Any] | None) -> str:
    """The night that should have come, in the line of the one that did."""
    return f"; the next one has failed {_times(failing['tries'])}" if failing else ""


def _times(count: int) -> str:
    return "once" if count == 1 else counted(count, "time")


def line(night: Mapping[str, Any], now: datetime) -> str:
    """The night in one line, with its time on the reader's clock."""
    return f"{_at(night['at'], now)}: {night['summary']}" if night["at"] else str(night["summary"])


def lines(night: Mapping[str, Any], now: datetime, width: int | None = None) -> Iterator[str]:
    """Line by line, on the reader's clock, whose zone is that of `now`; its jobs in columns that are no wider."""
    if night["at"] is None:
        yield f"{night['summary']}: it comes by its schedule, on one machine with `ollama-modal up --fleet FILE`"
        yield from _fails(night.get("failing"), now)
        return
    late = f", came {_at(night['at'], now)}" if night["at"][:16] != night["due"][:16] else ""
    yield f"the night of {_at(night['due'], now)}{late}: {plain(night['summary'])}"
    if night.get("trouble"):
        yield f"tries    {night['tries']}; one before met: {plain(night['trouble'])}"
    yield from _jobs(night["jobs"], width)
    if night["share"]:
        yield f"weights  {_read(night, now)}"
    for what, word in (("opened", "incident"), ("passed", "passed  ")):
        yield from (f"{word} {_at(each['at'], now)}  {plain(each['message'])}" for each in night[what])
    yield from (f"left     {plain(each)}" for each in night["left"])
    yield from _fails(night.get("failing"), now)


def _fails(failing: Mapping[str, Any] | None, now: datetime) -> Iterator[str]:
    """The night that should have come since, and has not."""
    if failing is None:
        return
    why = failing["trouble"] or "it ended without a word"
    again = f"next try {_at(failing['next_at'], now)}" if failing["next_at"] else "not tried again until the next night"
    times = _times(failing["tries"])
    yield f"failed   the night of {_at(failing['due'], now)}, {times}, last at {_at(failing['at'], now)}: {plain(why)}"
    yield f"         {again}"


_JOBS_GIVE_WAY = (GiveWay("MODEL", 24, "middle"), GiveWay("SIZE", "left out"), GiveWay("MODEL", 16, "middle"))


def _jobs(jobs: Sequence[Mapping[str, Any]], width: int | None) -> Iterator[str]:
    rows = [(each["kind"], each["subject"], each["state"], _amount(each), each["why"]) for each in jobs]
    shown = table_rows(("KIND", "MODEL", "STATE", "SIZE", "WHY"), rows, width and width - 2, _JOBS_GIVE_WAY, folds=True)
    for each, row in zip(jobs, shown, strict=True):
        yield from (f"  {line}" for line in row)
        if each["message"]:
            yield f"    {each['class'] or 'bug'}: {plain(each['message'])}"
            yield f"    more: `ollama-modal job {each['id']}`"


def _amount(job: Mapping[str, Any]) -> str:
    """How many bytes it moved; until that is known, how many it is about."""
    moved = sum(job[f"{did}_bytes"] for did in ("pulled", "freed", "verified"))
    return human_bytes(moved or job["size"]) if moved or job["size"] else ""


def _read(night: Mapping[str, Any], now: datetime) -> str:
    share = ReadShare.from_json(night["share"])
    part = 100 * night["verified_bytes"] / share.bytes if share.bytes else 0
    by = f"; all of it by {share.all_read_by.astimezone(now.tzinfo):%Y-%m-%d}"
    if share.all_read_by <= parse_moment(night["at"]):
        by = f": all of it within the last {counted(share.days, 'day')}"
    return f"{human_bytes(share.bytes)}, {part:.0f} % of it read in full this night{by}"


def _at(text: str, now: datetime) -> str:
    return f"{parse_moment(text).astimezone(now.tzinfo):%Y-%m-%d %H:%M}"
