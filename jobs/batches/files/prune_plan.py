"""What is removed of the files of batches, and when. Pure: it is told what there is."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from jobs.batches.records import FileRecord

if TYPE_CHECKING:
    from jobs.batches.batch_store import Batch  # a plan of a night imports this file, and nothing that waits

WORK_KEPT = timedelta(hours=1)
"""What a batch worked on, after its end."""

UPLOAD_TAKES = timedelta(days=1)
"""An upload that nobody wrote to for so long was broken off."""

_OF_RESULTS = re.compile(r"file-([0-9a-f]+)-(?:output|error)-\d+")


@dataclass(frozen=True)
class StoredFiles:
    """What lies on the disk.

    Args:
        files: that are whole.
        work: folders of batches, by the batch's id, and when each was last written to.
        uploads: by the name of the folder, and when each was last written to.
        removed: names of folders that somebody was about to remove.

    """

    files: tuple[FileRecord, ...] = ()
    work: Mapping[str, datetime] | None = None
    uploads: Mapping[str, datetime] | None = None
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchPrunePlan:
    """What goes.

    Args:
        files: whole ones.
        work: the batches whose folders go.
        uploads: names of broken off uploads.
        removed: names of folders that somebody was about to remove.
        batches: ids of those that are forgotten.

    """

    files: tuple[FileRecord, ...] = ()
    work: tuple[str, ...] = ()
    uploads: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    batches: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "files": len(self.files),
            "bytes": sum(each.bytes for each in self.files),
            "work": len(self.work),
            "uploads": len(self.uploads) + len(self.removed),
            "batches": len(self.batches),
        }


def plan(
    stored: StoredFiles, batches: "Mapping[str, Batch]", now: datetime, *, keep: timedelta | None = None
) -> BatchPrunePlan:
    """What is to go now.

    Args:
        stored: what there is.
        batches: all that are known, by their ids.
        now: the time.
        keep: how long files, and batches after their end, stay that name no time themselves; None for ever.

    """
    before = now - keep if keep is not None else None
    return BatchPrunePlan(
        files=tuple(_files(stored.files, batches, now, before)),
        work=tuple(
            sorted(id for id, at in (stored.work or {}).items() if _has_served(batches.get(id), at, now, before))
        ),
        uploads=tuple(sorted(name for name, at in (stored.uploads or {}).items() if at <= now - UPLOAD_TAKES)),
        removed=tuple(sorted(stored.removed)),
        batches=forgotten(batches.values(), before),
    )


def forgotten(batches: "Iterable[Batch]", before: datetime | None) -> tuple[str, ...]:
    """The ids of batches that ended by then."""
    return tuple(
        each.id
        for each in batches
        if before is not None and each.has_ended and (each.ended_at or each.record.expires_at) <= before
    )


def _files(
    files: Iterable[FileRecord], batches: "Mapping[str, Batch]", now: datetime, before: datetime | None
) -> Iterator[FileRecord]:
    needed = {each.record.input_file_id for each in batches.values() if not each.has_ended}
    by_letters = {id.rpartition("_")[2]: batch for id, batch in batches.items()}
    for file in files:
        made = _OF_RESULTS.fullmatch(file.id)
        of = by_letters.get(made[1]) if made else None
        if file.id in needed or (of is not None and not of.has_ended):
            continue
        is_over = file.expires_at is not None and file.expires_at <= now
        is_old = file.expires_at is None and before is not None and file.created_at <= before
        # An attempt that lost its lease, or was killed, made these, and another one the batch's own.
        is_nobodys = (
            of is not None and of.end is not None and file.id not in {of.end.output_file_id, of.end.error_file_id}
        )
        if is_over or is_old or is_nobodys:
            yield file


def _has_served(batch: "Batch | None", written_at: datetime, now: datetime, before: datetime | None) -> bool:
    """Whether the folder of a batch is needed no more. One of which nothing is known may be all that is left of it."""
    if batch is None:
        return before is not None and written_at <= before
    return batch.end is not None and batch.end.at <= now - WORK_KEPT
