"""Finds the line that kills its worker, so that it is an error and the others have their answers.

<work>/sent.json   which lines an attempt sent first, and of how many that died before they were among the first

Lines go in one order, so one that kills is soon among the first that have no result. Those that were so when `OFTEN`
attempts in a row died are sent by themselves, each written down before; one with which alone the worker has died in
`TOO_OFTEN` in a row is given up. An attempt that was not killed forgets all of it.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from jobs.batches.files.storage import BatchStorage
from jobs.ledger.job import Job
from jobs.store.private_files import opener

FIRST = 16
"""Lines that are written down as those that an attempt sends first."""

OFTEN, TOO_OFTEN = 2, 5


class CrashMarks:
    """Of one attempt; one thread at a time uses it.

    Args:
        storage: where the mark lies.
        job: of the batch, as it was claimed.
        is_done: whether a line has a result.
        batch_id: the batch.

    """

    def __init__(self, storage: BatchStorage, batch_id: str, job: Job, is_done: Callable[[int], bool]) -> None:
        self._storage = storage
        self._path = storage.work(batch_id) / "sent.json"
        self._attempt = len(job.attempts)
        self._name = job.id
        self._deaths: dict[int, int] = {}
        self._was_alone = False
        self._read(was_lost=len(job.attempts) > 1 and job.attempts[-2].outcome == "lost", is_done=is_done)

    @property
    def suspects(self) -> Sequence[int]:
        """Lines that go by themselves."""
        return sorted(line for line, deaths in self._deaths.items() if deaths >= OFTEN)

    @property
    def killer(self) -> tuple[int, int] | None:
        """The line that kills its worker, and how often it has; None where none is known."""
        if not self._was_alone:
            return None
        return next(((line, deaths) for line, deaths in self._deaths.items() if deaths >= TOO_OFTEN), None)

    def write_first(self, lines: Iterable[int]) -> None:
        """Write down which lines go first; before they do."""
        self._write({line: self._deaths.get(line, 0) for line in lines}, is_alone=False)

    def write_alone(self, line: int) -> None:
        """Write down which line goes by itself; before it does."""
        self._write({line: self._deaths.get(line, 0)}, is_alone=True)

    def _read(self, *, was_lost: bool, is_done: Callable[[int], bool]) -> None:
        if not was_lost:
            return
        with self._storage.using("reading which lines were sent first"):
            try:
                mark = json.loads(self._path.read_bytes())
            except (FileNotFoundError, ValueError):
                return
        if mark.get("attempt") != self._attempt - 1 or mark.get("job") != self._name:
            return
        lines = {int(line): int(deaths) + 1 for line, deaths in mark["lines"].items()}
        self._deaths = {line: deaths for line, deaths in lines.items() if not is_done(line)}
        self._was_alone = bool(mark["alone"])

    def _write(self, lines: Mapping[int, int], *, is_alone: bool) -> None:
        mark = {"v": 1, "job": self._name, "attempt": self._attempt, "alone": is_alone, "lines": lines}
        beside = self._path.with_suffix(".new")
        with self._storage.using("writing down which lines are sent first"):
            with open(beside, "w", opener=opener) as file:
                json.dump(mark, file)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self._path)
        self._storage.persist()
