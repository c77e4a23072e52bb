"""Modal's Volume in a container that mounts it: commit and reload, each with a limit."""

from datetime import timedelta

import modal

from app.platform.calls import run
from app.platform.errors import FilesOpen, NotReloaded
from app.platform.limits import LIMITS, CallLimits
from jobs.core.errors import NetworkTrouble


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
