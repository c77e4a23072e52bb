"""What Ollama sees of the weights: manifests copied to the container's own disk, blobs a link to the volume; where the
fleet sets something for a model, a link for each blob, beside the small files that say it.

Nearly every request makes Ollama read all manifests, so they are near. It remembers a manifest whose blob it could not
find as broken until it is restarted, so a manifest is copied only when each of its blobs is there: those that the index
of this generation calls whole are vouched for by who published them, and of any other each blob is read. Nothing is
ever written to the volume.
"""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from app.model_server.manifest_settings import ServedManifest, with_settings
from jobs.core.errors import Corrupt, Trouble
from jobs.core.model_name import ModelName
from jobs.models import index
from jobs.models.index import Index
from jobs.models.model_settings import UNSET, ModelSettings
from jobs.weights import survey
from jobs.weights.layout import Layout, ManifestFile, entries
from jobs.weights.manifest import Manifest
from jobs.weights.survey import Broken, SurveyedModel

Withheld = tuple[tuple[ModelName, str], ...]
"""The models on the volume that are not served, and why."""


@dataclass(frozen=True)
class Changes:
    """What a copy did."""

    brought: tuple[ModelName, ...]
    dropped: tuple[ModelName, ...]
    withheld: Withheld


class ModelsView:
    """The models directory of one container.

    Args:
        volume: where the weights are mounted; may be empty, and need not be writable.
        root: a directory on local disk, for `OLLAMA_MODELS`.
        settings: what is set for models, by their names in small letters.

    """

    def __init__(self, volume: Path, root: Path, settings: Mapping[ModelName, ModelSettings] | None = None) -> None:
        self.layout = Layout(root)
        #: Where the manifests of the first copy are gathered.
        self._first = Layout(root / "first")
        #: Where a file that is to appear in one step is written; never a link.
        self._draft = root / "draft"
        self._volume = Layout(volume)
        self._settings = settings or {}
        #: The file names of the blobs that were written here, no links. Used by whoever copies.
        self._own: set[str] = set()
        #: The manifests on the container's disk: of a name that is here without content nothing is known. Written by
        #: whoever copies, one name at a time; read by whoever reports.
        self._shown: dict[ModelName, bytes] = dict.fromkeys((file.name for file in self.layout.manifest_files()), b"")
        #: What each model was made into last, and from which digest. Used by whoever copies.
        self._made: dict[ModelName, tuple[str, ServedManifest]] = {}
        #: Whether a server may be using the view: one is started when it was copied, here or by an earlier process.
        #: Used by whoever copies.
        self._may_be_used = bool(self._shown)
        #: The digests of models as they were published, by those that the server tells. Replaced by whoever copies,
        #: read by whoever reports.
        self._published: Mapping[str, str] = {}

    def names(self) -> list[ModelName]:
        return list(self._shown)

    def blobs(self, name: str) -> frozenset[str]:
        """The file names of a served model's blobs; none for one that is not served, or no longer."""
        try:
            manifest = Manifest.parse(self.layout.manifest(ModelName.parse(name)).read_bytes())
        except (OSError, Trouble):
            return frozenset()
        return frozenset(layer.filename for layer in manifest.blobs)

    def published_digest(self, served: str) -> str:
        """The digest of a model as it was published, by the one that the server tells."""
        return self._published.get(served, served)

    def current(self, generation: object) -> Index | None:
        """The index, where the volume shows this generation in whole as it is; None where it has to be reloaded."""
        found = index.read(self._volume, generation)
        if found is None or found.broken:
            return None
        here = {entry.name for entry in entries(self._volume.blobs)}
        blobs = (layer.filename for manifest in found.whole.values() for layer in manifest.blobs)
        return found if here.issuperset(blobs) else None

    def copy(self, generation: object = None, found: Index | None = None) -> Changes:
        """Make the view show what is whole on the volume, and nothing else. Nobody may be using it meanwhile; but for
        the first time the engine may have started, and finds all of it or nothing.

        Args:
            generation: that is wanted; the index says what is whole, and without one of that generation all is looked
                through.
            found: that index, where it has just been read.

        """
        self.layout.manifests.mkdir(parents=True, exist_ok=True)
        if self._shown and not self._may_be_used:  # the first copy was broken off
            shutil.rmtree(self._first.root, ignore_errors=True)
            self._shown.clear()
        found = found or index.read(self._volume, generation)
        whole, withheld = self._looked_through() if found is None else self._indexed(found)
        served = {name: self._served(name, manifest) for name, manifest in whole.items()}
        self._made = {name: (whole[name].digest, each) for name, each in served.items()}
        self._published = {_digest(served[name].raw): manifest.digest for name, manifest in whole.items()}
        changed = [name for name, each in sorted(served.items()) if self._shown.get(name) != each.raw]
        stale = self._link_each(served, changed) if self._settings else self._link_all()
        dropped = tuple(name for name in self.names() if name not in whole)
        for name in dropped:
            self._drop(name)
        brought = tuple(name for name in changed if self._copy_manifest(name, served[name].raw))
        for path in stale:
            path.unlink()
        if brought and not self._may_be_used:
            self._first.manifests.rename(self.layout.manifests)
            self._first.root.rmdir()
        self._may_be_used = True
        changes = Changes(brought, dropped, withheld)
        self._log_changes(changes)
        return changes

    def _looked_through(self) -> tuple[dict[ModelName, Manifest], Withheld]:
        return _told_apart(self._volume, survey.read_models(self._volume))

    def _indexed(self, found: Index) -> tuple[dict[ModelName, Manifest], Withheld]:
        """What the index calls whole and has its blobs' names in the listing; all else is looked at itself."""
        here = {entry.name for entry in entries(self._volume.blobs)}
        sure = {name: each for name, each in found.whole.items() if all(layer.filename in here for layer in each.blobs)}
        doubtful = sorted((set(found.whole) | found.broken) - set(sure))
        files = [ManifestFile(name, self._volume.manifest(name)) for name in doubtful]
        known = (survey.read_model(self._volume, file) for file in files)
        whole, withheld = _told_apart(self._volume, (each for each in known if each is not None))
        return sure | whole, withheld

    def _served(self, name: ModelName, manifest: Manifest) -> ServedManifest:
        """The manifest with what is set for the model; as it is, where that cannot be put in."""
        digest, made = self._made.get(name, ("", None))
        if made is not None and digest == manifest.digest:
            return made
        settings = self._settings.get(name.folded(), UNSET)
        try:
            return with_settings(manifest, settings, lambda layer: self._volume.blob(layer.digest).read_bytes())
        except Corrupt as trouble:
            logger.warning("what is set for {} has no effect: {}", name, trouble)
            return ServedManifest(manifest.raw, {})

    def _link_each(self, served: Mapping[ModelName, ServedManifest], changed: Collection[ModelName]) -> list[Path]:
        """Have each blob that is wanted, as a link or a file of our own; returns those that no model wants any more.

        One that a server has fetched by itself is there all the while: its manifest is, too.
        """
        blobs = self.layout.blobs
        blobs.mkdir(exist_ok=True)
        wanted: set[str] = set()
        new = set(changed)
        link = self.layout.root / "link"
        link.unlink(missing_ok=True)  # of one who was killed
        for name, each in served.items():
            layers = Manifest.parse(each.raw).blobs
            wanted.update(layer.filename for layer in layers)
            for layer in layers if name in new else ():
                path = blobs / layer.filename
                content = each.own_blobs.get(layer.filename)
                if content is None and not path.is_symlink():
                    link.symlink_to(self._volume.blob(layer.digest))
                    link.replace(path)
                elif content is not None:
                    self._draft.write_bytes(content)
                    self._draft.replace(path)  # never through a link: that would write to the volume
                    self._own.add(path.name)
        # A server may be at fetching something by itself: what nobody here has written is left alone.
        return [
            path
            for path in blobs.iterdir()
            if path.name not in wanted and (path.is_symlink() or path.name in self._own)
        ]

    def _link_all(self) -> list[Path]:
        """Link to the volume's blobs. While an empty volume has none, a folder stands there: Ollama insists on one."""
        blobs = self.layout.blobs
        if not self._volume.blobs.is_dir():
            if blobs.is_symlink():
                blobs.unlink()
            blobs.mkdir(exist_ok=True)
        elif not blobs.is_symlink():
            shutil.rmtree(blobs, ignore_errors=True)
            blobs.symlink_to(self._volume.blobs, target_is_directory=True)
        return []

    def _copy_manifest(self, name: ModelName, raw: bytes) -> bool:
        """Whether it had to be copied; one that an earlier container left may be the same."""
        target = self.layout.manifest(name)
        is_known = self._shown.get(name) == b"" and target.is_file() and target.read_bytes() == raw
        if not is_known:
            self._shown[name] = b""
            # Half a one must not be seen; those of the first copy come all at once.
            if self._may_be_used:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._draft.write_bytes(raw)
                self._draft.replace(target)
            else:
                first = self._first.manifest(name)
                first.parent.mkdir(parents=True, exist_ok=True)
                first.write_bytes(raw)
        self._shown[name] = raw
        return not is_known

    def _drop(self, name: ModelName) -> None:
        path = self.layout.manifest(name)
        path.unlink(missing_ok=True)
        self._shown.pop(name, None)
        for folder in path.parents:
            if folder == self.layout.manifests or entries(folder):
                break
            folder.rmdir()

    def _log_changes(self, changes: Changes) -> None:
        for name in changes.brought:
            logger.info("now served: {}", name)
        for name in changes.dropped:
            logger.info("no longer served: {}", name)
        for name, why in changes.withheld:
            logger.warning("not served: {}: {}", name, why)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _told_apart(layout: Layout, known: Iterable[SurveyedModel | Broken]) -> tuple[dict[ModelName, Manifest], Withheld]:
    """The models whose blobs can all be read, and the others with the reason."""
    whole: dict[ModelName, Manifest] = {}
    withheld: list[tuple[ModelName, str]] = []
    for each in known:
        why = _unreadable(layout, each) if isinstance(each, SurveyedModel) else each.cause
        if isinstance(each, SurveyedModel) and not why:
            whole[each.name] = each.manifest
        else:
            withheld.append((each.name, why))
    return whole, tuple(withheld)


def _unreadable(layout: Layout, model: SurveyedModel) -> str:
    """Why one of the model's blobs cannot be read, though it is listed with the right size; empty when all can."""
    for layer in model.manifest.blobs:
        try:
            descriptor = os.open(layout.blob(layer.digest), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.read(descriptor, 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"blob {layer.digest} cannot be read: {error.strerror}"
    return ""
