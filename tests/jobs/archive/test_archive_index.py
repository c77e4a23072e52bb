"""An archived job is found by its id and in the order of all, whether an index knows it or not."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from jobs.archive.archive_files import Archive
from jobs.archive.archived import JOBS, ArchivedJobs
from jobs.core.clock import isoformat
from jobs.core.progress import Reading
from jobs.ledger.job import Attempt, Job, JobState
from tests.support.counting_files import file_operations
from tests.support.crash_points import dies_at

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SMALL = 1_500
"""Bytes of a file: a few jobs."""


def job(number: int) -> Job:
    at = BEGAN + timedelta(seconds=number)
    attempt = Attempt(1, at, "w", timedelta(0), at, at, "succeeded")
    subject = f"m{number}:latest"
    id = f"{chr(97 + number * 7 % 26)}{number:09}-{number % 3 + 1}"
    return Job(
        id, "pull", subject, "weights", JobState.SUCCEEDED, {"model": subject}, 3, at, "test", (attempt,), Reading()
    )


def archived(folder: Path, *batches: range, rotate_at: int = SMALL, index: bool = True) -> ArchivedJobs:
    archive = Archive(folder, rotate_at=rotate_at)
    for batch in batches:
        archive.append(JOBS, (job(number).as_json() for number in batch))
        if index:
            archive.index(JOBS)
    return ArchivedJobs(archive)


def newest(jobs: ArchivedJobs, most: int | None = None) -> list[str]:
    with jobs.newest() as found:
        return [each.id for each in islice(found, most)]


def batches(count: int, each: int = 3) -> Iterator[range]:
    return (range(first, min(first + each, count)) for first in range(0, count, each))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 40])
def test_every_job_is_found(tmp_path: Path, count: int, index: bool) -> None:
    """By its id, by the beginning of it, counted, in a page, and since a moment: with an index or without one."""
    jobs, all_of_them = archived(tmp_path, *batches(count), index=index), [job(number) for number in range(count)]
    assert (tmp_path / "jobs.index").exists() == (index and count > 3)
    assert [jobs.find(each.id) for each in all_of_them] == all_of_them
    assert jobs.find("nobody-1") is None
    assert jobs.count() == count
    assert newest(jobs) == [each.id for each in reversed(all_of_them)]
    assert jobs.since(BEGAN + timedelta(seconds=5)) == all_of_them[5:]
    begin = [each for each in all_of_them if each.id.startswith("a")]
    assert sorted(jobs.beginning("a"), key=lambda each: each.age) == begin


def test_a_page_begins_where_another_ended(tmp_path: Path) -> None:
    """However long a page is, the next one goes on behind it: each job once, whichever file it is in."""
    archive, jobs = Archive(tmp_path, rotate_at=SMALL), archived(tmp_path, *batches(31))
    assert len([*tmp_path.glob("jobs.*.jsonl")]) > 5
    for length in (1, 4, 50):
        seen: list[str] = []
        while True:
            before = None if not seen else jobs.place(seen[-1])
            with jobs.newest(before) as found:
                page = [each.id for each in islice(found, length)]
            if not page:
                break
            seen += page
        assert seen == [job(number).id for number in reversed(range(31))]
    assert archive.index(JOBS) == 0


def test_jobs_that_came_out_of_order_are_in_order(tmp_path: Path) -> None:
    """A job that was archived long after those posted with it is listed where it was posted."""
    jobs = archived(tmp_path, range(10, 20), range(10), range(30, 40), range(20, 30))
    assert newest(jobs) == [job(number).id for number in reversed(range(40))]


def test_what_was_archived_twice_is_told_once(tmp_path: Path) -> None:
    """Within a file, across files, before an index and after it."""
    jobs = archived(tmp_path, range(6), range(6), range(4, 10), range(8, 12), range(12), range(12))
    assert newest(jobs) == [job(number).id for number in reversed(range(12))]
    assert jobs.count() == 12


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "torn head", "another version"])
def test_an_index_that_is_damaged_is_none(tmp_path: Path, damage: str) -> None:
    """Whatever became of the index, all jobs are told; and the next round makes it anew."""
    jobs, index = archived(tmp_path, *batches(20)), tmp_path / "jobs.index"
    whole = index.read_bytes()
    match damage:
        case "gone":
            index.unlink()
        case "empty":
            index.write_bytes(b"")
        case "cut":
            index.write_bytes(whole[:-1])
        case "torn head":
            index.write_bytes(whole[5:])
        case _:
            index.write_bytes(whole.replace(b'{"v":1', b'{"v":2'))
    assert newest(jobs) == [job(number).id for number in reversed(range(20))]
    assert jobs.find(job(3).id) == job(3)
    assert Archive(tmp_path, rotate_at=SMALL).index(JOBS) > 0
    assert index.read_bytes() == whole


def test_a_file_that_was_taken_away_takes_no_other_with_it(tmp_path: Path) -> None:
    """The jobs of a file that somebody removed are passed over, and no later file takes its number."""
    jobs = archived(tmp_path, *batches(20))
    *_, last = sorted(tmp_path.glob("jobs.*.jsonl"))
    lost = [number for number in range(20) if f'"{job(number).id}"' in last.read_text()]
    last.unlink()
    left = [job(number).id for number in reversed(range(20)) if number not in lost]
    assert newest(jobs) == left
    assert jobs.find(job(lost[0]).id) is None
    jobs = archived(tmp_path, range(20, 30), range(30, 32))
    assert not last.exists()
    assert newest(jobs) == [job(number).id for number in reversed(range(20, 32))] + left


def test_whoever_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Killed before any change to the disk, while jobs are appended, a file is set aside or the index is written: what
    was archived before is told whole and once, and the next round ends the work."""
    for step in range(1, 60):
        folder = tmp_path / str(step)
        archived(folder, *batches(10))
        has_died = dies_at(step, lambda: archived(folder, range(10, 16), range(16, 20)))  # noqa: B023 - called at once
        jobs = ArchivedJobs(Archive(folder, rotate_at=SMALL))
        told = newest(jobs)
        assert told[-10:] == [job(number).id for number in reversed(range(10))]
        assert len(set(told)) == len(told) == jobs.count()
        assert newest(archived(folder, range(10, 16), range(16, 20))) == [job(n).id for n in reversed(range(20))]
        if not has_died:
            return
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("count", [300, 600, 3_650])
def test_ten_years_cost_what_a_month_does(tmp_path: Path, count: int) -> None:
    """However many are archived: one is found, and a page is read, with the same few operations on files."""
    jobs = archived(tmp_path, *batches(count, 20), rotate_at=8_000, index=False)
    Archive(tmp_path).index(JOBS)
    opened = file_operations(lambda: jobs.find(job(count // 3).id))
    assert opened["open"] <= 3, opened
    paged = file_operations(lambda: newest(jobs, 20))
    assert paged["open"] <= 2 + 20 * 400 / 8_000 + 2, paged
    with suppress(StopIteration), jobs.newest(jobs.place(job(count // 2).id)) as found:
        assert next(found).id == job(count // 2 - 1).id


def test_a_private_home_stays_so(tmp_path: Path) -> None:
    """The archive's files are their owner's alone, as all of a home is: they tell who asked for what."""
    archived(tmp_path / "ops", *batches(20))
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "ops").rglob("*")}
    assert modes == {0}
    assert isoformat(BEGAN) in (tmp_path / "ops/jobs.00001.jsonl").read_text()
