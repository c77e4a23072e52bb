"""Where the files of batches lie: what was uploaded, what was made of results, and the folder of each batch at work.

    <root>/files/<file id>/record.json, content   a file; its folder is renamed in whole
    <root>/uploads/<file id>/…                    one that is on its way in
    <root>/removed/…                              one that is on its way out
    <root>/work/<batch id>/…                      what belongs to a batch until it is pruned (`jobs.batches.lines`)

On one machine the root is a folder of the home. In a deployment it is a volume that several containers mount: what one
writes is there for others once it has persisted it, and they have refreshed. A refresh fails while any file of the
mount is open, so none is held open between two calls. Contents are never logged.
"""

import errno
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from loguru import logger

from jobs.batches.files.batch_disk import BatchDisk
from jobs.batches.files.file_writer import MOST_FILE_BYTES, FileWriter
from jobs.batches.files.prune_plan import BatchPrunePlan, StoredFiles
from jobs.batches.records import FilePurpose, FileRecord, new_file_id
from jobs.core import foreign
from jobs.core.clock import moment_of
from jobs.core.errors import Corrupt, NotFound
from jobs.store.files import flush_folder

LONGEST_NAME = 255
"""Characters of a file's name that are kept."""

_FILE_ID = re.compile(r"file-[a-z0-9][a-z0-9-]{0,100}")
_BATCH_ID = re.compile(r"[a-z0-9_]{1,100}")


class BatchStorage(BatchDisk):
    """Threads may share one."""

    #: The records that the last list of all files read: none changes while its file is there. Replaced as a whole.
    _known: Mapping[str, FileRecord] = MappingProxyType({})

    # -- files ---------------------------------------------------------------------------------------------------------

    def begin(
        self,
        owner: str,
        filename: str,
        *,
        purpose: FilePurpose = "batch",
        expires_at: datetime | None = None,
        id: str | None = None,
        most_bytes: int | None = MOST_FILE_BYTES,
    ) -> FileWriter:
        """A file that is written piece by piece; it is there when it has been finished.

        Args:
            owner: the key that it will belong to.
            filename: as whoever brings it calls it.
            purpose: a file of results has no limit, neither of its own nor by the quota.
            expires_at: when it may be removed.
            id: its id where that is known before: nobody has heard of it until it is finished.
            most_bytes: it is refused when it has more.

        """
        return FileWriter(
            self,
            FileRecord(
                id=id or new_file_id(),
                owner=owner,
                purpose=purpose,
                filename=filename[:LONGEST_NAME],
                bytes=0,
                created_at=self.clock.now(),
                expires_at=expires_at,
            ),
            most_bytes=most_bytes if purpose == "batch" else None,
        )

    def save(
        self,
        owner: str,
        filename: str,
        chunks: Iterable[bytes],
        *,
        purpose: FilePurpose = "batch",
        expires_at: datetime | None = None,
    ) -> FileRecord:
        """Write a file of these pieces.

        Raises:
            BadRequest: it is too large.
            QuotaExceeded: it has no place beside the others.
            DiskFull: nor on the disk. Nothing of it stays.

        """
        with self.begin(owner, filename, purpose=purpose, expires_at=expires_at) as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.finish()

    def file(self, id: str) -> FileRecord | None:
        """The file of this id; one that another container has just written is found, too. None where there is none."""
        found = self._record(id)
        if found is None and self.is_shared and _FILE_ID.fullmatch(id):
            self.refresh()
            found = self._record(id)
        return found

    def files(self, owner: str | None = None) -> list[FileRecord]:
        """All files, or those of one owner, the newest first."""
        self.refresh()
        with self.using("listing files"):
            ids = self.names("files")
        known = self._known
        found = {id: record for id in ids if (record := known.get(id) or self._record(id)) is not None}
        self._known = found
        mine = (each for each in found.values() if owner is None or each.owner == owner)
        return sorted(mine, key=lambda each: (each.created_at, each.id), reverse=True)

    def read(self, id: str, offset: int, size: int) -> bytes:
        """So many bytes of a file, fewer at its end, none beyond it.

        Raises:
            NotFound: there is no such file, or no longer.

        """
        content = self._folder(id) / "content"
        with self.using(f"reading {id}"):
            try:
                with content.open("rb") as file:
                    file.seek(offset)
                    return file.read(size)
            except FileNotFoundError:
                raise NotFound(f"there is no file {id!r}") from None

    def delete(self, id: str) -> bool:
        """Remove a file; false where there is none."""
        return self._persisted(self._remove(self._folder(id)))

    # -- the folder of a batch -----------------------------------------------------------------------------------------

    def work(self, batch_id: str) -> Path:
        """The folder of a batch; whoever writes there first makes it.

        Raises:
            NotFound: that is no batch's id.

        """
        if not _BATCH_ID.fullmatch(batch_id):
            raise NotFound(f"there is no batch {batch_id!r}")
        return self.root / "work" / batch_id

    def drop_work(self, batch_id: str) -> bool:
        """Remove the folder of a batch; false where there is none."""
        return self._persisted(self._remove(self.work(batch_id)))

    def names(self, folder: Literal["files", "uploads", "removed", "work"]) -> list[str]:
        """What lies in one of the folders, in no order."""
        try:
            return [path.name for path in (self.root / folder).iterdir()]
        except FileNotFoundError:
            return []

    # -- what is pruned ------------------------------------------------------------------------------------------------

    def stored(self) -> StoredFiles:
        """What lies here."""
        files = self.files()
        with self.using("listing what lies here"):
            return StoredFiles(
                tuple(files), self._written_at("work"), self._written_at("uploads"), tuple(self.names("removed"))
            )

    def follow(self, plan: BatchPrunePlan, *, still_ours: Callable[[], None] = lambda: None) -> None:
        """Remove what a plan says, but for the batches themselves.

        Args:
            plan: what goes.
            still_ours: raises when whoever asked may go on no more; asked before each step.

        """
        for file in plan.files:
            still_ours()
            self._remove(self._folder(file.id))
        for id in plan.work:
            still_ours()
            self._remove(self.work(id))
        for folder, names in (("uploads", plan.uploads), ("removed", plan.removed)):
            for name in names:
                still_ours()
                with self.using(f"removing {name}"):
                    shutil.rmtree(self.root / folder / name, ignore_errors=True)  # gone, or tried again the next time
        self.persist()

    def _written_at(self, folder: Literal["uploads", "work"]) -> dict[str, datetime]:
        """When something was last written to each of the folders below, as far as they are there."""
        found = {}
        for name in self.names(folder):
            path = self.root / folder / name
            try:
                times = [each.stat().st_mtime for each in (path, *path.iterdir())]
            except (FileNotFoundError, NotADirectoryError):
                continue
            found[name] = moment_of(max(times))
        return found

    def _remove(self, folder: Path) -> bool:
        """Have a folder gone at once, and its bytes soon."""
        removed = self.root / "removed" / f"{folder.name}.{secrets.token_hex(4)}"
        with self.using(f"removing {folder.name}"):
            try:
                self.make_folder(removed.parent)
                folder.rename(removed)
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                removed = folder  # there is no room for another name: what is removed makes some
            shutil.rmtree(removed, ignore_errors=removed != folder)  # what is left of it is pruned
            flush_folder(folder.parent)
        return True

    def _persisted(self, has_changed: bool) -> bool:
        if has_changed:
            self.persist()
        return has_changed

    def _folder(self, id: str) -> Path:
        if not _FILE_ID.fullmatch(id):
            raise NotFound(f"there is no file {id!r}")
        return self.root / "files" / id

    def _record(self, id: str) -> FileRecord | None:
        if not _FILE_ID.fullmatch(id):
            return None
        path = self._folder(id) / "record.json"
        with self.using(f"reading {id}"):
            try:
                raw = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            return FileRecord.from_json(foreign.document(raw, f"the record of {id}"))
        except (Corrupt, KeyError, TypeError, ValueError) as error:
            logger.warning("{} cannot be read, and counts as gone: {}", path, error)
            return None
