"""The parts of a tick or a night that do not need one another: each has its turn, whichever of the others fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger

_TOLD = "the log tells of it"


def is_told(error: Exception) -> bool:
    """Whether the log tells of it already: on its way out of parts within parts an error is met several times."""
    return _TOLD in getattr(error, "__notes__", ())


def mark_told(error: Exception) -> None:
    """Say on it that the log tells of it."""
    if not is_told(error):
        error.add_note(_TOLD)


class NightParts:
    """
    Args:
        what: the whole, as in "tick".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.failed: dict[str, Exception] = {}
        """What went wrong, by the name of the part."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Do this, and go on behind it though it fails."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - `end` raises it, when the others have had their turn
            if not is_told(error):
                logger.error("{}: {} failed, the rest goes on: {}: {}", self._what, name, type(error).__name__, error)
            mark_told(error)
            self.failed[name] = error

    def end(self) -> None:
        """Raise the first thing that went wrong, with the names of all that did."""
        for error in self.failed.values():
            error.add_note(f"{self._what} did all but this: {', '.join(self.failed)}")
            raise error
