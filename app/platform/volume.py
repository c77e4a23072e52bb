"""Modal's Volume, each call with a limit: commit and reload where it is mounted, files put and fetched from afar."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import modal

from app.platform.calls import run
from app.platform.errors import FilesOpen, NotReloaded
from app.platform.limits import LIMITS, CallLimits
from jobs.core.errors import NetworkTrouble, NotFound


class LimitedVolume:
    """A `modal.Volume`, in a container that mounts it."""

    def __init__(self, volume: modal.Volume, limits: CallLimits = LIMITS) -> None:
        self._volume = volume
        self._limits = limits

    def commit(self) -> None:
        """Make what is written here visible elsewhere.

        Raises:
            NetworkTrouble: the platform does not take it now; what is written stays here, and may be committed later.
            Trouble: it never will.

        """
        run(
            self._volume.commit.aio,
            of="service",
            doing="committing the volume",
            within=self._limits.commit,
            retry=self._limits.commit_retry,
        )

    def reload(self, within: timedelta | None = None) -> None:
        """Bring in what others committed. Once: whoever wants it soon knows how soon.

        Args:
            within: less than the usual limit, where somebody is held up meanwhile.

        Raises:
            FilesOpen: it stays as it was until a file there is closed.
            NotReloaded: a RuntimeError, too. It stays as it was, for now.
            Trouble: and for ever.

        """
        usual = self._limits.reload
        limit = usual if within is None else min(within, usual)
        try:
            run(self._volume.reload.aio, of="service", doing="reloading the volume", within=limit)
        except NetworkTrouble as trouble:
            # The client makes a plain RuntimeError of FAILED_PRECONDITION, and of nothing else that is for now.
            kind = FilesOpen if type(trouble.__cause__) is RuntimeError else NotReloaded
            raise kind(str(trouble), hint=trouble.hint) from trouble


class RemoteVolume:
    """A `modal.Volume`, from where it is not mounted. What is put there is committed."""

    def __init__(self, volume: modal.Volume, limits: CallLimits = LIMITS) -> None:
        self._volume = volume
        self._limits = limits

    def put(self, files: Mapping[str, Path], mode: int = 0o600) -> None:
        """Have these files there, by their paths on it, all of them or none; what is there under a path is replaced."""

        async def put() -> None:
            await self._volume.hydrate.aio()
            async with self._volume.batch_upload(force=True) as batch:
                for path, file in files.items():
                    batch.put_file(file, path, mode)

        run(put, of="service", doing="putting files on the volume", within=self._limits.transfer)

    def fetch(self, path: str, into: BinaryIO) -> None:
        """Write what the file has at this path.

        Raises:
            NotFound: there is none.

        """

        async def fetch() -> None:
            try:
                async for piece in self._volume.read_file.aio(path):
                    into.write(piece)
            except FileNotFoundError:
                raise NotFound(f"there is no file {path!r} on the volume") from None

        run(
            fetch,
            of="service",
            doing=f"fetching {path} from the volume",
            within=self._limits.listing,
            moved=into.tell,
        )

    def bytes_in(self, folder: str) -> int:
        """What all files under a folder take; none where there is none."""

        async def sizes() -> int:
            try:
                return sum([entry.size async for entry in self._volume.iterdir.aio(folder)])
            except modal.exception.NotFoundError:
                return 0

        return run(
            sizes,
            of="service",
            doing=f"listing {folder} on the volume",
            within=self._limits.request,
            retry=self._limits.retry,
        )
