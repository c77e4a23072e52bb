"""Deletes a model for good: its manifest first, then the blobs that no manifest refers to."""

from collections.abc import Callable
from dataclasses import dataclass

from jobs.core.errors import Corrupt, NotFound
from jobs.core.model_name import ModelName
from jobs.core.units import counted
from jobs.store.files import flush_folder, translated
from jobs.weights import trash
from jobs.weights.directory import ModelsDirectory
from jobs.weights.layout import ManifestFile
from jobs.weights.manifest import Layer
from jobs.weights.survey import read_model


@dataclass(frozen=True)
class Removed:
    """What a removal did: the blobs that went, those that others still need, and why any were kept beyond that."""

    name: ModelName
    deleted: tuple[Layer, ...]
    kept: tuple[Layer, ...]
    note: str = ""

    @property
    def freed_bytes(self) -> int:
        return sum(layer.size for layer in self.deleted)


def remove(weights: ModelsDirectory, name: ModelName, *, still_ours: Callable[[], None]) -> Removed:
    """Delete a model, whole or broken: its manifest first, then the blobs that no manifest refers to.

    A blob that a model in the trash needs joins that one. While any other manifest is torn, nobody knows what it
    refers to, and no blob is deleted.

    Raises:
        NotFound: there is no manifest of this name in any case.

    """
    if not weights.layout.manifests.is_dir():
        raise NotFound(f"model {str(name)!r} is not here")
    weights.prepare()
    with weights.exclusive(still_ours), translated(f"removing {name}"):
        still_ours()
        file, blobs = _manifest_of(weights, name)
        weights.require_inside(file.path)
        weights.changed[file.path] = None
        file.path.unlink(missing_ok=True)
        weights.drop_empty_folders(file.path.parent)
        weights.persist()
        still_ours()
        removed = _delete_unreferenced(weights, file.name, blobs)
        weights.persist()
        return removed


def _manifest_of(weights: ModelsDirectory, name: ModelName) -> tuple[ManifestFile, tuple[Layer, ...]]:
    """The model's manifest, and the blobs that it refers to; none when it is torn."""
    for file in weights.files_of(name):
        model = read_model(weights.layout, file)
        if model is not None:
            return file, () if model.manifest is None else model.manifest.blobs
    raise NotFound(f"model {str(name)!r} is not here")


def _delete_unreferenced(weights: ModelsDirectory, name: ModelName, blobs: tuple[Layer, ...]) -> Removed:
    layout = weights.layout
    needed: set[str] = set()
    for file, manifest in weights.published():
        if isinstance(manifest, Corrupt):
            note = f"no blob was deleted, because the manifest of {file.name} is torn: {manifest}"
            return Removed(name, (), blobs, note)
        needed.update(layer.digest for layer in manifest.blobs)
    free = [layer for layer in blobs if layer.digest not in needed]
    wanted = {digest: each for each in trash.folders(layout) for digest in each.wanted} if free else {}
    heirs = {layer.digest: wanted[layer.digest] for layer in free if layer.digest in wanted}
    for digest, folder in heirs.items():
        trash.move(layout.blob(digest), folder.layout.blob(digest), below=layout.root)
    deleted = tuple(layer for layer in free if layer.digest not in heirs and _delete_blob(weights, layer))
    flush_folder(layout.blobs)
    kept = tuple(layer for layer in blobs if layer.digest in needed or layer.digest in heirs)
    lie, need = counted(len(heirs), "blob lies", "blobs lie"), "it" if len(heirs) == 1 else "them"
    note = f"{lie} in the trash now, because an earlier model there needs {need}" if heirs else ""
    return Removed(name, deleted, kept, note)


def _delete_blob(weights: ModelsDirectory, layer: Layer) -> bool:
    try:
        weights.layout.blob(layer.digest).unlink()
    except FileNotFoundError:
        return False
    return True
