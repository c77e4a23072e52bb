"""Watching a pull that an Ollama server does: what its frames mean, and when it has stopped moving.

Ollama repeats its frames sixteen times a second while nothing arrives, says nothing at all while it verifies, may take
back what it counted, and skips layers that were fast. So movement is measured by `completed`, silence has a budget by
phase, and only the word `success` ends it well.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jobs.core.errors import CutShort, ServerTrouble, Stalled, Trouble
from jobs.core.foreign import count
from jobs.core.progress import Progress
from jobs.core.sanitize import plain
from jobs.core.units import human_bytes
from jobs.ollama.errors import pull_trouble
from jobs.weights.manifest import MAX_LAYERS

VERIFYING = "verifying sha256 digest"

LONGEST_STATUS = 100
"""Characters of a frame's words: they are written down with each beat."""


class PullWatch:
    """Follows one `/api/pull` stream and moves `progress`.

    Args:
        doing: for messages, as in "pulling 'llama3.2' through http://127.0.0.1:11434".
        progress: moved over all layers together; its total grows as layers become known.
        stall: how long nothing may move while fetching.
        verify_budget: how long nothing may move from the moment the server verifies: it re-reads every new blob in
            one thread, on a network volume for minutes, without a frame.

    """

    def __init__(self, doing: str, progress: Progress, *, stall: timedelta, verify_budget: timedelta) -> None:
        self.succeeded = False
        self._doing = doing
        self._progress = progress
        self._stall = stall
        self._verify_budget = verify_budget
        self._limit = stall
        self._status = ""
        self._layers: dict[str, tuple[int, int]] = {}
        self._unfinished: set[str] = set()
        self._completed = self._total = 0  # of all layers together
        self._begin("asking the server to pull")

    def take(self, frame: Mapping[str, Any]) -> None:
        """Take in one frame.

        Raises:
            Trouble: the frame tells of an error, or nothing has moved for too long.

        """
        if "error" in frame:
            raise pull_trouble(str(frame["error"]), doing=self._doing)
        status = plain(frame.get("status", ""), LONGEST_STATUS)
        if status == "success":
            self.succeeded = True
            self._progress.begin("pulled")
            return
        if status == VERIFYING:
            self._limit = self._verify_budget
        if status != self._status:
            self._settle()
            self._begin(status)
        if digest := frame.get("digest"):
            self._count(plain(digest, LONGEST_STATUS), frame)
        self.require_movement()

    def require_movement(self) -> None:
        """Also called while no frame comes.

        Raises:
            Stalled: nothing has moved for too long.

        """
        idle = self._progress.idle_seconds
        if idle > self._limit.total_seconds():
            at = human_bytes(self._progress.read().completed)
            raise Stalled(
                f"{self._doing}: nothing moved for {idle:.0f} s at {self._status or 'the start'!r}, {at} in",
                hint="the server keeps what it has; the next attempt goes on from there",
            )

    def cut_short(self) -> Trouble:
        """What it means that the stream is over without success or error."""
        return CutShort(f"{self._doing}: the stream ended at {self._status or 'the start'!r}, before success")

    def _begin(self, status: str) -> None:
        self._status = status
        self._progress.begin(status)

    def _settle(self) -> None:
        """A new phase means that the layers before are whole, though their last frames need not have said so."""
        for digest in self._unfinished:
            total = self._layers[digest][1]
            self._layers[digest] = (total, total)
        self._unfinished.clear()
        self._completed = self._total
        self._progress.set_completed(self._completed)

    def _count(self, digest: str, frame: Mapping[str, Any]) -> None:
        total, completed = count(frame.get("total")), count(frame.get("completed"))  # zeros are left out on the wire
        if digest not in self._layers and len(self._layers) >= MAX_LAYERS:
            raise ServerTrouble(f"{self._doing}: the server tells of more than {MAX_LAYERS:,} layers")
        if digest not in self._layers:  # what it has of a layer when it begins with it was there before
            self._layers[digest] = (completed, 0)
            self._completed += completed
            self._progress.find(completed)
        had_completed, had_total = self._layers[digest]
        self._layers[digest] = (completed, total)
        (self._unfinished.discard if completed == total else self._unfinished.add)(digest)
        self._completed += completed - had_completed
        self._total += total - had_total
        if total != had_total:
            self._progress.set_total(self._total)
        self._progress.set_completed(self._completed)
