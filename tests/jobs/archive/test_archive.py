"""What has left the ledger: nothing is lost, nothing is told twice, and it is read as one with what is still there."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.model_server.report import Report
from jobs.archive.archive import archive_facts, archive_jobs
from jobs.archive.archive_files import Archive
from jobs.archive.archived import AFTER, REPORTS, ArchivedJobs, archive_at, archived_facts, archived_jobs
from jobs.cli.job_commands import LONG_AGO, JobCommands
from jobs.core.clock import isoformat
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.listing.newest import chosen
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.incidents import Incident, cases, record
from jobs.telemetry.usage import UsageRecorder, Use, last_used
from tests.support.stores import Store, ended_job, pass_days


def archive(store: Store, folder: Path, commits: list[str] | None = None) -> int:
    def commit() -> None:
        (commits if commits is not None else []).append("committed")

    return archive_jobs(store.ledger(), store.facts, archive_at(folder), store.clock.now(), commit)


# The files


def test_records_come_back_in_order(tmp_path: Path) -> None:
    """What was appended is read back, oldest first, sort by sort, and appending nothing makes no file."""
    archive = Archive(tmp_path / "ops")
    assert archive.append("jobs", []) == 0
    assert not (tmp_path / "ops").exists()
    assert archive.append("jobs", [{"n": 1}, {"n": 2}]) == 2
    archive.append("health", [{"n": 9}])
    archive.append("jobs", [{"n": 3}])
    assert [record["n"] for record in archive.read("jobs")] == [1, 2, 3]
    assert [record["n"] for record in archive.read("health")] == [9]
    assert [*archive.read("nonesuch")] == []


@pytest.mark.parametrize("kept", range(1, len('{"n":2,"text":"zwei \u00fc"}\n'.encode())))
def test_a_torn_last_line_is_survived(tmp_path: Path, kept: int) -> None:
    """Wherever a line was torn: those before it are read, and the next one is not lost to it."""
    archive = Archive(tmp_path)
    archive.append("jobs", [{"n": 1}])
    whole = '{"n":2,"text":"zwei \u00fc"}\n'.encode()
    with (tmp_path / "jobs.jsonl").open("ab") as file:
        file.write(whole[:kept])
    archive.append("jobs", [{"n": 3}])
    told = [record["n"] for record in archive.read("jobs")]
    assert told == ([1, 2, 3] if kept == len(whole) - 1 else [1, 3])


def test_a_full_file_is_rotated(tmp_path: Path) -> None:
    """A file that has grown large is set aside under the next number, and all of them are read in order."""
    archive = Archive(tmp_path, rotate_at=30)
    for n in range(12):
        archive.append("jobs", [{"n": n, "text": "x" * 20}])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"jobs.{n:05}.jsonl" for n in range(1, 12)), "jobs.jsonl"]
    assert [record["n"] for record in archive.read("jobs")] == [*range(12)]


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    """Whichever files were taken away, the next one that is set aside takes the place of none that is there."""
    archive = Archive(tmp_path, rotate_at=30)
    kept: list[int] = []
    for n in range(40):
        archive.append("jobs", [{"n": n, "text": "x" * 20}])
        if n % 5 == 3:
            oldest = min(path for path in tmp_path.iterdir() if path.name != "jobs.jsonl")
            gone = json.loads(oldest.read_text("utf-8"))["n"]
            kept = [each for each in kept if each != gone]
            oldest.unlink()
        kept.append(n)
        assert [record["n"] for record in archive.read("jobs")] == kept
    (tmp_path / "jobs.99999.jsonl").write_text('{"n":-1}\n')
    for n in range(40, 43):
        archive.append("jobs", [{"n": n, "text": "x" * 20}])
    assert [record["n"] for record in archive.read("jobs")] == [*kept[:-1], -1, 39, 40, 41, 42]


# Jobs


class Watched(SqliteDict):
    """A dict that says when a job is taken off it."""

    said: Callable[[str], object]

    def update(self, other: Mapping[Any, Any], /) -> None:
        self.said(f"retired {len(other)}")
        super().update(other)


def test_what_is_archived_is_on_the_disk_before_it_is_forgotten(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the file and the folder that names it, then the platform's commit, and only then the ledger; a disk that
    cannot say so keeps the job in the ledger."""
    job = ended_job(store, "m:latest")
    pass_days(store, 6)
    did: list[str] = []
    facts = Watched(store.path)
    facts.said = did.append
    ledger, at = Ledger(store.queue, facts, store.clock), archive_at(tmp_path)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "the disk says no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="says no"):
        archive_jobs(ledger, facts, at, store.clock.now(), lambda: did.append("committed"))
    assert (did, ledger.reader.jobs()) == ([], [job])

    monkeypatch.setattr(os, "fsync", lambda file: did.append(Path(f"/proc/self/fd/{file}").readlink().name))
    archive_jobs(ledger, facts, at, store.clock.now(), lambda: did.append("committed"))
    facts.close()
    assert did == [tmp_path.name, "jobs.jsonl", "ops", "committed", "retired 1"]
    assert [each.id for each in archived_jobs(at, LONG_AGO)] == [job.id]


def test_old_jobs_leave_the_ledger(store: Store, tmp_path: Path) -> None:
    """A job that ended days ago is appended as one line of JSON, committed, and only then taken off the ledger."""
    job = ended_job(store, "m:latest")
    commits: list[str] = []
    pass_days(store, 4)
    assert archive(store, tmp_path, commits) == 0
    assert store.ledger().reader.jobs() == [job]
    pass_days(store, 2)
    assert [archive(store, tmp_path, commits) for _ in range(2)] == [1, 0]
    assert commits == ["committed"]
    assert store.ledger().reader.jobs() == []
    [line] = (tmp_path / "ops/jobs.jsonl").read_text().splitlines()
    assert json.loads(line) == job.as_json()
    pass_days(store, 1)
    archive(store, tmp_path)
    kinds = {key.partition("/")[0] for key in store.facts.keys()}  # noqa: SIM118 - no dict
    assert kinds == {"job", "gone", "live", "cleared", "changes_forgotten"}
    pass_days(store, 31)
    archive(store, tmp_path)
    assert sorted(store.facts.keys()) == ["changes_forgotten", "cleared", "live/pull/m:latest"]


def test_what_cannot_be_committed_stays(store: Store, tmp_path: Path) -> None:
    """When the commit fails the job stays in the ledger; archived again, it is still told once."""
    job = ended_job(store, "m:latest")
    pass_days(store, AFTER.days + 1)

    def fail() -> None:
        raise OSError("no commit")

    with pytest.raises(OSError, match="no commit"):
        archive_jobs(store.ledger(), store.facts, archive_at(tmp_path), store.clock.now(), fail)
    assert store.ledger().reader.jobs() == [job]
    assert archive(store, tmp_path) == 1
    assert [told.id for told in archived_jobs(archive_at(tmp_path), LONG_AGO)] == [job.id]


def test_reports_of_containers_that_ended_leave(store: Store, tmp_path: Path) -> None:
    """The last report of a container leaves the Dict a day later; one that still reports stays."""
    for container, age in (("ended", 25), ("up", 1)):
        report = Report("a10g", container, "serving", store.clock.now() - timedelta(hours=age))
        store.facts.put(report.key, report.as_json())
    archive_facts(store.facts, archive_at(tmp_path), store.clock.now(), lambda: None)
    assert [key for key in store.facts.keys() if key.startswith("server/")] == ["server/a10g/up"]  # noqa: SIM118 - no dict
    assert [*archived_facts(archive_at(tmp_path), REPORTS)] == ["server/a10g/ended"]


def test_live_jobs_are_never_archived(store: Store, tmp_path: Path) -> None:
    """A job that waits for a worker for weeks stays where it is, and is still claimed."""
    id = store.ledger().post("pull", "m", {}, by="test").job.id
    pass_days(store, 40)
    assert archive(store, tmp_path) == 0
    assert store.ledger().claim(id, worker="w", lease=timedelta(minutes=1)) is not None


# What was observed


def test_what_was_observed_leaves_the_dict(store: Store, tmp_path: Path) -> None:
    """History, counts, wakes, incidents and usage move to the archive when they are over; what still counts stays."""
    then = isoformat(store.clock.now())
    lost = Incident("tier", "a10g", "tier a10g is lost")
    record(store.facts, [], [lost, Incident("quota", "volume", "full")], store.clock.now())
    for n in (1, 2):
        store.facts.put(f"health/a10g/{n}", {"n": n, "at": then, "tier": "a10g", "state": "lost"})
    store.facts.put("meter/a10g/ta-1", {"at": then, "tier": "a10g", "container": "ta-1", "started_at": then})
    store.facts.put("wake/a10g/2026-01-01/1", {"at": then, "why": "x"})
    store.facts.put("window/a10g", value=True)
    use = Use(store.clock.now(), "llama3.2", "anna", "a10g", "success", seconds=3)
    usage_recorder = UsageRecorder(store.facts, store.clock, "gateway")
    usage_recorder.add(use)
    usage_recorder.flush()
    pass_days(store, 1)
    record(store.facts, cases(dict(store.facts.items())), [], store.clock.now())
    known = last_used(store.facts)
    pass_days(store, 20)
    record(store.facts, cases(dict(store.facts.items())), [Incident("quota", "volume", "full")], store.clock.now())

    archive = archive_at(tmp_path)
    commits: list[str] = []
    for _ in range(2):
        archive_facts(store.facts, archive, store.clock.now(), lambda: commits.append("committed"))

    assert commits == ["committed"]
    left = sorted(store.facts.keys())
    assert left == [
        "health/a10g/2",
        "incident/quota/volume/1",
        "incident/quota/volume/2",
        "last_used",
        "recovered/quota/volume/1",
        "still_open",
        "window/a10g",
    ]
    assert {sort: [*archived_facts(archive, sort)] for sort in ("health", "meters", "wakes", "usage")} == {
        "health": ["health/a10g/1"],
        "meters": ["meter/a10g/ta-1"],
        "wakes": ["wake/a10g/2026-01-01/1"],
        "usage": ["usage/2026-01-01/gateway"],
    }
    assert set(archived_facts(archive, "incidents")) == {"incident/tier/a10g/1", "recovered/tier/a10g/1"}
    assert last_used(store.facts) == known == {"llama3.2:latest": use.at}


def commands(store: Store, folder: Path) -> JobCommands:
    ledger, archived = store.ledger(), ArchivedJobs(archive_at(folder))
    return JobCommands(
        ledger,
        store.clock,
        is_worked=lambda: True,
        idle=("", ""),
        log="",
        archived=lambda since: archived_jobs(archive_at(folder), since),
        listed=lambda fitting, limit: chosen(ledger.reader, archived, fitting, limit, store.clock.now()),
    )


def test_the_list_goes_back_into_the_archive(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list lists archived jobs and those of the ledger as one, newest first, each once."""
    first = ended_job(store, "first:latest", Ending("failed", "network", "cut short"))
    pass_days(store, 10)
    second = ended_job(store, "second:latest")
    pass_days(store, 3)
    third = ended_job(store, "third:latest")
    archive(store, tmp_path)
    pass_days(store, 3)
    archive(store, tmp_path)
    at = commands(store, tmp_path)

    def listed(since: str | None = None, state: str | None = None, limit: int = 0) -> list[str]:
        assert at.list_jobs(state=state, since=since, limit=limit, json=True) == 0
        out, err = capsys.readouterr()
        ids = [told["id"] for told in json.loads(out)]
        assert ("there are more" in err) == (len(ids) == limit == 2), err
        return ids

    assert [job.id for job in store.ledger().reader.jobs()] == [third.id]
    assert listed() == listed(limit=3) == listed(limit=9) == [third.id, second.id, first.id]
    assert listed(limit=2) == [third.id, second.id]
    assert listed(state="failed") == [first.id]
    assert listed(since="90d") == [third.id, second.id, first.id]
    assert listed(since="1w") == [third.id, second.id]
    assert listed(since="90d", state="failed") == [first.id]


def test_an_archived_job_is_told_and_retried(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An archived job's story is told by the beginning of its id, and it is posted again exactly as it was."""
    job = ended_job(store, "m:latest", Ending("failed", "network", "cut short"))
    pass_days(store, 6)
    archive(store, tmp_path)
    pass_days(store, 1)
    archive(store, tmp_path)
    at = commands(store, tmp_path)

    assert at.show_job(job.id[:6], follow=False, json=False) == 0
    told = capsys.readouterr().out
    assert "network: cut short" in told
    assert "then try exactly the same again" in told
    assert at.retry(job.id, wait=False, json=True) == 0
    [again] = store.ledger().reader.jobs()
    assert (again.kind, again.request, again.attempts_allowed) == (job.kind, job.request, job.attempts_allowed)
    assert again.id != job.id
