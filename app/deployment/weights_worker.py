"""What the weights worker does in its container: pull, verify and delete on the volume, and commit while it works."""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from loguru import logger

from app.accounting.archiving import archiving, is_archived
from app.accounting.spending import note_month
from app.deployment.volume_queries import weights_use
from app.deployment.worker_process import work
from app.deployment.worker_timing import COMMIT_EVERY
from app.fleet.schema import Fleet, declared
from app.resources import MODELS, queue, volume
from app.resources import ledger as facts
from app.scheduler.absence import note_old_archive
from jobs.access.keys.key_copy import copy_at, keep_keys
from jobs.archive.archived import archive_at
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import StoreTrouble, Trouble
from jobs.core.model_name import ModelName
from jobs.ledger.kinds import WEIGHTS_LANE
from jobs.ledger.ledger import Ledger
from jobs.models import index
from jobs.models.card import facts_of
from jobs.models.index import Index
from jobs.registry.client import Registry
from jobs.registry.mirror import mirrors, tokens
from jobs.store import keys
from jobs.store.by_sort import DictBySort
from jobs.store.protocols import DictLike, ShrinkingDict
from jobs.tasks.context import TaskContext
from jobs.tasks.table import perform
from jobs.weights import staging, survey
from jobs.weights.directory import ModelsDirectory, PublishedManifest
from jobs.weights.layout import ManifestFile
from jobs.weights.manifest import Manifest
from jobs.weights.survey import Survey
from jobs.worker.worker import Perform

AT_ONCE = 4
"""Pulls side by side: each has connections of its own, and a CPU container a line that one pull seldom fills."""

_RUNNING_COMMIT = timedelta(seconds=10)
"""For a commit that runs when the work has ended: of the thirty seconds that the platform grants to a container it
takes away, the worker's own grace may have used fifteen. Whatever a job has finished, it has committed itself."""


COPIED_EVERY = timedelta(minutes=1)
"""How often the keys are copied while jobs are at work: by one listing."""

KEYS_LOCK = Path(tempfile.gettempdir(), "keys.lock")
"""The volume has no locks, and this is its only writer."""


class Commits(Protocol):
    """The part of a volume that a worker uses; `modal.Volume` has it, and so does `LimitedVolume`."""

    def commit(self) -> object:
        """Publish what is written here."""

    def reload(self) -> object:
        """Bring in what others wrote; RuntimeError when it stays as it was."""


class _Surveyed(ModelsDirectory):
    """Keeps the last survey, so that what a job has looked through is not looked through again for it."""

    #: Replaced as a whole by the thread of any job; read under the directory's lock, or while no job is at work.
    last_survey: Survey | None = None

    def survey(self) -> Survey:
        self.last_survey = super().survey()
        return self.last_survey


class MountedWeights:
    """The volume, as the one container that writes it sees it.

    Args:
        volume: commit and reload.
        root: where it is mounted.
        facts: the ledger's dict, where servers look whether the weights have changed.
        clock: for waits.

    """

    def __init__(self, volume: Commits, root: Path, facts: DictLike, clock: Clock) -> None:
        self.root = root
        self._volume = volume
        self._facts = facts
        self._clock = clock
        #: Held by whoever commits: one at a time.
        self._committing = threading.Lock()
        #: What was told last, and as which generation; None until all was surveyed and told. These six are written
        #: under the directory's lock, or while no job is at work.
        self._told: Index | None = None
        self._generation: object = None
        #: Whether something went since the last survey, which then counted too much.
        self.has_shrunk = False
        #: What the header of each whole model says, by digest.
        self._memory_facts: dict[str, dict[str, Any] | None] = {}
        #: What the last survey found taken, and the blobs that models had then: what came since is added to it. What
        #: went lies in the trash, or is counted until the next survey.
        self._surveyed_bytes = 0
        self._surveyed_digests: Mapping[str, int] = {}
        lock = Path(tempfile.gettempdir(), "weights.lock")  # the volume has no locks, and this is its only writer
        self.weights = _Surveyed(
            root, lock=lock, persist=self._persist, clock=clock, disk_counts=False, published=self._published
        )

    def open(self) -> None:
        """Bring in what others committed, and make what is missing of a models directory."""
        self._told = self.weights.last_survey = None
        try:
            self._volume.reload()
        except RuntimeError as error:
            # A thread of the call before still holds a file, or the platform fails for now. Then it is as this
            # container left it, or found it when it started; and nobody else writes here.
            logger.warning("the volume is not reloaded: {}", error)
        self.weights.prepare()

    def commit(self) -> None:
        with self._committing:
            self._volume.commit()

    def publish_models(self) -> None:
        """Look at everything, and write down what others go by: the index for servers, and for those who do not mount
        the volume what decides on which tier its models belong. Servers hear of it where the index was another.
        """
        known = (None if self.has_told or self.weights.changed else self._seen_by_a_job()) or self._survey()
        generation = self._facts.get(keys.WEIGHTS_GENERATION)
        if index.read(self.weights.layout, generation) == known:
            self._tell_models(known)
            self._told, self._generation = known, generation
        else:
            self._tell(known)

    def _seen_by_a_job(self) -> Index | None:
        """What a job's survey found, where that is what was told; with what jobs have staged since."""
        seen, known = self.weights.last_survey, self._still_told()
        if seen is not None and known is not None:
            staged = sum(each.size for each in staging.folders(self.weights.layout.staging))
            self._surveyed_bytes += staged - sum(each.size for each in seen.stagings)
        return known

    @property
    def has_told(self) -> bool:
        """Whether this worker has told anybody what there is."""
        return self._told is not None

    def _survey(self) -> Index:
        return self._noted(self.weights.survey())

    def _noted(self, surveyed: Survey) -> Index:
        found = Index.of(surveyed.known)
        self._surveyed_bytes, self._surveyed_digests, self.has_shrunk = surveyed.usage_bytes, _digests(found), False
        return found

    def _persist(self) -> None:
        """Commit what a reader may see from now on, and only then tell the servers of it.

        Only what has changed is looked at, and what was broken before: a blob of it may have come.
        """
        before, changed = self._still_told(), dict(self.weights.changed)
        known = self._survey() if before is None else self._looked_again(before, changed)
        if before == known and not changed:
            self.commit()  # blobs that no reader asks for, yet or any more
            return
        self._tell(known)
        self.weights.changed.clear()
        went = self._surveyed_digests.keys() - _digests(known).keys()
        self.has_shrunk = self.has_shrunk or bool(went) or self.weights.layout.trash in changed

    def _tell(self, known: Index) -> None:
        """The generation comes last: who reads it finds the rest. Where it does not come, no index is of it."""
        generation = secrets.token_hex(8)
        try:
            index.write(self.weights.layout, known, generation)
        except OSError as error:  # it is a copy; what it was to save is done by those who read
            logger.warning("the index is not written, so servers look through all manifests: {}", error)
        self.commit()
        self._tell_models(known)
        self._facts.put(keys.WEIGHTS_GENERATION, generation)
        self._told, self._generation = known, generation

    def _published(self) -> Iterator[PublishedManifest] | None:
        """What all manifests say: what this worker has found and told, and of a model that was broken or that it has
        changed since, what its manifest says now. None where that may not be all.

        The index on the volume has no say in it: it may be another's, or older than what is there.
        """
        known = self._still_told()
        if known is None:
            return None
        layout = self.weights.layout
        again = self._to_look_at(known, self.weights.changed)
        files = [ManifestFile(name, path) for name in again if (path := layout.manifest(name)).is_file()]
        sure = ((ManifestFile(name, layout.manifest(name)), manifest) for name, manifest in known.whole.items())
        return chain((each for each in sure if each[0].name not in again), survey.read_manifests(layout, files))

    def _still_told(self) -> Index | None:
        """What was told last: by us, while nobody else has told anything since, as a worker of an older deployment may;
        else by a worker before, where a job's survey found just that. None else, or when that cannot be learnt.

        What has changed since is in `changed`.
        """
        try:
            generation = self._facts.get(keys.WEIGHTS_GENERATION)
        except StoreTrouble:
            return None
        surveyed = self.weights.last_survey
        if self._told is None and surveyed is not None:
            known = Index.of(surveyed.known)
            if index.read(self.weights.layout, generation) == known:
                self._noted(surveyed)
                self._told, self._generation = known, generation
        return self._told if generation == self._generation else None

    def _to_look_at(self, known: Index, changed: Mapping[Path, Manifest | None]) -> Mapping[ModelName, Manifest | None]:
        """The models of which nobody knows how they are now; with one that was published, its manifest."""
        manifests = self.weights.layout.manifests
        again: dict[ModelName, Manifest | None] = dict.fromkeys(known.broken)
        for path, told in changed.items():
            if path.is_relative_to(manifests):
                again[ModelName(*path.relative_to(manifests).parts)] = told
        return again

    def _looked_again(self, known: Index, changed: Mapping[Path, Manifest | None]) -> Index:
        layout = self.weights.layout
        again = self._to_look_at(known, changed)
        whole, broken = dict(known.whole), set(known.broken)
        for name, told in again.items():
            whole.pop(name, None)
            broken.discard(name)
            path = layout.manifest(name)
            if told is not None:
                whole[name] = told
            elif path.is_file() and (found := survey.read_model(layout, ManifestFile(name, path))) is not None:
                if isinstance(found, survey.SurveyedModel):
                    whole[name] = found.manifest
                else:
                    broken.add(name)
        return Index(whole, frozenset(broken))

    def _tell_models(self, known: Index) -> None:
        facts = {each.digest: self._facts_of(each) for each in known.whole.values()}
        self._memory_facts = facts
        told = {
            str(name.folded()): {"size": each.size, "facts": facts[each.digest]} for name, each in known.whole.items()
        }
        self._facts.put(keys.WEIGHTS_MODELS, told)
        came = sum(size for digest, size in _digests(known).items() if digest not in self._surveyed_digests)
        self._facts.put(keys.WEIGHTS_ROOM, {"v": 1, "used": self._surveyed_bytes + came})

    def _facts_of(self, manifest: Manifest) -> dict[str, Any] | None:
        if manifest.digest in self._memory_facts:
            return self._memory_facts[manifest.digest]
        facts = facts_of(self.weights.layout, manifest)
        return facts.as_json() if facts else None

    @contextmanager
    def committing(
        self,
        every: timedelta = COMMIT_EVERY,
        last_within: timedelta = _RUNNING_COMMIT,
        before_each: Callable[[], object] = lambda: None,
    ) -> Iterator[None]:
        """Commit every few seconds, so that a container that is killed loses no more; once more at the end.

        Not then when the platform's store has ended the work, or when a commit that runs does not end `last_within`:
        that would hold up who leaves, and the platform commits by itself when the container ends.
        """
        done, leaves_at_once = threading.Event(), False
        # A daemon: a commit that is never answered must not keep the process either.
        args = (done.wait, every, before_each)
        thread = threading.Thread(target=self._commit_until, args=args, name="commits", daemon=True)
        thread.start()
        try:
            yield
        except StoreTrouble:
            leaves_at_once = True
            raise
        finally:
            done.set()
            thread.join(last_within.total_seconds())
            if thread.is_alive():
                logger.error("a commit still runs after {:.0f} s; it is left to itself", last_within.total_seconds())
            elif not leaves_at_once:
                self._commit_last()

    def _commit_last(self) -> None:
        """What ended the work counts, not that this fails: the platform commits once more when the container ends."""
        try:
            self.commit()
        except Trouble as trouble:
            logger.error("the last commit of this call failed: {}", trouble)

    def _commit_until(self, done: Callable[[float], bool], every: timedelta, before_each: Callable[[], object]) -> None:
        while not done(every.total_seconds()):
            try:
                before_each()
                self.commit()
            except Exception as error:  # noqa: BLE001 - the next one is due soon, and the last one is not caught
                logger.warning("a commit failed: {}: {}", type(error).__name__, error)


def _digests(known: Index) -> dict[str, int]:
    """The size of each blob that whole models refer to."""
    return {layer.digest: layer.size for manifest in known.whole.values() for layer in manifest.blobs}


def run() -> bool:
    """Work the weights lane in this container; false when there is more to do but its time is up."""
    clock, fleet = SystemClock(), declared()
    ledger = Ledger(queue, facts, clock)
    registry = Registry(
        clock=clock, mirrors=mirrors(os.environ), tokens=tokens(os.environ), registries=fleet.may_pull_from()
    )
    mounted = MountedWeights(volume, Path(MODELS), facts, clock)
    with performing(ledger, facts, mounted, registry=registry, fleet=fleet, clock=clock) as perform:
        is_done = work(ledger, facts, WEIGHTS_LANE, perform, clock, concurrency=AT_ONCE)
    _move(facts)
    return is_done


@contextmanager
def performing(
    ledger: Ledger, facts: ShrinkingDict, mounted: MountedWeights, *, registry: Registry, fleet: Fleet, clock: Clock
) -> Iterator[Perform]:
    """What performs one attempt on the volume. Once the work is done, what the Dict would forget is told again, or
    archived; before the first claim nothing is looked through.

    Not when it was broken off: whoever is taken away has no time, and the night sends another one.
    """
    mounted.open()
    context = TaskContext(
        clock=clock,
        registry=registry,
        weights=mounted.weights,
        retention=fleet.retention(),
        weights_use=lambda: weights_use(ledger.reader, facts),
    )
    copied = KeysCopied(facts, mounted.root, clock)
    with mounted.committing(before_each=copied.if_due):
        yield lambda run: perform(run, context)
        copied.once_more()
        if mounted.has_shrunk or not mounted.has_told:
            _publish_models(mounted)
        _archive(ledger, facts, mounted, fleet, clock)


class KeysCopied:
    """Has the copy of the keys brought up to date while jobs are at work: a pull may take hours, and whoever revoked a
    key waits for none. The thread that commits owns it.
    """

    def __init__(self, facts: ShrinkingDict, root: Path, clock: Clock) -> None:
        self._facts = facts
        self._path = copy_at(root)
        self._clock = clock
        self._due = clock.monotonic()

    def if_due(self) -> None:
        now = self._clock.monotonic()
        if now >= self._due:
            self._due = now + COPIED_EVERY.total_seconds()
            self._copy()

    def once_more(self) -> None:
        """Called when everybody could know that this worker leaves: whoever changed a key before sent for no other one.
        Any thread may call it."""
        try:
            self._copy()
        except Trouble as trouble:  # the next worker does it, at the latest that of the night
            logger.warning("the copy of the keys may lack what changed last: {}", trouble)

    def _copy(self) -> None:
        keep_keys(self._facts, self._path, self._clock.now(), lambda: None, lock=KEYS_LOCK)


def _move(facts: DictBySort) -> None:
    """Bring what an older version left among the jobs to where it belongs. Until then it is found there as well."""
    try:
        facts.move()
    except StoreTrouble as trouble:
        logger.warning("what an older version stored is not moved yet: {}", trouble)


def _publish_models(mounted: MountedWeights) -> None:
    """Once more, because a Dict forgets in seven days what nobody touches. Every change of them writes it, too."""
    try:
        mounted.publish_models()
    except Trouble as trouble:  # the platform's; what was not told now is told with the next change
        logger.warning("what models there are is not told again: {}", trouble)


def _archive(ledger: Ledger, facts: ShrinkingDict, mounted: MountedWeights, fleet: Fleet, clock: Clock) -> None:
    """Take what is old out of the Dict. It can wait for the next call, and no pull should wait for it. It lists all
    jobs, which is not done again for an hour."""
    archive = archive_at(mounted.root)
    if is_archived(facts, clock.now()):
        return
    try:
        note_old_archive(facts, archive, clock.now())
        sum(archiving(ledger, facts, archive, clock.now(), mounted.commit, lock=KEYS_LOCK))
        note_month(facts, archive, fleet, clock.now())
    except Exception as error:  # noqa: BLE001 - nothing is removed before it is committed, so nothing is lost
        logger.opt(exception=error).error("the archive could not be brought up to date")
