"""What Ollama sees of the weights: manifests copied to the container's own disk, blobs a link to the volume.

Nearly every request makes Ollama read all manifests, so they are near. It remembers a manifest whose blob it could not
find as broken until it is restarted, so a manifest is copied only when each of its blobs can be read. Nothing is ever
written to the volume.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from jobs.core.errors import Trouble
from jobs.core.model_name import ModelName
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

    """

    def __init__(self, volume: Path, root: Path) -> None:
        self.layout = Layout(root)
        self._volume = Layout(volume)

    def names(self) -> list[ModelName]:
        return [file.name for file in self.layout.manifest_files()]

    def blobs(self, name: str) -> frozenset[str]:
        """The file names of a served model's blobs; none for one that is not served, or no longer."""
        try:
            manifest = Manifest.parse(self.layout.manifest(ModelName.parse(name)).read_bytes())
        except (OSError, Trouble):
            return frozenset()
        return frozenset(layer.filename for layer in manifest.blobs)

    def copy(self) -> Changes:
        """Make the view show what is whole on the volume, and nothing else. Nobody may be using it meanwhile."""
        self.layout.manifests.mkdir(parents=True, exist_ok=True)
        self._link_blobs()
        whole: dict[ModelName, bytes] = {}
        withheld: list[tuple[ModelName, str]] = []
        for each in survey.read_models(self._volume):
            why = _unreadable(self._volume, each) if isinstance(each, SurveyedModel) else each.cause
            if isinstance(each, SurveyedModel) and not why:
                whole[each.name] = each.manifest.raw
            else:
                withheld.append((each.name, why))
        dropped = tuple(name for name in self.names() if name not in whole)
        for name in dropped:
            self._drop(name)
        brought = tuple(name for name, raw in sorted(whole.items()) if self._copy_manifest(name, raw))
        changes = Changes(brought, dropped, tuple(withheld))
        self._log_changes(changes)
        return changes

    def _link_blobs(self) -> None:
        """Link to the volume's blobs. While an empty volume has none, a folder stands there: Ollama insists on one."""
        blobs = self.layout.blobs
        if not self._volume.blobs.is_dir():
            if blobs.is_symlink():
                blobs.unlink()
            blobs.mkdir(exist_ok=True)
        elif not blobs.is_symlink():
            shutil.rmtree(blobs, ignore_errors=True)
            blobs.symlink_to(self._volume.blobs, target_is_directory=True)

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
