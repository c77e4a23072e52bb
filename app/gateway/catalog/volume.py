"""The mounted volume as the gateway reads it: models, what is wrong with the rest, and the archive.

One thread reads at a time, because a volume cannot be brought up to date while a file of it is open. It is never
written.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from loguru import logger

from app.accounting import spending
from app.gateway.catalog.sources import Mounted
from jobs.access.audit_line import AuditLine
from jobs.archive.archived import ArchivedJobs, archive_at
from jobs.archive.audited import AuditQuery, archived_lines
from jobs.core.clock import Clock
from jobs.core.model_name import ModelName
from jobs.home.status import complaints
from jobs.ledger.job import Job, Place
from jobs.models.card import KnownModel
from jobs.weights import survey, trash
from jobs.weights.layout import Layout, ManifestFile
from jobs.weights.survey import Broken, Survey


class VolumeModels:
    """
    Args:
        root: where it is mounted.
        reload: brings in what others committed; RuntimeError while a file there is open.
        clock: for the age of what was read.
    """

    def __init__(self, root: Path, reload: Callable[[], None], clock: Clock) -> None:
        self._layout = Layout(root)
        self._archive = archive_at(root)
        self._archived = ArchivedJobs(self._archive)
        self._models = Mounted(self._layout, reload)
        self._reload = reload
        #: Held by whichever thread reads the volume, from before it is brought up to date until its files are closed.
        self._reading = threading.Lock()
        #: Made when it is first asked for after the models were read. Under `_reading`.
        self._complaints: Sequence[str] | None = None
        #: The versions in the trash, as the complaints. Under `_reading`.
        self._thrown: Collection[tuple[str, str]] | None = None
        #: Under `_reading`, as it reads the volume.
        self._past = spending.Past(self._archive, clock, self._bring_up_to_date)

    # A source of models

    def stamp(self, generation: Any) -> Any:
        return self._models.stamp(generation)

    def read(self) -> Sequence[KnownModel]:
        with self._reading:
            self._complaints = self._thrown = None
            return self._models.read()

    # What else is there

    def complaints(self) -> Sequence[str]:
        """What is wrong with models that are not whole, as of the last time that they were read."""
        with self._reading:
            if self._complaints is None:
                self._complaints = tuple(complaints(self._wrong()))
            return self._complaints

    def _wrong(self) -> Survey:
        """What complaints may be about, and no more where the index tells what there is."""
        told = self._models.told()
        if told is None:
            return survey.survey(self._layout)
        files = (ManifestFile(name, self._layout.manifest(name)) for name in sorted(told.broken))
        broken = (survey.read_model(self._layout, file) for file in files)
        return Survey(
            (), tuple(each for each in broken if isinstance(each, Broken)), survey.parts(self._layout), (), (), 0
        )

    def thrown(self) -> Collection[tuple[str, str]]:
        """The name and the digest of each version in the trash, as of the last time that the models were read."""
        with self._reading:
            if self._thrown is None:
                self._thrown = trash.versions(self._layout)
            return self._thrown

    def names_here(self, with_trash: bool) -> Sequence[ModelName]:
        """The models that are here, whole or not; with those of which the trash has a version."""
        with self._reading:
            self._bring_up_to_date()
            told = self._models.told()
            if told is None:
                return survey.survey(self._layout).names(trash=with_trash)
            thrown = trash.versions(self._layout) if with_trash else ()
            return [*told.whole, *told.broken, *(ModelName.parse(name) for name, _ in thrown)]

    @property
    def archived(self) -> "VolumeArchive":
        """The jobs that have left the ledger."""
        return VolumeArchive(self._archived, self._up_to_date)

    @contextmanager
    def _up_to_date(self) -> Iterator[None]:
        """Read alone what others have committed."""
        with self._reading:
            self._bring_up_to_date()
            yield

    def past(self) -> Mapping[str, Any]:
        """What has left the ledger's dict for the archive, by key; some minutes old at most."""
        with self._reading:
            return self._past()

    def audited(self, query: AuditQuery) -> Sequence[AuditLine]:
        """The lines of who did what that have left the ledger."""
        with self._up_to_date():
            return archived_lines(self._archive, query)

    def _bring_up_to_date(self) -> None:
        try:
            self._reload()
        except RuntimeError as error:
            logger.warning("the volume is read as it was: {}", error)


class VolumeArchive:
    """The archived jobs on the volume, as it is when somebody asks. Threads may share one, and wait for one another.

    Args:
        jobs: the same, of a volume that is up to date.
        up_to_date: keeps others from it meanwhile.

    """

    def __init__(self, jobs: ArchivedJobs, up_to_date: Callable[[], AbstractContextManager[None]]) -> None:
        self._jobs = jobs
        self._up_to_date = up_to_date

    def find(self, id: str) -> Job | None:
        with self._up_to_date():
            return self._jobs.find(id)

    def beginning(self, text: str) -> Sequence[Job]:
        with self._up_to_date():
            return self._jobs.beginning(text)

    @contextmanager
    def newest(self, before: Place | None = None) -> Iterator[Iterator[Job]]:
        with self._up_to_date(), self._jobs.newest(before) as jobs:
            yield jobs
