"""Where the files of batches lie: what was uploaded, what was made of results, and the folder of each batch at work.

    <root>/files/<file id>/record.json, content   a file; its folder is renamed in whole
    <root>/uploads/<file id>/…                    one that is on its way in
    <root>/removed/…                              one that is on its way out
    <root>/work/<batch id>/…                      what belongs to a batch until it is pruned (`jobs.batches.lines`)

On one machine the root is a folder of the home. In a deployment it is a volume that several containers mount: what one
writes is there for others once it has persisted it, and they have refreshed. A refresh fails while any file of the
mount is open, so none is held open between two calls. Contents are never logged.
"""

import json
import re
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from jobs.batches.files.batch_disk import BatchDisk
from jobs.batches.files.file_writer import MOST_FILE_BYTES, FileWriter
from jobs.batches.records import FilePurpose, FileRecord, new_file_id
from jobs.core.errors import NotFound
from jobs.store.files import flush_folder

_FILE_ID = re.compile(r"file-[a-z0-9][a-z0-9-]{0,100}")
_BATCH_ID = re.compile(r"[a-z0-9_]{1,100}")


class BatchStorage(BatchDisk):
    """Threads may share one."""

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
            id: its id where that is known before; what is there under it stays as it is.
            most_bytes: it is refused when it has more.

        """
        return FileWriter(
            self,
            FileRecord(
                id=id or new_file_id(),
                owner=owner,
                purpose=purpose,
                filename=filename,
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
        if found is None and self._refresh is not None and _FILE_ID.fullmatch(id):
            self.refresh()
            found = self._record(id)
        return found

    def files(self, owner: str | None = None) -> list[FileRecord]:
        """All files, or those of one owner, the newest first."""
        self.refresh()
        with self.using("listing files"):
            ids = self._names("files")
        records = filter(None, map(self._record, ids))
        mine = (each for each in records if owner is None or each.owner == owner)
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
        folder = self._folder(id)
        with self.using(f"removing {id}"):
            removed = self.root / "removed" / folder.name
            removed.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(removed, ignore_errors=True)
            try:
                folder.rename(removed)
            except FileNotFoundError:
                return False
            flush_folder(folder.parent)
            shutil.rmtree(removed, ignore_errors=True)  # what is left of it is pruned
        self.persist()
        return True

    # -- the folder of a batch -----------------------------------------------------------------------------------------

    def work(self, batch_id: str) -> Path:
        """The folder of a batch; whoever writes there first makes it.

        Raises:
            NotFound: that is no batch's id.

        """
        if not _BATCH_ID.fullmatch(batch_id):
            raise NotFound(f"there is no batch {batch_id!r}")
        return self.root / "work" / batch_id

    def drop_work(self, batch_id: str) -> None:
        """Remove the folder of a batch."""
        with self.using(f"removing what {batch_id} worked on"):
            shutil.rmtree(self.work(batch_id), ignore_errors=True)
        self.persist()

    def _names(self, folder: str) -> list[str]:
        try:
            return [path.name for path in (self.root / folder).iterdir()]
        except FileNotFoundError:
            return []

    def _folder(self, id: str) -> Path:
        if not _FILE_ID.fullmatch(id):
            raise NotFound(f"there is no file {id!r}")
        return self.root / "files" / id

    def _record(self, id: str) -> FileRecord | None:
        if not _FILE_ID.fullmatch(id):
            return None
        with self.using(f"reading {id}"):
            try:
                raw = (self._folder(id) / "record.json").read_bytes()
            except FileNotFoundError:
                return None
        return FileRecord.from_json(json.loads(raw))
