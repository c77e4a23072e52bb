"""Where results of a batch go: a file that is written beside its place and renamed in when it is whole, so nobody ever
reads half of one."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from jobs.cli.batches.batch_source import CSV_ENDINGS
from jobs.core.errors import Refused
from jobs.store.files import flush_folder, translated


class ResultsFile:
    """A file that results go to.

    Args:
        path: as it was typed; of a link, what it leads to.
        overwrite: what is there may be replaced.

    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.named = path
        self._path = Path(os.path.realpath(path))
        self._overwrite = overwrite

    @property
    def is_csv(self) -> bool:
        return self.named.suffix.lower() in CSV_ENDINGS

    def need(self) -> None:
        """Insist that it can be written, as far as that is known before.

        Raises:
            Refused: it is there already, or is no file, or its folder is not there or cannot be written.

        """
        folder = self._path.parent
        if self._path.exists() and not self._path.is_file():
            raise Refused(f"{str(self.named)!r} is no file that could be written", hint="name another by --out")
        if self._path.exists() and not self._overwrite:
            raise self._is_there()
        if not folder.is_dir():
            raise Refused(f"there is no folder {str(folder)!r} to write {self._path.name!r} into", hint="make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Refused(f"the folder {str(folder)!r} cannot be written", hint="name another file by --out")

    def need_other(self, source: Path) -> None:
        """Insist that it is not the file that is posted, by whatever name.

        Raises:
            Refused: it is: its lines would be lost, even where what is there may be replaced.

        """
        if self._path.exists() and source.exists() and self._path.samefile(source):
            raise Refused(f"{str(self.named)!r} is the file that is posted", hint="name another by --out")

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write it, whole or not at all.

        Raises:
            Refused: it has come to be there meanwhile.
            DiskFull: there is no room for it.

        """
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        with translated(f"writing {str(self.named)!r}"):
            try:
                with draft.open("xb") as file:
                    for piece in pieces:
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                self._publish(draft)
            finally:
                draft.unlink(missing_ok=True)
            flush_folder(self._path.parent)

    def _publish(self, draft: Path) -> None:
        if self._overwrite:
            draft.replace(self._path)
            return
        try:
            os.link(draft, self._path)  # refuses in one step what is there; not every file system has it
        except FileExistsError:
            raise self._is_there() from None
        except OSError:
            if self._path.exists():
                raise self._is_there() from None
            draft.replace(self._path)

    def _is_there(self) -> Refused:
        return Refused(f"{str(self.named)!r} is there already", hint="name another by --out, or replace it with --yes")
