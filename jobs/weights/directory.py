"""The models directory: what is in it, whether it is ours to write, the lock that keeps writers apart, and publishing.

A model is published blobs first, then manifest, each by rename, so that a reader at any instant sees the whole model or
none of it; `removal` goes the other way round. Whoever writes holds the lock, and asks before each step that shows
whether the work is still ours. It fetches nothing and schedules nothing.
"""

import errno
import fcntl
import os
import shutil
import stat as modes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.core.clock import Clock
from jobs.core.errors import Corrupt, NotEnoughRoom, NotWritable, QuotaExceeded, Refused
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.core.units import human_bytes
from jobs.store.files import flush_folder, translated
from jobs.weights import trash
from jobs.weights.checksum import Damage, verify
from jobs.weights.layout import INDEX, Layout, ManifestFile, entries, is_inside, make_folder, stat_file
from jobs.weights.manifest import Layer, Manifest
from jobs.weights.staging import Staging, release, take_over
from jobs.weights.survey import (
    BlobState,
    Broken,
    Survey,
    SurveyedModel,
    blob_state,
    read_manifest,
    read_manifests,
    read_model,
    read_models,
    survey,
)

PublishedManifest = tuple[ManifestFile, Manifest | Corrupt]
"""A manifest, or what is wrong with it."""

_LOCK_POLL_SECONDS = 0.05

_READABLE = modes.S_IRUSR | modes.S_IWUSR | modes.S_IRGRP | modes.S_IROTH


class ModelsDirectory:
    """A models directory.

    Args:
        root: the directory that `OLLAMA_MODELS` names; need not exist yet.
        lock: file whose flock keeps writers apart; better not on the volume itself.
        persist: called when what was written must last and be seen elsewhere (a volume's commit).
        clock: for the age of leftovers and for waiting on the lock.
        disk_counts: whether the file system's own numbers mean something; those of a network volume do not.
        published: what all manifests say, torn ones too, from whoever is the only one that writes here and so knows;
            None where they are to be read, as where an Ollama may write manifests of its own. Asked under the lock.

    """

    def __init__(
        self,
        root: Path,
        *,
        lock: Path,
        persist: Callable[[], None],
        clock: Clock,
        disk_counts: bool = True,
        published: Callable[[], Iterable[PublishedManifest] | None] = lambda: None,
    ) -> None:
        self.layout = Layout(root)
        self._published = published
        #: A file: its flock is what keeps writers apart, threads, processes and containers alike. Beside it only
        #: `changed` is written after this.
        self._lock = lock
        self.persist = persist
        #: What readers are to hear of: manifests, blobs that were mended, the trash. With a manifest's path goes the
        #: whole model that is known to stand there now. Whoever holds the lock adds one before it changes; `persist`
        #: may take out what it told of.
        self.changed: dict[Path, Manifest | None] = {}
        self.clock = clock
        self._disk_counts = disk_counts

    # Reading

    def models(self) -> list[SurveyedModel]:
        """All whole models, by name."""
        return sorted(
            (each for each in read_models(self.layout) if isinstance(each, SurveyedModel)), key=lambda model: model.name
        )

    def known(self, name: ModelName | None = None) -> list[SurveyedModel | Broken]:
        """What stands behind each manifest, whole or broken, by name; or behind those of one name in any case."""
        files = self.layout.manifest_files() if name is None else self.files_of(name)
        known = (read_model(self.layout, file) for file in files)
        return sorted((each for each in known if each is not None), key=lambda each: each.name)

    def find(self, name: ModelName) -> SurveyedModel | None:
        """The whole model of this name in any case, under the spelling it is stored with."""
        for file in self.files_of(name):
            model = read_model(self.layout, file)
            if isinstance(model, SurveyedModel):
                return model
        return None

    def files_of(self, name: ModelName) -> list[ManifestFile]:
        """Manifest files of this name in any case, the exact spelling first."""
        return self.layout.files_called(name)

    def survey(self) -> Survey:
        return survey(self.layout)

    def blob_state(self, layer: Layer) -> BlobState:
        return blob_state(self.layout, layer)

    def verify(
        self, layers: Iterable[Layer], *, progress: Progress | None = None, check: Callable[[], None] = lambda: None
    ) -> list[Damage]:
        """Hash these blobs where they are published; the damaged ones."""
        blobs = [(self.layout.blob(layer.digest), layer) for layer in {each.digest: each for each in layers}.values()]
        return verify(blobs, progress=progress, check=check)

    # Room and rights

    def is_ours(self) -> bool:
        """Whether we may write here; makes the folders that are missing."""
        try:
            self.prepare()
        except NotWritable:
            return False
        return True

    def prepare(self) -> None:
        """Make what is missing of a models directory.

        Raises:
            NotWritable: it is not ours, not on one file system, or something else than a models directory.

        """
        root = self.layout.root
        ours = (self.layout.blobs, self.layout.manifests, self.layout.staging)
        with translated(f"preparing the models directory {str(root)!r}"):
            device = _device_of(root)
            if device is not None and all(_is_plainly_ours(folder, device) for folder in ours):
                return
            here = [folder for folder in (root, *ours) if folder.is_dir()]
            for folder in (root, *ours):
                if folder not in here and os.path.lexists(folder) and not folder.is_dir():  # somebody makes it just now
                    raise NotWritable(f"{str(folder)!r} is no directory", hint="name another models directory")
            if not any(folder in here for folder in ours[:2]) and (names := self._foreign_entries()):
                raise NotWritable(
                    f"{str(root)!r} does not look like a models directory: it has neither blobs nor manifests,"
                    f" but {', '.join(map(repr, names[:3]))}",
                    hint="name an empty directory, or the one that OLLAMA_MODELS names",
                )
            if root not in here:
                root.mkdir(parents=True, exist_ok=True)
            device = root.stat().st_dev
            for folder in ours:
                if folder not in here:
                    make_folder(folder, below=root)
                self.require_ours(folder, device)

    def _foreign_entries(self) -> list[str]:
        expected = {"blobs", "manifests", "staging", "trash", "lost+found", INDEX, self._lock.name}
        names = (entry.name for entry in entries(self.layout.root))
        return [name for name in names if name not in expected and not name.startswith(".")]

    def require_ours(self, folder: Path, device: int) -> None:
        """Refuse a folder that is a link elsewhere, is on another device than the root's, or cannot be written."""
        root = self.layout.root
        if _is_plainly_ours(folder, device):
            return
        if not is_inside(folder, root):
            raise NotWritable(
                f"{str(folder)!r} is a link out of the models directory",
                hint="models can be read through it; write them where it points to",
            )
        if folder.stat().st_dev != device:
            raise NotWritable(
                f"{str(folder)!r} is on another file system than {str(root)!r}, so nothing can be renamed in"
            )
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise NotWritable(
                f"{str(folder)!r} cannot be written by user {os.geteuid()}",
                hint="let this user own the models directory, or name another one",
            )

    def room_for(
        self, bytes_needed: int, quota: int | None = None, *, could_go: Callable[[Survey], str] = lambda _: ""
    ) -> None:
        """Refuse what cannot fit, before a byte is fetched. `bytes_needed` is what is still to come.

        `could_go` words what could be freed; it becomes the hint.

        Raises:
            QuotaExceeded: the weights would outgrow their quota.
            NotEnoughRoom: the disk has not that much left.

        """
        weights = self.survey()
        free = self._free_bytes()
        in_trash = f", {human_bytes(weights.trash_bytes)} of it in the trash" if weights.trash else ""
        on_disk = "" if free is None else f", {human_bytes(free)} free on disk"
        if quota is not None and weights.usage_bytes + bytes_needed > quota:
            raise QuotaExceeded(
                f"{human_bytes(bytes_needed)} needed, but the weights use {human_bytes(weights.usage_bytes)}"
                f" of a quota of {human_bytes(quota)}{in_trash}{on_disk}",
                hint=could_go(weights) or None,
            )
        if free is not None and bytes_needed > free:
            raise NotEnoughRoom(
                f"{human_bytes(bytes_needed)} needed, but the disk has {human_bytes(free)} free",
                hint=could_go(weights) or None,
            )

    def _free_bytes(self) -> int | None:
        root = self.layout.root
        folder = next((each for each in (root, *root.parents) if each.exists()), None)
        if not self._disk_counts or folder is None:
            return None
        usage = shutil.disk_usage(folder)
        return usage.free if usage.total > 0 else None

    # Staging

    def stage(self, subject: str, holder: str, *, still_ours: Callable[[], None] = lambda: None) -> Staging:
        """A folder of this holder's own, with whatever earlier holders of the subject have fetched.

        Args:
            subject: what the bytes are for, as the ledger names it.
            holder: unique to the attempt; an earlier holder finds its folder gone.
            still_ours: raises when the attempt is not ours any more.

        """
        self.prepare()
        with self.exclusive(still_ours), translated(f"staging {subject!r}"):
            still_ours()
            return take_over(self.layout.staging, subject, holder)

    def release(self, subject: str) -> int:
        """Fence whoever stages this subject, and keep the bytes for the next; how many were fenced.

        Takes no lock: the holder may be asleep with it.
        """
        with translated(f"releasing {subject!r}"):
            return release(self.layout.staging, subject)

    # Writing

    def publish(self, name: ModelName, manifest: Manifest, staging: Staging, *, still_ours: Callable[[], None]) -> None:
        """Make a model visible: staged blobs, then its manifest. The staging folder is gone afterwards.

        A blob that is published already stays, and its staged copy is dropped; a damaged one is for `replace_blob`.
        A model of this name in any case is replaced where it stands; the one before goes to the trash, with the blobs
        that nobody else needs.

        Raises:
            Fenced: the staging folder was taken over; nothing more is done.
            Corrupt: a blob is neither staged in full nor published any more; trying again fetches it.

        """
        self.prepare()
        with self.exclusive(still_ours), translated(f"publishing {name}"):
            still_ours()
            staging.hold()
            target = self.manifest_path(name)
            needed = [layer for layer in manifest.blobs if self.blob_state(layer) is not BlobState.PRESENT]
            for layer in needed:
                self._require_staged(layer, staging)
            for layer in needed:
                self._move_in(layer, staging)
            flush_folder(self.layout.blobs)
            self.persist()
            still_ours()
            self._require_published(manifest)
            before = self.keep_before(target, manifest)
            self.changed[target] = None
            self._write_manifest(target, manifest, staging)
            self.changed[target] = manifest
            self.persist()
            staging.discard()
            if before is not None:
                self.throw_unneeded(before, needed_too=manifest.blobs)

    def replace_blob(self, layer: Layer, staging: Staging, *, still_ours: Callable[[], None]) -> None:
        """Put the staged copy in the place of a damaged blob, in one step.

        Raises:
            Fenced: the staging folder was taken over.
            Corrupt: the blob is not staged in full.

        """
        self.prepare()
        with self.exclusive(still_ours), translated(f"mending {layer.digest}"):
            still_ours()
            staging.hold()
            self._require_staged(layer, staging)
            self.changed[self.layout.blob(layer.digest)] = None
            self._move_in(layer, staging)
            flush_folder(self.layout.blobs)
            self.persist()

    @contextmanager
    def exclusive(self, still_ours: Callable[[], None]) -> Iterator[None]:
        """Hold the lock. While waiting for it, keep asking whether there is anything to wait for."""
        with translated(f"locking {str(self._lock)!r}"):
            descriptor = self._opened_lock()
        try:
            while not _locked(descriptor):
                still_ours()
                self.clock.wait(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _opened_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self._lock, flags, 0o600)
        except FileNotFoundError:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._lock, flags, 0o600)

    def _require_staged(self, layer: Layer, staging: Staging) -> None:
        if staging.is_settled(layer):
            return
        staging.hold()
        raise Corrupt(
            f"blob {layer.digest} is neither published nor staged in full: it may have been deleted meanwhile",
            hint="trying again fetches it",
        )

    def _require_published(self, manifest: Manifest) -> None:
        """Somebody without our lock (Ollama itself) may have deleted a blob while we were busy."""
        for layer in manifest.blobs:
            if (state := self.blob_state(layer)) is not BlobState.PRESENT:
                raise Corrupt(
                    f"blob {layer.digest} was {state} when all was to be there", hint="trying again fetches it"
                )

    def _move_in(self, layer: Layer, staging: Staging) -> None:
        source = staging.path(layer.digest)
        try:
            _settle_on_disk(source)
            source.rename(self.layout.blob(layer.digest))
        except FileNotFoundError:
            staging.hold()
            raise

    def manifest_path(self, name: ModelName) -> Path:
        target = self.layout.manifest(self.layout.spelling_for(name))
        self.require_inside(target)
        return target

    def require_inside(self, manifest: Path) -> None:
        if not is_inside(manifest.parent, self.layout.manifests):
            raise NotWritable(f"{str(manifest)!r} is behind a link out of the models directory")

    def _write_manifest(self, target: Path, manifest: Manifest, staging: Staging) -> None:
        draft = staging.folder / "manifest"
        try:
            draft.write_bytes(manifest.raw)
            _settle_on_disk(draft)
            self.rename_manifest(draft, target)
        except FileNotFoundError:
            staging.hold()
            raise
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise Refused(
                f"{str(target)!r} cannot be written: {str(error.filename2 or error.filename)!r} stands in its way",
                hint="move that aside; Ollama does not use it",
            ) from error

    def rename_manifest(self, draft: Path, target: Path) -> None:
        """A starting Ollama removes empty folders, also those made a moment ago: then they are made again."""
        for tries_left in (4, 3, 2, 1, 0):
            try:
                draft.rename(target)
                break
            except FileNotFoundError:
                if not tries_left or not draft.exists():
                    raise
                make_folder(target.parent, below=self.layout.manifests)
            except IsADirectoryError:
                if not tries_left or entries(target):
                    raise
                target.rmdir()
        flush_folder(target.parent)

    def keep_before(self, target: Path, manifest: Manifest) -> tuple[Path, Manifest] | None:
        """Copy what `manifest` is about to replace into the trash; its folder with it, or None when none is kept."""
        if not target.is_file():
            return None
        try:
            raw = read_manifest(target)
            before = Manifest.parse(raw)
        except (FileNotFoundError, Corrupt):
            return None
        if raw == manifest.raw:
            return None
        self.require_trash()
        file = ManifestFile(ModelName(*target.relative_to(self.layout.manifests).parts), target)
        return trash.keep_copy(self.layout, file, raw, self.clock.now()), before

    def require_trash(self) -> None:
        """Make the trash's folder, which must be ours like the others."""
        device = self.layout.root.stat().st_dev
        if not _is_plainly_ours(self.layout.trash, device):
            make_folder(self.layout.trash, below=self.layout.root)
            self.require_ours(self.layout.trash, device)

    def throw_unneeded(self, *thrown: tuple[Path, Manifest], needed_too: Iterable[Layer] = ()) -> int:
        """Move to these folders of the trash the blobs of their manifests that no published one needs; their bytes.

        While a published manifest is torn, nobody knows what it refers to, and no blob is moved. What they refer to is
        asked for unless `needed_too`, which are known to be, leave nothing to move.
        """
        kept = {layer.digest for layer in needed_too}
        leaving = [
            (folder, [each for each in manifest.blobs if each.digest not in kept]) for folder, manifest in thrown
        ]
        needed = self.needed() if any(layers for _, layers in leaving) else None
        if needed is None:
            return 0
        moved = [
            layer.size
            for folder, layers in leaving
            for layer in trash.throw_blobs(self.layout, folder, [each for each in layers if each.digest not in needed])
        ]
        if moved:
            self.persist()
        return sum(moved)

    def needed(self) -> frozenset[str] | None:
        """The digests that published manifests refer to; None while one is torn, because then nobody can tell."""
        digests: set[str] = set()
        for _, manifest in self.published():
            if isinstance(manifest, Corrupt):
                return None
            digests.update(layer.digest for layer in manifest.blobs)
        return frozenset(digests)

    def published(self) -> Iterable[PublishedManifest]:
        """What all manifests say; the lock is held."""
        known = self._published()
        return read_manifests(self.layout) if known is None else known

    def drop_empty_folders(self, folder: Path) -> None:
        flush_folder(folder)
        while folder != self.layout.manifests:
            try:
                folder.rmdir()
            except OSError as error:  # another model is there, or just now being published there
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                break
            folder = folder.parent


def _device_of(root: Path) -> int | None:
    stat = stat_file(root)
    return stat.st_dev if stat is not None and modes.S_ISDIR(stat.st_mode) else None


def _is_plainly_ours(folder: Path, device: int) -> bool:
    """Whether it is a folder and no link, on this device, that we may write; else it takes a longer look."""
    stat = stat_file(folder, follow=False)
    is_folder = stat is not None and modes.S_ISDIR(stat.st_mode) and stat.st_dev == device
    return is_folder and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _settle_on_disk(path: Path) -> None:
    """Readable for every user, and on the disk for good, before its name says so. Refuses a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if modes.S_IMODE(os.fstat(descriptor).st_mode) != _READABLE:
            os.fchmod(descriptor, _READABLE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
