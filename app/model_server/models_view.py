"""What Ollama sees of the weights: manifests copied to the container's own disk, blobs a link to the volume; where the
fleet sets something for a model, a link for each blob, beside the small files that say it.

Nearly every request makes Ollama read all manifests, so they are near. It remembers a manifest whose blob it could not
find as broken until it is restarted, so a manifest is copied only when each of its blobs can be read. Nothing is ever
written to the volume.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from app.model_server.manifest_settings import ServedManifest, with_settings
from jobs.core.errors import Corrupt, Trouble
from jobs.core.model_name import ModelName
from jobs.models.model_settings import UNSET, ModelSettings
from jobs.weights import survey
from jobs.weights.layout import Layout, entries
from jobs.weights.manifest import Manifest
from jobs.weights.survey import SurveyedModel


@dataclass(frozen=True)
class Changes:
    """What a copy did; `withheld` says why a model on the volume is not served."""

    brought: tuple[ModelName, ...]
    dropped: tuple[ModelName, ...]
    withheld: tuple[tuple[ModelName, str], ...]


class ModelsView:
    """The models directory of one container.

    Args:
        volume: where the weights are mounted; may be empty, and need not be writable.
        root: a directory on local disk, for `OLLAMA_MODELS`.
        settings: what is set for models, by their names in small letters.

    """

    def __init__(self, volume: Path, root: Path, settings: Mapping[ModelName, ModelSettings] | None = None) -> None:
        self.layout = Layout(root)
        self._volume = Layout(volume)
        self._settings = settings or {}
        #: The digests of models as they were published, by those that the server tells. Replaced by whoever copies,
        #: read by whoever reports.
        self._published: Mapping[str, str] = {}

    def names(self) -> list[ModelName]:
        return [file.name for file in self.layout.manifest_files()]

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

    def copy(self) -> Changes:
        """Make the view show what is whole on the volume, and nothing else. Nobody may be using it meanwhile."""
        self.layout.manifests.mkdir(parents=True, exist_ok=True)
        whole: dict[ModelName, Manifest] = {}
        withheld: list[tuple[ModelName, str]] = []
        for each in survey.read_models(self._volume):
            why = _unreadable(self._volume, each) if isinstance(each, SurveyedModel) else each.cause
            if isinstance(each, SurveyedModel) and not why:
                whole[each.name] = each.manifest
            else:
                withheld.append((each.name, why))
        served = {name: self._served(name, manifest) for name, manifest in whole.items()}
        self._published = {_digest(served[name].raw): manifest.digest for name, manifest in whole.items()}
        stale = self._link_each(served.values()) if self._settings else self._link_all()
        dropped = tuple(name for name in self.names() if name not in whole)
        for name in dropped:
            self._drop(name)
        brought = tuple(name for name, each in sorted(served.items()) if self._copy_manifest(name, each.raw))
        for path in stale:
            path.unlink()
        changes = Changes(brought, dropped, tuple(withheld))
        self._log_changes(changes)
        return changes

    def _served(self, name: ModelName, manifest: Manifest) -> ServedManifest:
        """The manifest with what is set for the model; as it is, where that cannot be put in."""
        settings = self._settings.get(name.folded(), UNSET)
        try:
            return with_settings(manifest, settings, lambda layer: self._volume.blob(layer.digest).read_bytes())
        except Corrupt as trouble:
            logger.warning("what is set for {} has no effect: {}", name, trouble)
            return ServedManifest(manifest.raw, {})

    def _link_each(self, served: Iterable[ServedManifest]) -> list[Path]:
        """Have each blob that is wanted, as a link or a file of our own; returns those that no model wants any more."""
        blobs = self.layout.blobs
        blobs.mkdir(exist_ok=True)
        wanted: set[str] = set()
        for each in served:
            for layer in Manifest.parse(each.raw).blobs:
                wanted.add(layer.filename)
                path = blobs / layer.filename
                content = each.own_blobs.get(layer.filename)
                if content is None and not path.is_symlink():
                    path.unlink(missing_ok=True)
                    path.symlink_to(self._volume.blob(layer.digest))
                elif content is not None:
                    path.unlink(missing_ok=True)  # never through a link: that would write to the volume
                    path.write_bytes(content)
        return [path for path in blobs.iterdir() if path.name not in wanted]

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
        target = self.layout.manifest(name)
        if target.is_file() and target.read_bytes() == raw:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = self.layout.root / "draft"
        draft.write_bytes(raw)
        draft.replace(target)
        return True

    def _drop(self, name: ModelName) -> None:
        path = self.layout.manifest(name)
        path.unlink(missing_ok=True)
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
